"""`cdds apply` and `cdds export`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer

from cli import documents, settings
from cli.apply import wanted
from cli.apply.carrying_out import Done, Outcome, carry_out, check
from cli.apply.planning import ABSENT, Change, Difference, Step, plan
from cli.client import Client, Document
from cli.connection import Connection, connected
from cli.console import Exit, Failure, Output, OutputOption, confirm, err, out, print_json, say, shown
from cli.documents import FilesRefused
from cli.jobs.naming import find_job

_SIGNS: Final = {
    Change.CREATE: "[green]+[/]", Change.CHANGE: "[yellow]~[/]", Change.DELETE: "[red]-[/]",
    Change.KEPT: "[bold yellow]![/]",
}  # fmt: skip
_SHOWN: Final = 100
"""Characters of a value."""


@connected
def apply(
    connection: Connection,
    files: Annotated[
        list[Path],
        typer.Option("--file", "-f", help="A file, a folder of .yaml, .yml and .json files, or - for standard input."),
    ],
    plan_only: Annotated[bool, typer.Option("--plan", help="Only show what would be done.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete jobs that have a key and are in none of the files; asks first.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create and change jobs until the service has those of the files.

    A file has `jobs:` and under it a list of jobs, each as `cdds jobs show --settings` writes it, with a `key` that
    says which job it is. Nothing is done when a job in any file can't be accepted. Applying files again changes
    nothing, and finishes what was interrupted.
    """
    with connection.open("viewer" if plan_only else "admin") as client:
        try:
            steps = _planned(client, files, prune=prune)
        except FilesRefused as refused:
            if output is Output.JSON:
                print_json({"errors": [fault.document() for fault in refused.faults]})
            raise Failure(f"{refused}\nNothing was applied.") from refused
        if output is Output.TABLE:
            _print_plan(steps)
        done: list[Done] = []
        if not plan_only:
            if gone := [step.key for step in steps if step.change is Change.DELETE]:
                confirm(f"Delete {len(gone)} job(s): {', '.join(gone)}?", yes=yes)
            done = _carried_out(client, steps, output)
    if output is Output.JSON:
        print_json(_document(steps, done, planned=plan_only))
    elif not plan_only:
        _print_sum(steps, done)
    if any(step.change is Change.KEPT for step in steps) or any(one.outcome is Outcome.FAILED for one in done):
        raise typer.Exit(Exit.FAILED)


class Form(StrEnum):
    """Of a file of jobs."""

    YAML = "yaml"
    JSON = "json"


@connected
def export(
    connection: Connection,
    form: Annotated[Form, typer.Option("--output", "-o", help="The form of the file.")] = Form.YAML,
    jobs: Annotated[
        list[str] | None, typer.Option("--job", help="Only this job, by id, key or title; may be given several times.")
    ] = None,
) -> None:
    """Write the jobs that have keys as a file for `cdds apply`, which changes nothing then."""
    with connection.open("viewer") as client:
        if jobs:
            found = [find_job(client, name) for name in jobs]
            keyless = [job["id"] for job in found if job["settings"]["key"] is None]
            if keyless:
                raise Failure(f"{', '.join(keyless)} has no key: give it one with `cdds jobs edit … --set key=NAME`")
        else:
            found = list(client.items("/jobs", sort="created_at"))
            keyless = [job["id"] for job in found if job["settings"]["key"] is None]
    keyed = {job["settings"]["key"]: settings.of(job) for job in found if job["settings"]["key"] is not None}
    written = {"jobs": [settings.needed(keyed[key]) for key in sorted(keyed)]}
    if form is Form.JSON:
        print_json(written)
    else:
        typer.echo(documents.write(written), nl=False)
    if keyless:
        err.print(
            f"{len(keyless)} job(s) without a key are left out: give them one with `cdds jobs edit … --set key=NAME`.",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


def _planned(client: Client, files: Sequence[Path], *, prune: bool) -> list[Step]:
    """The steps, each of which the service would accept. Raises FilesRefused."""
    jobs = wanted.read(files)
    steps = plan(jobs, client.items("/jobs", sort="created_at"), prune=prune)
    with err.status(f"{len(steps):,} jobs are checked …"):
        check(client, steps)
    return steps


def _carried_out(client: Client, steps: Sequence[Step], output: Output) -> list[Done]:
    total = sum(step.change not in (Change.UNCHANGED, Change.KEPT) for step in steps)
    ended = 0
    with err.status("") as status:

        def told(one: Done) -> None:
            nonlocal ended
            ended += 1
            status.update(f"{ended:,} of {total:,} changes …")
            if output is Output.TABLE and one.message:
                failed = "[bold red]failed[/]" if one.outcome is Outcome.FAILED else str(one.outcome)
                say(f"  {shown(one.step.key)}: {failed}: {shown(one.message)}")

        return carry_out(client, steps, told)


def _print_plan(steps: Sequence[Step]) -> None:
    for step in steps:
        if step.change is not Change.UNCHANGED:
            say(f"{_SIGNS[step.change]} [bold]{shown(step.key)}[/]  {shown(step.title)}")
        if step.change in (Change.CHANGE, Change.KEPT):
            for one in step.differences:
                say(f"    {shown(one.name)}: {_value(one.old)} → {_value(one.new)}")
        if step.reason:
            say(f"    not done: {step.reason}")
    counts = Counter(step.change for step in steps)
    parts = [
        f"{counts[change]} {text}"
        for change, text in (
            (Change.CREATE, "to create"), (Change.CHANGE, "to change"), (Change.DELETE, "to delete"),
            (Change.KEPT, "that can't be changed"), (Change.UNCHANGED, "unchanged"),
        )
        if counts[change] or change is Change.UNCHANGED
    ]  # fmt: skip
    say(f"{', '.join(parts)}.")


def _print_sum(steps: Sequence[Step], done: Sequence[Done]) -> None:
    counts = Counter(one.outcome for one in done)
    counts[Outcome.UNCHANGED] += sum(step.change is Change.UNCHANGED for step in steps)
    parts = [f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome]]
    out.print(f"[bold]{', '.join(parts) or 'nothing to do'}[/].", highlight=False)


def _value(value: Any) -> str:
    if value is ABSENT:
        return "—"
    text = orjson.dumps(value).decode()
    return shown(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _document(steps: Sequence[Step], done: Sequence[Done], *, planned: bool) -> Document:
    """Plan and outcome for programs."""
    ended = {one.step.key: one for one in done}
    jobs = [_job(step, None if planned else ended.get(step.key)) for step in steps]
    return {"planned": planned, "jobs": jobs, "counts": Counter(str(job["outcome"] or job["change"]) for job in jobs)}


def _job(step: Step, done: Done | None) -> Mapping[str, Any]:
    job_id = done.job_id if done is not None else None
    return {
        "key": step.key, "title": step.title, "id": job_id or (step.job["id"] if step.job is not None else None),
        "change": step.change, "differences": [_difference(one) for one in step.differences],
        "outcome": done.outcome if done is not None else None,
        "message": (done.message if done is not None else "") or step.reason,
        "place": step.wanted.place if step.wanted is not None else None,
    }  # fmt: skip


def _difference(one: Difference) -> Mapping[str, Any]:
    old, new = ({} if value is ABSENT else {name: value} for name, value in (("old", one.old), ("new", one.new)))
    return {"name": one.name, **old, **new}
