"""What rebuilds were asked for: written and read by the command, taken up by the loop."""

from uuid import UUID

import asyncpg
import orjson

from services.history.domain.rebuilds import Rebuild, RebuildState
from shared.database import Connection, DirectConnection
from shared.events import new_event_id

_COLUMNS = "rebuild_id, checking, state, progress::text, report::text, reason"


async def ask(connection: DirectConnection, *, checking: bool) -> tuple[Rebuild, bool]:
    """Ask for a rebuild; the one under way, if there is one, and whether it is a new one."""
    while True:
        new = await connection.fetchval(
            """INSERT INTO history.rebuilds (rebuild_id, checking) VALUES ($1, $2)
               ON CONFLICT DO NOTHING RETURNING true""",
            new_event_id(), checking,
        )  # fmt: skip
        # The one in the way may have ended just now.
        if (rebuild := await under_way(connection)) is not None:
            return rebuild, bool(new)


async def under_way(connection: "Connection | DirectConnection") -> Rebuild | None:
    """The one rebuild that has not ended."""
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM history.rebuilds WHERE state IN ('asked', 'copying')")
    return None if row is None else _rebuild(row)


async def look(connection: DirectConnection, rebuild_id: UUID) -> Rebuild | None:
    """A rebuild as it is now; None when history was lost with it."""
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM history.rebuilds WHERE rebuild_id = $1", rebuild_id)
    return None if row is None else _rebuild(row)


async def withdraw(connection: DirectConnection, rebuild_id: UUID) -> bool:
    """Forget a rebuild unless it was taken up."""
    status = await connection.execute(
        "DELETE FROM history.rebuilds WHERE rebuild_id = $1 AND state = 'asked'", rebuild_id
    )
    return status == "DELETE 1"


def _rebuild(row: asyncpg.Record) -> Rebuild:
    return Rebuild(
        row["rebuild_id"],
        row["checking"],
        RebuildState(row["state"]),
        orjson.loads(row["progress"]),
        None if row["report"] is None else orjson.loads(row["report"]),
        row["reason"],
    )
