"""`cdds history rebuild`: history made anew from the outboxes, beside the live one, and compared with it."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Annotated, Any, Final

import typer

from cli.console import Exit, Failure, Output, OutputOption, err, out, print_json, print_table
from cli.databases import PostgresOption, acting_as_worker, dsns_of, log_to_standard_error, run_in
from cli.installation import DataOption, Installation
from deploy.local.stack import PUBLISHERS
from services.history.domain.rebuilds import Rebuild, RebuildState
from shared import database, replay, starting
from shared.database import DirectConnection

LOOK_SECONDS: Final = 0.3
TAKEN_UP_WITHIN_SECONDS: Final = 60

app = typer.Typer(help="What happened, as history tells it.", no_args_is_help=True)
app.callback()(lambda: None)


@app.command()
def rebuild(
    check: Annotated[
        bool, typer.Option("--check", help="Compare only, and change nothing; exit code 3 when something differs.")
    ] = False,
    here: Annotated[
        bool,
        typer.Option(
            "--here",
            help="Carry it out in this process, where the login of the running history does not own its tables;"
            " CDDS_HISTORY_POSTGRES is the owner's then.",
        ),
    ] = False,
    postgres: PostgresOption = None,
    data: DataOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make history anew from the outboxes and put it in the place of the old one, while everything goes on.

    The services do the work, so it goes on when this command is stopped; called again it joins the rebuild under way.
    """
    installation = Installation.find(data, postgres)
    dsns = dsns_of(installation)
    if missing := [name for name in ("history", *PUBLISHERS) if name not in dsns]:
        raise Failure(f"CDDS_{missing[0].upper()}_POSTGRES is not set: a rebuild reads the outboxes of all services")
    if here:
        log_to_standard_error()
    with installation.in_environment():
        ended = run_in(dsns["history"], _here(dsns, checking=check) if here else _rebuild(dsns, checking=check))
    if ended.state == RebuildState.FAILED or ended.report is None:
        raise Failure(f"the rebuild was given up and the live history left as it is: {ended.reason}")
    differs = _print(ended.report, swapped=not ended.checking, output=output)
    if check and differs:
        raise typer.Exit(Exit.VERIFICATION)


async def _here(dsns: Mapping[str, str], *, checking: bool) -> Rebuild:
    """Ask for a rebuild and carry it out, as a replica of history does that owns the tables."""
    from services.history.config import Settings
    from services.history.loops.rebuild import Rebuilder
    from services.history.store import Store

    try:
        settings = starting.read(Settings).settings
    except starting.Unusable as error:
        raise Failure(f"--here needs the settings of history: {error}") from error
    async with database.connect(dsns["history"], "history", migrate=False) as pool:
        store = Store(pool, settings.retention)
        async with store.rebuilding() as may:
            if not may:
                raise Failure("the login of CDDS_HISTORY_POSTGRES is not the owner's, or a rebuild goes on elsewhere")
        await store.keep_partitions()
        asking = asyncio.create_task(_rebuild(dsns, checking=checking))
        carrying_out = asyncio.create_task(Rebuilder("history", settings, store).run())
        try:
            done, _ = await asyncio.wait({asking, carrying_out}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (asking, carrying_out):
                task.cancel()
            await asyncio.gather(asking, carrying_out, return_exceptions=True)
        await store.clear()
        return asking.result()


async def _rebuild(dsns: Mapping[str, str], *, checking: bool) -> Rebuild:
    """Ask for a rebuild or join the one under way, and wait for its end."""
    from services.history.store import requests  # brings FastStream along, which would delay every other command

    async with AsyncExitStack() as exits:
        connections = {
            name: await exits.enter_async_context(acting_as_worker(dsns[name], name))
            for name in ("history", *PUBLISHERS)
        }
        for name, connection in connections.items():
            table = f"{name}.{'rebuilds' if name == 'history' else 'replays'}"
            if await connection.fetchval("SELECT to_regclass($1) IS NULL", table):
                raise Failure(f"there is no {table} in its database: apply this version's migrations, `cdds migrate`")
        while True:
            asked, new = await requests.ask(connections["history"], checking=checking)
            ended = await _follow(connections, asked, joined=not new)
            # A check that was under way has compared, but it has repaired nothing.
            if checking or not ended.checking:
                return ended


async def _follow(connections: Mapping[str, DirectConnection], rebuild: Rebuild, *, joined: bool) -> Rebuild:
    """Let the owners copy as soon as history is ready for it, and wait for the end."""
    from services.history.store import requests

    identity, connection = rebuild.rebuild_id, connections["history"]
    patience = time.monotonic() + TAKEN_UP_WITHIN_SECONDS
    # A broker may have lost what was copied; where it has not, the same events once more change nothing.
    again = joined and rebuild.state == RebuildState.COPYING
    with err.status("waiting for history …") as status:
        while not rebuild.over:
            if rebuild.state == RebuildState.COPYING:
                for owner in PUBLISHERS:
                    await replay.ask(connections[owner], owner, identity, again=again)
                again = False
                copied = [await replay.copied(connections[owner], owner, identity) or 0 for owner in PUBLISHERS]
                status.update(f"copied {sum(copied):,} events, read {sum(rebuild.progress.values()):,} …")
            elif time.monotonic() > patience and await requests.withdraw(connection, identity):
                raise Failure(
                    "history does not take it up: start it, or, where its login does not own its tables, use --here",
                    Exit.UNREACHABLE,
                )
            await asyncio.sleep(LOOK_SECONDS)
            found = await requests.look(connection, identity)
            if found is None:
                raise Failure("history was lost while it was rebuilt: start it, then ask again")
            rebuild = found
    return rebuild


def _print(report: Mapping[str, Any], *, swapped: bool, output: Output) -> bool:
    """Show what was compared, and say whether something differs."""
    differing = [table["table"] for table in report["tables"] if not table["equal"]]
    if output == Output.JSON:
        print_json({**report, "equal": not differing, "swapped": swapped})
        return bool(differing)
    rows = [
        (table["table"], f"{table['live']:,}", f"{table['rebuilt']:,}", "equal" if table["equal"] else "differs")
        for table in report["tables"]
    ]
    print_table("table", "live", "rebuilt", "", rows=rows)
    read = f"{report['events']:,} events were read"
    if report["unreadable"]:
        read += f", {report['unreadable']:,} more could not be"
    became = "The rebuilt tables are in place." if swapped else "Nothing was changed."
    out.print(f"{read}. {became}", highlight=False)
    return bool(differing)
