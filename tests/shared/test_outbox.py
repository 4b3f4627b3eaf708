"""The outbox: what is committed is published, in order per key, at least once."""

from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer

from shared import outbox
from shared.clock import UtcDatetime
from shared.database import Database, database_now
from shared.events import CertificateRemoved
from shared.messaging import decode, ensure_topics, producer
from shared.outbox import Relay
from tests.conftest import DatabaseOf

PATIENCE = timedelta(seconds=20)


async def write(database: Database, tenant: str, numbers: range) -> None:
    async with database.transaction() as connection:
        now: UtcDatetime = await database_now(connection)
        await outbox.append(
            connection,
            [CertificateRemoved(occurred_at=now, tenant=tenant, fingerprint=str(n), actor="test") for n in numbers],
        )


async def test_committed_events_arrive_in_order_per_key(database_of: DatabaseOf, bootstrap: str) -> None:
    database = await database_of("job_api")
    tenants = [f"t{uuid4()}" for _ in range(3)]
    await ensure_topics(bootstrap, 6, 1)
    for start in range(0, 300, 10):
        for tenant in tenants:
            await write(database, tenant, range(start, start + 10))
    async with producer(bootstrap, "test", PATIENCE) as kafka, database.session() as connection:
        relay = Relay(database, kafka)
        published = 0
        while count := await relay.publish_pending(connection):
            published += count
    assert published == 900
    consumer = AIOKafkaConsumer(
        "job_api.certificates.v1", bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=None
    )
    await consumer.start()
    try:
        seen: dict[str, list[int]] = {tenant: [] for tenant in tenants}
        while sum(map(len, seen.values())) < 900:
            event = decode(await consumer.getone())
            if event.tenant in seen:
                assert isinstance(event, CertificateRemoved)
                seen[event.tenant].append(int(event.fingerprint))
    finally:
        await consumer.stop()
    assert all(numbers == list(range(300)) for numbers in seen.values())


async def test_a_rolled_back_event_is_never_published(database_of: DatabaseOf) -> None:
    database = await database_of("job_api")

    async def fail_after_writing() -> None:
        async with database.transaction() as connection:
            event = CertificateRemoved(
                occurred_at=await database_now(connection), tenant="t", fingerprint="1", actor="test"
            )
            await outbox.append(connection, [event])
            await connection.execute("SELECT 1 / 0")

    with pytest.raises(asyncpg.DivisionByZeroError):
        await fail_after_writing()
    async with database.session() as connection:
        assert await connection.fetchval("SELECT count(*) FROM outbox") == 0
