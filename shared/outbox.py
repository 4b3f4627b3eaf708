"""The outbox: events are committed with the state they tell of, then a relay publishes them in order per key.

Delivery is at least once: a relay that dies between Kafka's acknowledgement and the mark sends again. Rows stay after
publication; `republish` makes them due once more.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from shared import failpoints
from shared.database import Connection, Database, DirectConnection, is_outage
from shared.events import Event
from shared.messaging import Producer, Record
from shared.observability import OUTBOX_AGE, OUTBOX_UNSENT, log
from shared.tracing import HEADER, tracer

BATCH_ROWS: Final = 2000
"""Measured with `make bench-outbox`: 500 cost a quarter more CPU time, 4,000 save none and hold more memory."""
LOOK_AGAIN: Final = timedelta(milliseconds=50)
"""How long a commit of another process may go unseen; our own commits wake the relay at once."""

TRACED_FOR: Final = timedelta(hours=1)
"""Events that are published again long after they were committed belong to no trace any more."""

LOOK_FOR_LOCK: Final = timedelta(seconds=1)
"""How long nobody publishes after a relay has died without another replica noticing."""


async def append(connection: Connection, events: Sequence[Event]) -> None:
    """Write `events` into the outbox of the connection's schema, in the transaction that changes the state."""
    await connection.executemany(
        """INSERT INTO outbox (event_id, topic, key, type, tenant, occurred_at, value, traceparent)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8)""",
        [
            (e.event_id, e.topic.name, e.key, e.type_name(), e.tenant, e.occurred_at, e.model_dump_json(), context)
            for e, context in zip(events, tracer().commit(events), strict=True)
        ],
    )


class Relay:
    """Publishes a schema's outbox; one relay per schema works at a time, whatever the number of replicas."""

    def __init__(self, database: Database, producer: Producer, patience: timedelta) -> None:
        self._database = database
        self._producer = producer
        self._patience = patience
        self._answered_at = 0.0

    async def run(self) -> None:
        """Publish until cancelled; raises when PostgreSQL stays away for the patience, or the broker does."""
        loop = asyncio.get_running_loop()
        self._answered_at = loop.time()
        while True:
            try:
                await self._publish_if_first()
            except Exception as error:
                if not is_outage(error) or loop.time() - self._answered_at > self._patience.total_seconds():
                    raise
                log.warning("relay waits for PostgreSQL", error=repr(error))
            await asyncio.sleep(LOOK_FOR_LOCK.total_seconds())

    async def _publish_if_first(self) -> None:
        """Publish for as long as the connection lives, or return at once while another relay works."""
        async with self._database.session() as connection:
            # The lock lives and dies with this connection, and so does the right to mark rows; the pool's own reset
            # gives it back.
            first = await connection.fetchval("SELECT pg_try_advisory_lock(hashtext($1))", self._lock)
            self._answered_at = asyncio.get_running_loop().time()
            if first:
                # A mark lost in a crash of the server sends an event again, no more: it need not wait for the disk.
                await connection.execute("SET synchronous_commit = off")
                # Who is frozen while holding the lock loses it: we look every 50 ms and publish within the patience.
                await connection.execute(
                    "SELECT set_config('idle_session_timeout', $1, false)",
                    f"{self._patience // timedelta(milliseconds=1)}ms",
                )
                await self._publish(connection)

    async def _publish(self, connection: Connection) -> None:
        while True:
            self._database.committed.clear()
            published = await self.publish_pending(connection)
            self._answered_at = asyncio.get_running_loop().time()
            if published == 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN.total_seconds()):
                        await self._database.committed.wait()

    async def publish_pending(self, connection: Connection) -> int:
        """One pass: publish all that is due, mark it, and say how many rows it were.

        While a batch is on its way, the one before it is marked and the one behind it is read.
        """
        count = 0
        on_its_way: Sequence[asyncpg.Record] = ()
        publishing = asyncio.create_task(self._send(()))
        try:
            while (due := await self._read_behind(connection, on_its_way)) or on_its_way:
                await publishing
                acknowledged, on_its_way = on_its_way, due
                publishing = asyncio.create_task(self._send(due))
                await self._mark(connection, acknowledged)
                count += len(due)
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
        return count

    async def _read_behind(
        self, connection: Connection, on_its_way: Sequence[asyncpg.Record]
    ) -> Sequence[asyncpg.Record]:
        """The next rows that are due, or none while an older one waits that was committed after `on_its_way` was read.

        A later row with the same key must not overtake that one, so the next pass begins with it.
        """
        return await connection.fetch(
            """SELECT id, xmin, topic, key, type, tenant, event_id, occurred_at, value,
                      CASE WHEN occurred_at > now() - $4::interval THEN traceparent END AS traceparent
               FROM outbox
               WHERE published_at IS NULL AND id > $2
                 AND $3 = (SELECT count(*) FROM outbox WHERE published_at IS NULL AND id <= $2)
               ORDER BY id LIMIT $1""",
            BATCH_ROWS, on_its_way[-1]["id"] if on_its_way else 0, len(on_its_way), TRACED_FOR,
        )  # fmt: skip

    async def _send(self, rows: Sequence[asyncpg.Record]) -> None:
        if rows:
            with tracer().publish([(r["topic"], r["type"], r["traceparent"]) for r in rows]) as contexts:
                await self._producer.publish(
                    Record(r["topic"], r["key"], r["type"], r["tenant"], r["event_id"], r["occurred_at"], r["value"],
                           () if context is None else ((HEADER, context.encode()),))
                    for r, context in zip(rows, contexts, strict=True)
                )  # fmt: skip
            failpoints.reached("outbox.sent")

    async def _mark(self, connection: Connection, rows: Sequence[asyncpg.Record]) -> None:
        """Only rows that are as they were read: one that `republish` touched since may be meant for another broker."""
        if rows:
            await connection.execute(
                """UPDATE outbox SET published_at = now()
                   FROM unnest($1::bigint[], $2::xid[]) AS sent (id, version)
                   WHERE outbox.id = sent.id AND outbox.xmin = sent.version""",
                [row["id"] for row in rows], [row["xmin"] for row in rows],
            )  # fmt: skip

    @property
    def _lock(self) -> str:
        return f"cdds.outbox.{self._database.schema}"


