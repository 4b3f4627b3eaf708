"""`cdds jobs list`, `show` and `preview`."""

from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from cli import settings
from cli.client import Client, Document
from cli.connection import Connection, connected
from cli.console import (
    Output,
    OutputOption,
    err,
    moment_text,
    out,
    print_json,
    print_table,
    say,
    shown,
)
from cli.jobs.naming import JobArgument, find_job
from cli.jobs.showing import print_job, print_jobs, print_settings


class State(StrEnum):
    """Whether a job follows its schedule."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class Status(StrEnum):
    """Where a run is."""

    WAITING = "waiting"
    REQUESTED = "requested"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@connected
def list_(
    connection: Connection,
    source: Annotated[str | None, typer.Option(help="Only jobs of this source.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only jobs of this type.")] = None,
    state: Annotated[State | None, typer.Option(help="Only active or suspended jobs.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only jobs whose latest run is there.")] = None,
    text: Annotated[str | None, typer.Option(help="Only with this in title or description.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME:VALUE", help="Only with this label; several must all be there.")
    ] = None,
    sort: Annotated[
        str, typer.Option(help="title, source, type, state, created_at, updated_at, …; a - before it turns it round.")
    ] = "-created_at",
    limit: Annotated[int, typer.Option(min=0, help="As many at most; 0 for all.")] = 100,
    output: OutputOption = Output.TABLE,
) -> None:
    """Jobs with their next and their latest run."""
    with connection.open("viewer") as client:
        found = client.items(
            "/jobs", source=source, type=type_, state=state, status=status, text=text, label=label, sort=sort,
            first=limit + 1 if limit else None,
        )  # fmt: skip
        jobs = list(found)
    print_jobs(islice(jobs, limit or None), output)
    if limit and len(jobs) > limit:
        err.print(f"There are more than these {limit}: filter, or give --limit.", highlight=False)


@connected
def show(
    connection: Connection,
    job: JobArgument,
    only_settings: Annotated[
        bool, typer.Option("--settings", help="Only the settings, as YAML or JSON for create, edit and preview.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """One job and its settings."""
    with connection.open("viewer") as client:
        found = find_job(client, job)
    if only_settings:
        print_settings(settings.needed(settings.of(found)), output)
    else:
        print_job(found, output)


@connected
def preview(
    connection: Connection,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Settings of one job, YAML or JSON; - for standard input.")
    ] = None,
    job: Annotated[str | None, typer.Option("--job", help="Settings of this job instead.")] = None,
    zone: Annotated[str, typer.Option(help="Time zone to show, such as Europe/Berlin.")] = "UTC",
    output: OutputOption = Output.TABLE,
) -> None:
    """The next ten runs of a job that nobody has submitted yet, the data of each, and what to beware of.

    Nothing is stored.
    """
    if (file is None) == (job is None):
        raise typer.BadParameter("give a FILE or --job")
    with connection.open("viewer") as client:
        found = _of_file(client, file, zone) if file is not None else _of_job(client, str(job), zone)
    if output is Output.JSON:
        print_json(found)
        return
    print_preview(found)


def print_preview(found: Document) -> None:
    """A preview, for people."""
    zone = "" if found["zone"] == "UTC" else f"Run ({found['zone']})"
    rows = [
        [
            moment_text(slot["at"]), *([slot["local"][:16].replace("T", " ")] if zone else []),
            moment_text(slot["interval"]["from"]) or "the beginning", moment_text(slot["interval"]["to"]),
        ]
        for slot in found["slots"]
    ]  # fmt: skip
    if rows:
        print_table("Run (UTC)", *([zone] if zone else []), "Data from (UTC)", "to, exclusive", rows=rows)
    else:
        say("No runs follow.")
    warnings = list(found["warnings"])
    if found["certificate_required"]:
        warnings.append("Add a certificate first, with `cdds certificates add`: the job is encrypted.")
    for warning in warnings:
        out.print(f"[bold yellow]![/] {shown(warning)}", highlight=False, soft_wrap=True)


def _of_file(client: Client, file: Path, zone: str) -> Document:
    written, _ = settings.read(file)
    with settings.in_file(written):
        return settings.preview(client, written.content, zone)


def _of_job(client: Client, job: str, zone: str) -> Document:
    return settings.preview(client, find_job(client, job)["settings"], zone)
