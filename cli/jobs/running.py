"""`cdds jobs suspend`, `resume` and `run`."""

from enum import StrEnum
from typing import Annotated

import typer

from cli.client import Document
from cli.connection import Connection, connected
from cli.console import Output, OutputOption, err, moment_text, print_json, print_table, say, shown
from cli.jobs.naming import JobArgument, find_job
from cli.runs.ordering import WatchOption, tell_order


class Missed(StrEnum):
    """Which of the slots that a suspended job missed are run when it is resumed."""

    NONE = "none"
    LATEST = "latest"
    ALL = "all"


@connected
def suspend(connection: Connection, job: JobArgument, output: OutputOption = Output.TABLE) -> None:
    """Stop following the schedule; runs in progress go on."""
    with connection.open("operator") as client:
        found = find_job(client, job)
        _tell("is suspended", client.post(f"/jobs/{found['id']}/suspend"), output)


@connected
def resume(
    connection: Connection,
    job: JobArgument,
    missed: Annotated[Missed, typer.Option(help="Which of the missed slots are run.")] = Missed.NONE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the slots that were missed, and which of them would run.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Follow the schedule again from now on."""
    with connection.open("operator") as client:
        path = f"/jobs/{find_job(client, job)['id']}/resume"
        if dry_run:
            _print_missed(client.post(path, {"missed": missed, "dry_run": True}), output)
            return
        _tell("follows its schedule", client.post(path, {"missed": missed}), output)


@connected
def run(
    connection: Connection,
    job: JobArgument,
    watch: WatchOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Run a job now, beside its schedule; the run takes its turn under the job's overlap policy."""
    with connection.open("operator") as client:
        ordered = client.post(f"/jobs/{find_job(client, job)['id']}/run")
        tell_order(client, ordered, "was requested", watch=watch, output=output)


def _print_missed(found: Document, output: Output) -> None:
    if output is Output.JSON:
        print_json(found)
        return
    requested = {slot["at"] for slot in found["requested"]}
    if found["slots"]:
        print_table(
            "Missed slot (UTC)", "Data from (UTC)", "to, exclusive", "",
            rows=[
                [
                    moment_text(slot["at"]), moment_text(slot["interval"]["from"]) or "the beginning",
                    moment_text(slot["interval"]["to"]), "would run" if slot["at"] in requested else "",
                ]
                for slot in found["slots"]
            ],
        )  # fmt: skip
    more = "more than " if found["more"] else ""
    count = len(found["slots"])
    say(f"{more}{count} slot(s) missed since {moment_text(found['missed_since'])} UTC, {len(requested)} would run.")
    if count and not requested:
        err.print("--missed latest or --missed all runs them.", highlight=False)


def _tell(what: str, job: Document, output: Output) -> None:
    if output is Output.JSON:
        print_json(job)
        return
    follows = f"; it runs next at {moment_text(job['next_slot_at'])} UTC" if job["next_slot_at"] else ""
    say(f"Job {job['id']} ({shown(job['settings']['title'])}) {what}{follows}.")
