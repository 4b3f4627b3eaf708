"""The outbox: what is committed is published, in order per key, at least once."""

import asyncio
import itertools
from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from random import Random
from typing import cast
from uuid import uuid4

import asyncpg
import orjson
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import BrokerResponseError

from shared import outbox
from shared.cluster import Cluster
from shared.database import Connection, Database, DirectConnection, database_now
from shared.events import CertificateRemoved
from shared.messaging import Producer, Record, decode, ensure_topics, producer
from shared.outbox import Relay
from tests.conftest import DatabaseOf

PATIENCE = timedelta(seconds=20)


async def append(connection: Connection, tenant: str, *numbers: int) -> None:
    now = await database_now(connection)
    await outbox.append(
        connection,
        [CertificateRemoved(occurred_at=now, tenant=tenant, fingerprint=str(n), actor="test") for n in numbers],
    )


async def write(database: Database, tenant: str, numbers: range) -> None:
    async with database.transaction() as connection:
        await append(connection, tenant, *numbers)


async def test_committed_events_arrive_in_order_per_key(database_of: DatabaseOf, bootstrap: str) -> None:
    database = await database_of("job_api")
    tenants = [f"t{uuid4()}" for _ in range(3)]
    await ensure_topics(Cluster(bootstrap), 6, 1)
    for start in range(0, 300, 10):
        for tenant in tenants:
            await write(database, tenant, range(start, start + 10))
    async with producer(Cluster(bootstrap), "test", PATIENCE) as kafka, database.session() as connection:
        relay = Relay(database, kafka, PATIENCE)
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
            await append(connection, "t", 1)
            await connection.execute("SELECT 1 / 0")

    with pytest.raises(asyncpg.DivisionByZeroError):
        await fail_after_writing()
    async with database.session() as connection:
        assert await connection.fetchval("SELECT count(*) FROM outbox") == 0


class Gate:
    """A producer that holds its first batch until it is opened, and keeps what it was given."""

    def __init__(self) -> None:
        self.opened, self.entered = asyncio.Event(), asyncio.Event()
        self.published: list[tuple[str, int]] = []

    async def publish(self, records: Iterable[Record]) -> None:
        batch = list(records)
        self.entered.set()
        await self.opened.wait()
        self.published += [(record.tenant, int(orjson.loads(record.value)["fingerprint"])) for record in batch]


async def test_an_event_committed_late_is_not_overtaken_by_a_later_one_of_its_key(database_of: DatabaseOf) -> None:
    database, gate = await database_of("job_api"), Gate()
    relay = Relay(database, cast(Producer, gate), PATIENCE)
    async with database.session() as late, database.session() as connection:
        transaction = late.transaction()
        await transaction.start()
        await append(late, "slow", 1)
        await write(database, "other", range(1))
        passing = asyncio.create_task(relay.publish_pending(connection))
        await gate.entered.wait()
        # `other` is on its way, and has a greater id than what becomes visible now.
        await transaction.commit()
        await write(database, "slow", range(2, 3))
        gate.opened.set()
        assert await passing == 3
    assert [number for tenant, number in gate.published if tenant == "slow"] == [1, 2]


async def test_order_per_key_holds_with_many_writers_and_small_batches(
    database_of: DatabaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "BATCH_ROWS", 7)
    database, gate = await database_of("job_api"), Gate()
    gate.opened.set()
    relay = Relay(database, cast(Producer, gate), PATIENCE)
    keys = {key: (asyncio.Lock(), itertools.count()) for key in "abcd"}
    random = Random(7)

    async def writer() -> None:
        for _ in range(40):
            # Transactions on one key come one after the other, as row locks make them in the stores.
            chosen = sorted(random.sample(sorted(keys), random.randint(1, 2)))
            async with AsyncExitStack() as locks, database.transaction() as connection:
                for key in chosen:
                    lock, numbers = keys[key]
                    await locks.enter_async_context(lock)
                    await append(connection, key, next(numbers))

    async def relaying(writing: "asyncio.Future[object]") -> None:
        async with database.session() as connection:
            over = False
            while await relay.publish_pending(connection) or not over:
                over = writing.done()  # before the pass that finds nothing, not after
                await asyncio.sleep(0)

    writing = asyncio.gather(*(writer() for _ in range(6)))
    await asyncio.gather(writing, relaying(writing))
    for key, (_, numbers) in keys.items():
        assert [number for tenant, number in gate.published if tenant == key] == list(range(next(numbers)))


async def test_only_acknowledged_rows_are_marked_when_the_producer_fails(database_of: DatabaseOf) -> None:
    database = await database_of("job_api")
    await write(database, "t", range(2 * outbox.BATCH_ROWS + 500))

    class FailsOnTheSecondBatch:
        batches = 0

        async def publish(self, records: Iterable[Record]) -> None:
            self.batches += 1
            if self.batches == 2:
                raise BrokerResponseError

    async with database.session() as connection:
        with pytest.raises(BrokerResponseError):
            await Relay(database, cast(Producer, FailsOnTheSecondBatch()), PATIENCE).publish_pending(connection)
        marked = await connection.fetchval("SELECT count(*) FROM outbox WHERE published_at IS NOT NULL")
    assert marked == outbox.BATCH_ROWS


async def test_what_is_republished_while_it_is_on_its_way_is_published_once_more(database_of: DatabaseOf) -> None:
    database, gate = await database_of("job_api"), Gate()
    relay = Relay(database, cast(Producer, gate), PATIENCE)
    await write(database, "t", range(2))
    async with database.session() as connection, database.session() as operator:
        passing = asyncio.create_task(relay.publish_pending(connection))
        await gate.entered.wait()
        # The broker that acknowledges may have lost the first of the two in a crash between them.
        await operator.execute("SET ROLE NONE")
        assert await outbox.republish(cast(DirectConnection, operator), "job_api") == 2
        gate.opened.set()
        await passing
        while await relay.publish_pending(connection):
            pass
        assert await connection.fetchval("SELECT count(*) FROM outbox WHERE published_at IS NULL") == 0
    assert [number for _, number in gate.published] == [0, 1, 0, 1]


async def test_a_broker_that_lost_little_is_given_only_what_was_published_since(database_of: DatabaseOf) -> None:
    database = await database_of("job_api")
    await write(database, "t", range(4))
    async with database.session() as operator:
        await operator.execute("SET ROLE NONE")
        # One was published an hour ago, one a minute ago, one is on its way, and one was published just now.
        for id_, age in ((1, "1 hour"), (2, "1 minute"), (4, "0")):
            await operator.execute(
                f"UPDATE outbox SET published_at = now() - interval '{age}' "
                "WHERE id = (SELECT id FROM outbox ORDER BY id OFFSET $1 LIMIT 1)",
                id_ - 1,
            )
        since = datetime.now(UTC) - timedelta(minutes=10)
        assert await outbox.republish(cast(DirectConnection, operator), "job_api", since) == 3
        assert await operator.fetchval("SELECT count(*) FROM outbox WHERE published_at IS NULL") == 3
        assert await outbox.republish(cast(DirectConnection, operator), "job_api") == 4
