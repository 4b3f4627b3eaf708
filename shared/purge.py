"""The purge: what nobody needs any more is deleted, a little at a time, by one replica of each service.

Each service's store says what that is and why nothing comes back; `docs/operate/retention.md` says it to operators.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Final, TypeAlias

from shared import failpoints, outbox, replay, runtime
from shared.config import PublisherSettings
from shared.database import Database
from shared.observability import PURGE_CLEAN, PURGED

BATCH_ROWS: Final = 1000
"""A transaction of some milliseconds."""
CLOCKS: Final = 100
"""Records are kept by a hundredth longer than events about them are followed: two clocks decide that."""

Step: TypeAlias = Callable[[int], Awaitable[int]]
"""Deletes at most so many rows of a table, in a transaction of its own, and says how many it were."""


class Purge:
    """Deletes what is too old, table by table; of all replicas one works at a time, half of its time at most."""

    def __init__(
        self,
        database: Database,
        settings: PublisherSettings,
        steps: Mapping[str, Step],
        needed: str = "false",
        most: int = BATCH_ROWS,
    ) -> None:
        """`steps` are of the service's own tables; `needed` says in SQL which events stay, however old."""
        self._database = database
        self._settings = settings
        self._most = most
        self._steps: dict[str, Step] = {
            **steps,
            "outbox": outbox.Retention(database, settings.event_retention, needed).forget,
            "replays": partial(replay.forget, database, kept_for(settings)),
        }

    async def run(self) -> None:
        """Purge until cancelled."""
        await runtime.every(self._settings.purge_interval, self.purge, self._settings.outage_patience)

    async def purge(self) -> int:
        """One pass: a batch of each table, and how many rows it were; 0 also while another replica works."""
        clock = asyncio.get_running_loop().time
        async with self._database.session() as connection:
            # The lock ends with the pool's reset of the connection, or with the connection. Steps work on others: if
            # this one is lost, two replicas may purge for a moment, which harms nobody.
            if not await connection.fetchval("SELECT pg_try_advisory_lock(hashtext($1))", self._lock):
                return 0
            began, count = clock(), 0
            for table, step in self._steps.items():
                deleted = await step(self._most)
                PURGED.labels(table).inc(deleted)
                count += deleted
                failpoints.reached("purge.stepped")
            if count == 0:
                PURGE_CLEAN.set_to_current_time()
            else:
                await asyncio.sleep(clock() - began)
        return count

    @property
    def _lock(self) -> str:
        return f"cdds.purge.{self._database.schema}"


def kept_for(settings: PublisherSettings) -> timedelta:
    """How long it is kept what events did."""
    return settings.record_retention * (CLOCKS + 1) / CLOCKS


async def delete(database: Database, statement: str, *arguments: object) -> int:
    """Run a DELETE in a transaction of its own, and say how many rows it took."""
    async with database.transaction() as connection:
        status = await connection.execute(statement, *arguments)
    return int(status.rpartition(" ")[2])
