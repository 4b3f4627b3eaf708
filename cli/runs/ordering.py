"""`cdds runs cancel` and `retry`."""

from typing import Annotated

import typer

from cli.client import Client, Document
from cli.connection import Connection, connected
from cli.console import Output, OutputOption, print_json, say
from cli.runs.naming import RunArgument, find_run
from cli.runs.watch import watch_run

WatchOption = Annotated[
    bool, typer.Option("--watch", "-w", help="Show its progress until it ends; exit code 1 unless it succeeds.")
]


@connected
def cancel(connection: Connection, run: RunArgument, output: OutputOption = Output.TABLE) -> None:
    """End a run in progress, or a slot that waits for its turn."""
    with connection.open("operator") as client:
        ordered = client.post(f"/runs/{find_run(client, run)}/cancel")
        tell_order(client, ordered, "is being cancelled", watch=False, output=output)


@connected
def retry(
    connection: Connection, run: RunArgument, watch: WatchOption = False, output: OutputOption = Output.TABLE
) -> None:
    """Ask the question of a finished run again, by a new run."""
    with connection.open("operator") as client:
        ordered = client.post(f"/runs/{find_run(client, run)}/retry")
        tell_order(client, ordered, "was requested", watch=watch, output=output)


def tell_order(client: Client, ordered: Document, what: str, *, watch: bool, output: Output) -> None:
    """Say that a command on a run was accepted, and watch the run if that is wanted."""
    if output is Output.JSON and not watch:
        print_json(ordered)
    elif output is Output.TABLE:
        say(f"Run {ordered['run_id']} {what}.")
    if watch:
        watch_run(client, ordered, output)
