"""`cdds jobs backfill`, `backfills` and `cancel-backfill`."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import typer

from cli.client import Client, Document
from cli.connection import Connection, connected
from cli.console import Failure, Output, OutputOption, moment_option, moment_text, print_json, print_table, say, short
from cli.jobs.naming import JobArgument, find_job, job_id

_OPEN = frozenset({"planned", "running"})


class Reprocess(StrEnum):
    """Which data intervals of a backfill are exported again."""

    MISSING = "missing"
    MISSING_AND_FAILED = "missing_and_failed"
    ALL = "all"


@connected
def backfill(
    connection: Connection,
    job: JobArgument,
    from_: Annotated[str | None, moment_option("Where the data begins, as 2026-01-01.", "--from")] = None,
    to: Annotated[str | None, moment_option("Where it ends, exclusive: 2026-02-01 ends with January.", "--to")] = None,
    reprocess: Annotated[
        Reprocess, typer.Option(help="Intervals that are missing, also those that failed, or all once more.")
    ] = Reprocess.MISSING,
    max_parallel: Annotated[int, typer.Option(min=1, max=16, help="As many runs at a time.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the slots that would be requested.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Export past data again, or what is missing of it, beside the schedule."""
    if from_ is None or to is None:
        raise typer.BadParameter("give --from and --to")
    with connection.open("operator") as client:
        found = client.post(
            f"/jobs/{find_job(client, job)['id']}/backfill",
            {
                "from": from_, "to": to, "reprocess": reprocess, "max_parallel": max_parallel, "dry_run": dry_run,
            },
        )  # fmt: skip
    if output is Output.JSON:
        print_json(found)
    elif dry_run:
        _print_slots(found)
    else:
        say(f"Backfill {found['id']} was requested; `cdds jobs backfills` shows how far it is.")


@connected
def backfills(connection: Connection, job: JobArgument, output: OutputOption = Output.TABLE) -> None:
    """The backfills of a job with their progress, newest first."""
    with connection.open("viewer") as client:
        found = list(client.items(f"/jobs/{job_id(client, job)}/backfills"))
    if output is Output.JSON:
        print_json(found)
        return
    print_table(
        "Backfill", "From (UTC)", "to, exclusive", "State", "Done", "Failed", "Open",
        rows=[
            [
                short(one["id"]), moment_text(one["from"])[:-3], moment_text(one["to"])[:-3], one["state"],
                str(one["done"]) if one["slots"] is None else f"{one['done']} of {one['slots']}", str(one["failed"]),
                "" if one["open"] is None else str(one["open"]),
            ]
            for one in found
        ],
    )  # fmt: skip


@connected
def cancel_backfill(
    connection: Connection,
    job: JobArgument,
    backfill: Annotated[
        str | None, typer.Argument(metavar="BACKFILL", help="Its id; not needed when only one is under way.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """End a backfill, with its runs in progress."""
    with connection.open("operator") as client:
        of_job = job_id(client, job)
        found = client.post(f"/jobs/{of_job}/backfills/{_which(client, of_job, backfill)}/cancel")
    if output is Output.JSON:
        print_json(found)
    else:
        say(f"Backfill {found['id']} is {found['state']}.")


def _which(client: Client, job: str, name: str | None) -> str:
    if name is not None:
        try:
            return str(UUID(name))
        except ValueError:
            pass
    known = list(client.items(f"/jobs/{job}/backfills"))
    if name is None:
        found = [one["id"] for one in known if one["state"] in _OPEN]
    else:
        found = [one["id"] for one in known if len(name) >= 4 and one["id"].startswith(name.lower())]
    if len(found) != 1:
        what = "are under way" if name is None else f"begin with {name}"
        raise Failure(f"{len(found)} backfills of the job {what}: give the id; `cdds jobs backfills` shows it")
    return found[0]


def _print_slots(found: Document) -> None:
    if found["slots"]:
        print_table(
            "Slot (UTC)", "Data from (UTC)", "to, exclusive",
            rows=[
                [
                    moment_text(slot["at"]), moment_text(slot["interval"]["from"]) or "the beginning",
                    moment_text(slot["interval"]["to"]),
                ]
                for slot in found["slots"]
            ],
        )  # fmt: skip
    say(f"{len(found['slots'])} run(s) would be requested.")
