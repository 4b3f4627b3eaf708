"""`cdds artifacts verify`: proves offline that files are complete, unaltered, and from whom they say."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from cli.artifacts.chain import Finding, Link, Severity, chain_findings, coverage_findings, interval_text
from cli.artifacts.decrypt import Certificate, Key, PassphraseFile
from cli.artifacts.failures import one_line
from cli.artifacts.inspection import Inspected, Signatures, inspect, link, strangers
from cli.artifacts.manifests import KEYS_NAME, MANIFEST_SUFFIX, in_folder
from cli.artifacts.opening import load_identity
from cli.console import Exit, Failure, Output, OutputOption, out, print_json, print_table, progress

_MARKS: Final = {
    Severity.FAILED: "[bold red]✗[/]",
    Severity.WARNING: "[bold yellow]![/]",
    Severity.NOTE: "[dim]·[/]",
}


def verify(
    paths: Annotated[list[Path], typer.Argument(help="Folders of fetched files, or manifests.")],
    keys: Annotated[
        Path | None,
        typer.Option("--keys", help=f"Signing keys: {KEYS_NAME} or PEM; {KEYS_NAME} beside the files otherwise."),
    ] = None,
    key: Key = None,
    certificate: Certificate = None,
    passphrase_file: PassphraseFile = None,
    manifests_only: Annotated[
        bool, typer.Option("--manifests-only", help="Signatures and chain, without the parts and schemas.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Gaps, overlaps and other warnings fail, too.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Prove that files are complete and unaltered, without asking anybody.

    Checks each manifest's signature, that every part and schema is there with its size and SHA-256, that no manifest
    of a job is missing between two others, and whether the data intervals of the schedule have gaps. With --key the
    parts are also decrypted, in memory, and their rows counted. Exits with 3 when anything is missing or altered; gaps
    and overlaps are warnings, because a changed schedule may intend them.

        cdds artifacts verify exports/ --key key.pem
    """
    with one_line():
        identity = None if key is None else load_identity(key, certificate, passphrase_file)
        folders, found = _manifests(paths)
        signatures = Signatures(keys)
        total = sum(path.stat().st_size for folder in {path.parent for path in found} for path in folder.glob("*.zip*"))
        with progress("Verifying", total * (1 if identity is None else 2)) as advance:
            inspected = [
                inspect(path, signatures, identity, manifest_only=manifests_only, advance=advance) for path in found
            ]
        alien = [] if manifests_only else [one for folder in folders for one in strangers(folder, inspected)]
    if not inspected and not alien:
        raise Failure("there are no manifests (export-….manifest.json): name a folder that `fetch` filled")
    jobs = _jobs(inspected)
    everything = [
        *(finding for one in inspected for finding in one.findings), *alien,
        *(finding for _, findings in jobs.values() for finding in findings),
    ]  # fmt: skip
    failed = _count(everything, Severity.FAILED)
    warned = _count(everything, Severity.WARNING)
    bad = failed + (warned if strict else 0)
    if output is Output.JSON:
        print_json(_document(inspected, jobs, alien, ok=not bad))
    else:
        _print(inspected, jobs, alien)
    if bad:
        raise Failure(f"verification failed: {bad} problem(s) in {len(inspected)} run(s)", Exit.VERIFICATION)


Jobs = Mapping[str, tuple[Sequence[Link], Sequence[Finding]]]
"""The runs of each job, oldest first, and what they say together."""


def _manifests(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The folders among the paths, and all manifests, each once."""
    folders = [path for path in paths if path.is_dir()]
    found = [path for folder in folders for path in in_folder(folder, (MANIFEST_SUFFIX,))]
    for path in paths:
        if path not in folders:
            if not path.name.endswith(MANIFEST_SUFFIX):
                raise Failure(f"{path} is no folder and no manifest (….manifest.json): name one of those")
            found.append(path)
    return folders, list({path.resolve(): path for path in found}.values())


def _jobs(inspected: Iterable[Inspected]) -> Jobs:
    links: dict[str, list[Link]] = defaultdict(list)
    for one in inspected:
        if (known := link(one)) is not None and one.signed is not None:
            links[str(one.signed.manifest.job)].append(known)
    return {
        job: (
            sorted(runs, key=lambda run: run.created_at),
            [*chain_findings(runs), *coverage_findings(runs)],
        )
        for job, runs in sorted(links.items())
    }


def _count(findings: Iterable[Finding], severity: Severity) -> int:
    return sum(finding.severity is severity for finding in findings)


def _print(inspected: Sequence[Inspected], jobs: Jobs, alien: Sequence[Finding]) -> None:
    print_table("", "Run", "Why", "Data interval", "Parts", "Rows", rows=[_row(one) for one in inspected])
    for one in inspected:
        _print_findings(one.findings)
    _print_findings(alien)
    for job, (runs, findings) in jobs.items():
        out.print(f"\nJob {job}: {len(runs)} run(s)", highlight=False)
        _print_findings(findings)
        if not any(finding.severity is not Severity.NOTE for finding in findings):
            out.print("[bold green]✓[/] an unbroken chain; no gap and no overlap", highlight=False)


def _row(one: Inspected) -> list[str]:
    mark = _MARKS[Severity.FAILED] if one.failed else "[bold green]✓[/]"
    known = link(one)
    if one.signed is None or known is None:
        return [mark, escape(one.path.name)]
    manifest = one.signed.manifest
    interval = interval_text(known.start, known.end)
    return [mark, known.run, known.trigger, escape(interval), str(len(manifest.parts)), f"{manifest.rows:,}"]


def _print_findings(findings: Iterable[Finding]) -> None:
    for finding in findings:
        out.print(
            f"{_MARKS[finding.severity]} {escape(finding.subject)}: {escape(finding.message)}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


def _document(inspected: Sequence[Inspected], jobs: Jobs, alien: Sequence[Finding], *, ok: bool) -> dict[str, Any]:
    return {
        "ok": ok,
        "manifests": [_manifest_document(one) for one in inspected],
        "files": [_finding_document(finding) for finding in alien],
        "jobs": [
            {
                "job": job,
                "runs": [
                    {"run": run.run, "trigger": run.trigger, "slot_key": run.slot_key, "from": run.start, "to": run.end}
                    for run in runs
                ],
                "findings": [_finding_document(finding) for finding in findings],
            }
            for job, (runs, findings) in jobs.items()
        ],
    }


def _manifest_document(one: Inspected) -> dict[str, Any]:
    document: dict[str, Any] = {
        "file": str(one.path),
        "ok": not one.failed,
        "findings": [_finding_document(finding) for finding in one.findings],
    }
    if one.signed is not None:
        manifest = one.signed.manifest
        document |= {
            "run": str(manifest.run), "job": str(manifest.job), "slot_key": manifest.slot_key,
            "sha256": one.signed.sha256, "parts": len(manifest.parts), "rows": manifest.rows,
        }  # fmt: skip
    return document


def _finding_document(finding: Finding) -> dict[str, str]:
    return {"severity": finding.severity, "subject": finding.subject, "message": finding.message}
