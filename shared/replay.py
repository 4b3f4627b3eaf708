"""Replays: when history is rebuilt, each owner copies its outbox to topics beside the live ones.

The copies carry the replay's id as a header, and when all are there, every partition of the owner's replay topics gets
an end mark: whoever has read all the marks has read all the events. An owner that dies midway starts again; its
reader has to bear duplicates anyway.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

import asyncpg

from shared import failpoints, runtime
from shared.database import Connection, Database, DirectConnection, database_now
from shared.events import TOPICS, Topic, new_event_id
from shared.messaging import Producer, Record
from shared.observability import log

HEADER: Final = "replay"
ENDED: Final = "cdds.ReplayEnded.v1"
"""The type of the end marks; no event, for it says nothing of the business."""

BATCH_ROWS: Final = 2000
LOOK: Final = timedelta(seconds=1)
LOOK_FOR_RELAY: Final = timedelta(milliseconds=50)


class Replay:
    """Copies a schema's outbox when asked; one replica works at a time."""

    def __init__(
        self, database: Database, producer: Producer, patience: timedelta, topics: Sequence[Topic] = TOPICS
    ) -> None:
        self._database = database
        self._producer = producer
        self._patience = patience
        self._topics = topics

    async def run(self) -> None:
        """Answer what is asked until cancelled."""
        await runtime.every(LOOK, self.copy_asked, self._patience)

    async def copy_asked(self) -> int:
        """One pass: answer the oldest replay that was asked for, if any, and say how many it were."""
        async with self._database.session() as connection:
            # The lock ends with the pool's reset of the connection, or with the connection.
            if not await connection.fetchval("SELECT pg_try_advisory_lock(hashtext($1))", self._lock):
                return 0
            asked = await connection.fetchval(
                "SELECT replay_id FROM replays WHERE copied_at IS NULL ORDER BY asked_at, replay_id LIMIT 1"
            )
            if asked is None:
                return 0
            await self._copy(connection, asked)
        return 1

    async def _copy(self, connection: Connection, replay_id: UUID) -> None:
        mark = ((HEADER, str(replay_id).encode()),)
        last = await connection.fetchval("SELECT coalesce(max(id), 0) FROM outbox")
        await self._until_published(connection, last)
        count, copied = 0, 0
        while rows := await self._page(connection, copied, last):
            await self._producer.publish(
                Record(f"{r['topic']}.replay", r["key"], r["type"], r["tenant"], r["event_id"], r["occurred_at"],
                       r["value"], mark)
                for r in rows
            )  # fmt: skip
            count, copied = count + len(rows), rows[-1]["id"]
            await connection.execute("UPDATE replays SET events = $2 WHERE replay_id = $1", replay_id, count)
            failpoints.reached("replay.copied")
        now = await database_now(connection)
        await self._producer.publish(
            [
                Record(topic.replay, "", ENDED, "", new_event_id(), now, "{}", mark, partition)
                for topic in self._topics
                if topic.owner == self._database.schema
                for partition in range(await self._producer.partitions(topic.replay))
            ]
        )
        await connection.execute("UPDATE replays SET copied_at = now() WHERE replay_id = $1", replay_id)
        log.info("outbox copied", replay=str(replay_id), events=count)

    async def _until_published(self, connection: Connection, last: int) -> None:
        """Wait until the live topics have all that will be copied, so that history can tell when it has caught up."""
        while await connection.fetchval(  # noqa: ASYNC110 - another task's or process's work
            "SELECT EXISTS (SELECT FROM outbox WHERE published_at IS NULL AND id <= $1)", last
        ):
            await asyncio.sleep(LOOK_FOR_RELAY.total_seconds())

    async def _page(self, connection: Connection, after: int, last: int) -> Sequence[asyncpg.Record]:
        return await connection.fetch(
            """SELECT id, topic, key, type, tenant, event_id, occurred_at, value FROM outbox
               WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3""",
            after, last, BATCH_ROWS,
        )  # fmt: skip

    @property
    def _lock(self) -> str:
        return f"cdds.replay.{self._database.schema}"


async def forget(database: Database, age: timedelta, most: int) -> int:
    """Delete at most so many replays that were asked for so long ago, and say how many it were."""
    async with database.transaction() as connection:
        status = await connection.execute(
            """DELETE FROM replays WHERE replay_id IN (
                 SELECT replay_id FROM replays WHERE asked_at < now() - $1::interval AND copied_at IS NOT NULL
                 LIMIT $2 FOR UPDATE SKIP LOCKED)""",
            age, most,
        )  # fmt: skip
    return int(status.rpartition(" ")[2])


async def ask(connection: DirectConnection, schema: str, replay_id: UUID, *, again: bool = False) -> None:
    """Let the owner of `schema` copy its outbox; `again` also when it says that it did."""
    await connection.execute(
        f"""INSERT INTO {schema}.replays AS known (replay_id) VALUES ($1)
            ON CONFLICT (replay_id) DO UPDATE SET copied_at = NULL, events = 0
            WHERE $2 AND known.copied_at IS NOT NULL""",
        replay_id, again,
    )  # fmt: skip


async def copied(connection: DirectConnection, schema: str, replay_id: UUID) -> int | None:
    """How many events the owner of `schema` has copied so far; None before it was asked."""
    return await connection.fetchval(f"SELECT events FROM {schema}.replays WHERE replay_id = $1", replay_id)
