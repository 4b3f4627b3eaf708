"""`cdds doctor`: run the checks, print what they found, and say by the exit code whether all is well."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from cli.broker import be_quiet
from cli.console import Exit, Failure, Output, OutputOption, err, out, print_json
from cli.dead_letters.inert import inert
from cli.doctor import broker, configuration, objects, services, sources
from cli.doctor import postgres as database
from cli.doctor.checking import bounded, redacted, secrets_of
from cli.doctor.findings import Finding, Status
from cli.installation import DataOption, Installation, KafkaOption
from deploy.local.stack import SERVICES

COLOURS: Final = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "bold red"}
AREA_SECONDS: Final = 40
"""For all checks of an area together; a check has less."""


def doctor(
    data: DataOption = None,
    postgres: Annotated[
        str | None, typer.Option("--postgres", help="DSN that is used instead of those of the settings.")
    ] = None,
    kafka: KafkaOption = None,
    service: Annotated[
        list[str] | None, typer.Option("--service", metavar="NAME=URL", help="Where a service answers; repeat it.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Check everything that CDDS needs, and say what to do about what is wrong.

    Exit code 0 when nothing has failed, 1 when something has, 4 when nothing answers.
    """
    be_quiet()
    urls = dict(_address(text) for text in service or ())
    installation = Installation.find(data, postgres, kafka, urls)
    if not installation.configured and not (postgres or installation.bootstrap or urls):
        where = "no stack is running here" if data is None else f"no stack is running on {data}"
        raise Failure(
            f"{where} and no CDDS_… settings are in the environment: start one, or give --postgres, --kafka, --service",
            Exit.UNREACHABLE,
        )
    with err.status("looking …"):
        found = asyncio.run(diagnose(installation))
    if output == Output.JSON:
        print_json({"ok": not _any(found, Status.FAILED), "findings": [_described(finding) for finding in found]})
    else:
        _print(found)
    if code := exit_code(found):
        raise typer.Exit(code)


async def diagnose(installation: Installation) -> list[Finding]:
    """Everything the checks find, in the order of the areas; never raises, never takes much longer than a check may."""
    with installation.in_environment():
        settings = configuration.read(installation)
        areas = (
            _configuration(installation, settings),
            database.check(installation),
            broker.check(installation, settings),
            services.check(installation),
            sources.check(installation, settings),
            objects.check(settings),
        )
        names = ("configuration", "postgresql", "kafka", "services", "sources", "object store")
        found = await asyncio.gather(
            *(bounded(name, "checks", area, AREA_SECONDS) for name, area in zip(names, areas, strict=True))
        )
        secrets = secrets_of(installation.environment, installation.postgres)
    return [
        replace(finding, message=redacted(finding.message, secrets), remedy=redacted(finding.remedy, secrets))
        for findings in found
        for finding in findings
    ]


def exit_code(found: Sequence[Finding]) -> int:
    """0 when nothing has failed, 4 when none of the servers that were asked answers, 1 otherwise."""
    asked = [finding.reached for finding in found if finding.reached is not None]
    if asked and not any(asked):
        return Exit.UNREACHABLE
    return Exit.FAILED if _any(found, Status.FAILED) else 0


async def _configuration(installation: Installation, settings: configuration.Read) -> Iterable[Finding]:
    return list(configuration.check(installation, settings))


def _address(text: str) -> tuple[str, str]:
    name, _, url = text.partition("=")
    if name not in SERVICES or not re.match(r"https?://[^/]", url):
        raise Failure(f"--service {text!r}: write NAME=URL, where NAME is one of {', '.join(SERVICES)}")
    return name, url


def _any(found: Sequence[Finding], status: Status) -> bool:
    return any(finding.status == status for finding in found)


def _described(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "about": finding.about,
        "status": finding.status,
        "message": finding.message,
        "remedy": finding.remedy or None,
    }


def _print(found: Sequence[Finding]) -> None:
    width = max((len(finding.check) for finding in found), default=0)
    for finding in found:
        colour = COLOURS[finding.status]
        text = escape(inert(f"{finding.about}: {finding.message}"))
        out.print(f"[{colour}]{finding.status:7}[/] {finding.check:{width}}  {text}", highlight=False, soft_wrap=True)
        if finding.remedy and finding.status != Status.OK:
            out.print(f"{'':7} {'':{width}}  → {escape(inert(finding.remedy))}", highlight=False, soft_wrap=True)
    counts = Counter(finding.status for finding in found)
    out.print(
        f"\n{counts[Status.OK]} ok, {counts[Status.WARNING]} warnings, {counts[Status.FAILED]} failed.",
        highlight=False,
    )