class Retention:
    """Deletes events that were published and are too old, but for those that are `needed`, a condition in SQL."""

    def __init__(self, database: Database, age: timedelta, needed: str = "false") -> None:
        self._database = database
        self._age = age
        self._needed = needed
        self._after = 0

    async def forget(self, most: int) -> int:
        """Look through at most so many events, or further while all of them stay, and say how many were deleted.

        They are in order of their time, as good as: no index on it burdens each event that is written. The next look
        goes on where this one ended, or, once nothing was too old, from the beginning.
        """
        deleted = 0
        while deleted == 0:
            async with self._database.transaction() as connection:
                page = await connection.fetchrow(
                    """SELECT max(id) AS last, bool_or(occurred_at < now() - $3::interval) AS old
                       FROM (SELECT id, occurred_at FROM outbox WHERE id > $1 ORDER BY id LIMIT $2) AS page""",
                    self._after, most, self._age,
                )  # fmt: skip
                if page is None or not page["old"]:
                    self._after = 0
                    return 0
                status = await connection.execute(
                    f"""DELETE FROM outbox
                        WHERE id > $1 AND id <= $2 AND occurred_at < now() - $3::interval
                          AND published_at IS NOT NULL AND NOT ({self._needed})""",
                    self._after, page["last"], self._age,
                )  # fmt: skip
                failpoints.reached("outbox.forgotten")
            self._after = page["last"]
            deleted = int(status.rpartition(" ")[2])
        return deleted


async def measure(database: Database) -> None:
    """Set the gauges of the outbox; every replica does, so that a relay that is stuck does not hide it."""
    async with database.session() as connection:
        row = await connection.fetchrow(
            """SELECT count(*) AS unsent,
                      extract(epoch FROM clock_timestamp() - (
                        SELECT occurred_at FROM outbox WHERE published_at IS NULL ORDER BY id LIMIT 1
                      ))::float8 AS age_seconds
               FROM outbox WHERE published_at IS NULL"""
        )
    assert row is not None
    OUTBOX_UNSENT.set(row["unsent"])
    OUTBOX_AGE.set(max(0.0, row["age_seconds"] or 0.0))


async def republish(connection: DirectConnection, schema: str, since: datetime | None = None) -> int:
    """Make the events of `schema` due again that were published after `since`, in their old order; says how many.

    Those that are due already are touched, too: the relay may just be publishing them to the broker that was lost.
    """
    status = await connection.execute(
        f"UPDATE {schema}.outbox SET published_at = NULL WHERE (published_at >= $1) IS NOT FALSE", since
    )
    return int(status.rpartition(" ")[2])
