"""The outbox: events are committed with the state they tell of, then a relay publishes them in order per key.

Delivery is at least once: a relay that dies between Kafka's acknowledgement and the mark sends again. Rows stay after
publication; `republish` makes them due once more.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from shared import failpoints
from shared.database import Connection, Database, DirectConnection
from shared.events import Event
from shared.messaging import Producer, Record
from shared.observability import OUTBOX_UNSENT

BATCH_ROWS: Final = 2000
LOOK_AGAIN: Final = timedelta(milliseconds=50)
"""How long a commit of another process may go unseen; our own commits wake the relay at once."""


async def append(connection: Connection, events: Sequence[Event]) -> None:
    """Write `events` into the outbox of the connection's schema, in the transaction that changes the state."""
    await connection.executemany(
        """INSERT INTO outbox (event_id, topic, key, type, tenant, occurred_at, value)
           VALUES ($1, $2, $3, $4, $5, $6, $7)""",
        [
            (e.event_id, e.topic.name, e.key, e.type_name(), e.tenant, e.occurred_at, e.model_dump_json())
            for e in events
        ],
    )


class Relay:
    """Publishes a schema's outbox; one relay per schema works at a time, whatever the number of replicas."""

    def __init__(self, database: Database, producer: Producer) -> None:
        self._database = database
        self._producer = producer

    async def run(self) -> None:
        """Publish until cancelled; raises when PostgreSQL or the broker stays away."""
        while True:
            async with self._database.session() as connection:
                # The lock lives and dies with this connection, and so does the right to mark rows.
                if await connection.fetchval("SELECT pg_try_advisory_lock(hashtext($1))", self._lock):
                    try:
                        await self._publish(connection)
                    finally:
                        if not connection.is_closed():
                            await connection.execute("SELECT pg_advisory_unlock(hashtext($1))", self._lock)
            await asyncio.sleep(1)

    async def _publish(self, connection: Connection) -> None:
        while True:
            self._database.committed.clear()
            if await self.publish_pending(connection) == 0:
                try:
                    async with asyncio.timeout(LOOK_AGAIN.total_seconds()):
                        await self._database.committed.wait()
                except TimeoutError:
                    pass

    async def publish_pending(self, connection: Connection) -> int:
        """One pass: publish what is due, mark it, and say how many rows it were."""
        rows = await connection.fetch(
            """SELECT id, event_id, topic, key, type, tenant, occurred_at, value
               FROM outbox WHERE published_at IS NULL ORDER BY id LIMIT $1""",
            BATCH_ROWS,
        )
        OUTBOX_UNSENT.set(len(rows))
        if rows:
            await self._producer.publish(
                [
                    Record(r["topic"], r["key"], r["type"], r["tenant"], r["event_id"], r["occurred_at"], r["value"])
                    for r in rows
                ]
            )
            failpoints.reached("outbox.sent")
            await connection.execute(
                "UPDATE outbox SET published_at = now() WHERE id = ANY($1::bigint[])", [row["id"] for row in rows]
            )
        return len(rows)

    @property
    def _lock(self) -> str:
        return f"cdds.outbox.{self._database.schema}"


async def republish(connection: DirectConnection, schema: str) -> int:
    """Make every published event of `schema` due again, in its old order; says how many."""
    status = await connection.execute(f"UPDATE {schema}.outbox SET published_at = NULL WHERE published_at IS NOT NULL")
    return int(status.rpartition(" ")[2])
