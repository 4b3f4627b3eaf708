"""`cdds runs list` and `show`."""

from itertools import islice
from typing import Annotated

import typer

from cli.connection import Connection, connected
from cli.console import Output, OutputOption, err, moment_option, print_json
from cli.jobs.naming import job_id
from cli.runs.naming import RunArgument, find_run
from cli.runs.showing import print_run, print_runs
from shared.events import RunState, Trigger


@connected
def list_(
    connection: Connection,
    job: Annotated[str | None, typer.Option("--job", help="Only runs of this job.")] = None,
    state: Annotated[
        list[RunState] | None, typer.Option(help="Only runs that are there; several: one of them.")
    ] = None,
    trigger: Annotated[Trigger | None, typer.Option(help="Only runs that this asked for.")] = None,
    source: Annotated[str | None, typer.Option(help="Only runs of this source.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only runs of this type.")] = None,
    text: Annotated[str | None, typer.Option(help="Only with this in the title.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME:VALUE", help="Only with this label; several must all be there.")
    ] = None,
    requested_from: Annotated[str | None, moment_option("Only requested then or later.")] = None,
    requested_to: Annotated[str | None, moment_option("Only requested before.")] = None,
    started_from: Annotated[str | None, moment_option("Only started then or later.")] = None,
    started_to: Annotated[str | None, moment_option("Only started before.")] = None,
    finished_from: Annotated[str | None, moment_option("Only finished then or later.")] = None,
    finished_to: Annotated[str | None, moment_option("Only finished before.")] = None,
    data_from: Annotated[str | None, moment_option("Only with data of this moment or later.")] = None,
    data_to: Annotated[str | None, moment_option("Only with data from before this moment.")] = None,
    sort: Annotated[
        str, typer.Option(help="requested_at, started_at, duration_seconds, rows, …; a - before it turns it round.")
    ] = "-requested_at",
    limit: Annotated[int, typer.Option(min=0, help="As many at most; 0 for all.")] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """Runs, the newest first."""
    with connection.open("viewer") as client:
        found = client.items(
            "/executions", job_id=None if job is None else job_id(client, job), state=state, trigger=trigger,
            source=source, type=type_, text=text, label=label,
            requested_from=requested_from, requested_to=requested_to,
            started_from=started_from, started_to=started_to,
            finished_from=finished_from, finished_to=finished_to,
            data_from=data_from, data_to=data_to, sort=sort, first=limit + 1 if limit else None,
        )  # fmt: skip
        runs = list(found)
    print_runs(islice(runs, limit or None), output)
    if limit and len(runs) > limit:
        err.print(f"There are more than these {limit}: filter, or give --limit.", highlight=False)


@connected
def show(connection: Connection, run: RunArgument, output: OutputOption = Output.TABLE) -> None:
    """One run with its attempts, its files, what happened to it, and what to do about an error."""
    with connection.open("viewer") as client:
        run_id = find_run(client, run)
        found = client.json(f"/executions/{run_id}")
        events = list(client.items(f"/executions/{run_id}/events"))
    if output is Output.JSON:
        print_json({**found, "events": events})
    else:
        print_run(found, events)
