"""How jobs look."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import typer
from rich.markup import escape

from cli import documents, settings
from cli.client import Document
from cli.console import (
    Output,
    duration_text,
    moment_text,
    out,
    print_fields,
    print_json,
    print_table,
    short,
    shown,
)

_STATES: Final = {"one_time": "done", "failures": "paused after failures"}
"""What a suspended job is called, by the reason."""


def print_jobs(jobs: Iterable[Document], output: Output) -> None:
    """A list of jobs."""
    if output is Output.JSON:
        print_json(list(jobs))
        return
    print_table(
        "Job", "Title", "State", "Next run (UTC)", "Latest run",
        rows=[
            [
                shown(job["settings"]["key"] or short(job["id"])), shown(job["settings"]["title"]), state_text(job),
                moment_text(job["next_slot_at"])[:-3], latest_text(job["latest_run"]),
            ]
            for job in jobs
        ],
    )  # fmt: skip


def print_job(job: Document, output: Output) -> None:
    """One job with all that is known of it."""
    if output is Output.JSON:
        print_json(job)
        return
    print_fields(
        {
            "Job": job["id"],
            "Title": shown(job["settings"]["title"]),
            "Key": shown(job["settings"]["key"] or ""),
            "State": state_text(job),
            "Next run": moment_text(job["next_slot_at"]),
            "Latest run": latest_text(job["latest_run"], whole=True),
            "Version": f"{job['version']}, of {moment_text(job['updated_at'])}",
            "Created": f"{moment_text(job['created_at'])} by {shown(job['created_by'])}",
        }
    )
    out.print("\nSettings, what is left out being so by default:", highlight=False)
    text = documents.write(settings.needed(settings.of(job)))
    out.print(escape("".join(f"  {line}\n" for line in text.splitlines())), end="", highlight=False, soft_wrap=True)


def print_settings(written: Mapping[str, Any], output: Output) -> None:
    """Settings to be written into a file."""
    if output is Output.JSON:
        print_json(written)
    else:
        typer.echo(documents.write(written), nl=False)


def state_text(job: Document) -> str:
    """Whether a job follows its schedule, and why not."""
    return str(_STATES.get(job["suspended_reason"] or "", job["state"]))


def latest_text(run: Document | None, *, whole: bool = False) -> str:
    """How the latest run goes."""
    if run is None:
        return ""
    percent = f" {run['percent']:.0f} %" if run["state"] == "running" and run["percent"] is not None else ""
    if not whole:
        return f"{run['state']}{percent}"
    left = f", {duration_text(run['remaining_seconds'])} left" if percent and run["remaining_seconds"] else ""
    started = f", started {moment_text(run['started_at'])}" if run["started_at"] else ""
    return f"{run['state']}{percent}{left}{started} ({run['id']})"
