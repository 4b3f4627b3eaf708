"""`cdds history rebuild`: history made anew from the outboxes, beside the live one, and compared with it."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import asyncpg
import typer

from cli.console import Exit, Failure, Output, OutputOption, err, out, print_json, print_table
from deploy.local.stack import PUBLISHERS, running
from services.history.domain.rebuilds import Rebuild, RebuildState
from shared import replay
from shared.database import DirectConnection, is_outage

LOOK_SECONDS: Final = 0.3
TAKEN_UP_WITHIN_SECONDS: Final = 60

app = typer.Typer(help="What happened, as history tells it.", no_args_is_help=True)
app.callback()(lambda: None)


@app.command()
def rebuild(
    check: Annotated[
        bool, typer.Option("--check", help="Compare only, and change nothing; exit code 3 when something differs.")
    ] = False,
    postgres: Annotated[str | None, typer.Option(help="DSN; the running local stack's otherwise.")] = None,
    data: Annotated[Path, typer.Option("--data", help="The stack's folder.")] = Path(".cdds"),
    output: OutputOption = Output.TABLE,
) -> None:
    """Make history anew from the outboxes and put it in the place of the old one, while everything goes on.

    The services do the work, so it goes on when this command is stopped; called again it joins the rebuild under way.
    """
    dsn = postgres or (running(data) or {}).get("postgres")
    if dsn is None:
        raise Failure("no stack is running here: start it, or give --postgres", Exit.UNREACHABLE)
    try:
        ended = asyncio.run(_rebuild(dsn, checking=check))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if not is_outage(error) and not isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
            raise
        raise Failure(f"PostgreSQL does not answer: {error}", Exit.UNREACHABLE) from error
    if ended.state == RebuildState.FAILED or ended.report is None:
        raise Failure(f"the rebuild was given up and the live history left as it is: {ended.reason}")
    differs = _print(ended.report, swapped=not ended.checking, output=output)
    if check and differs:
        raise typer.Exit(Exit.VERIFICATION)


async def _rebuild(dsn: str, *, checking: bool) -> Rebuild:
    """Ask for a rebuild or join the one under way, and wait for its end."""
    from services.history.store import requests  # brings FastStream along, which would delay every other command

    connection = await asyncpg.connect(dsn)
    try:
        for table in ("history.rebuilds", *(f"{owner}.replays" for owner in PUBLISHERS)):
            if await connection.fetchval("SELECT to_regclass($1) IS NULL", table):
                raise Failure(f"there is no {table} in this database: let this version of the service start on it")
        while True:
            asked, new = await requests.ask(connection, checking=checking)
            ended = await _follow(connection, asked, joined=not new)
            # A check that was under way has compared, but it has repaired nothing.
            if checking or not ended.checking:
                return ended
    finally:
        await connection.close()


async def _follow(connection: DirectConnection, rebuild: Rebuild, *, joined: bool) -> Rebuild:
    """Let the owners copy as soon as history is ready for it, and wait for the end."""
    from services.history.store import requests

    identity = rebuild.rebuild_id
    patience = time.monotonic() + TAKEN_UP_WITHIN_SECONDS
    # A broker may have lost what was copied; where it has not, the same events once more change nothing.
    again = joined and rebuild.state == RebuildState.COPYING
    with err.status("waiting for history …") as status:
        while not rebuild.over:
            if rebuild.state == RebuildState.COPYING:
                for owner in PUBLISHERS:
                    await replay.ask(connection, owner, identity, again=again)
                again = False
                copied = [await replay.copied(connection, owner, identity) or 0 for owner in PUBLISHERS]
                status.update(f"copied {sum(copied):,} events, read {sum(rebuild.progress.values()):,} …")
            elif time.monotonic() > patience and await requests.withdraw(connection, identity):
                raise Failure("history does not take it up: is it running?", Exit.UNREACHABLE)
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
