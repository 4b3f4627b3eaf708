"""Owners copy their outboxes when a rebuild asks: all of it, in order, with end marks, whoever dies."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy.local.postgres import EmbeddedPostgres
from shared import database, outbox, replay
from shared.cluster import Cluster
from shared.database import Database
from shared.events import EVENT_TYPES, Event, Topic
from shared.messaging import Producer, RawRecord, decode, producer
from shared.replay import Replay
from tests.conftest import fresh_database
from tests.system.driver import eventually

PATIENCE = timedelta(seconds=20)
PARTITIONS = 3


@pytest.fixture
async def dsn(postgres: EmbeddedPostgres, templates: dict[str, str]) -> AsyncIterator[str]:
    async with fresh_database(postgres, templates["job_api"]) as address:
        yield address


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Database]:
    async with database.connect(dsn, "job_api", outbox=True) as connected:
        yield connected


@pytest.fixture
async def kafka(embedded: str) -> AsyncIterator[Producer]:
    async with producer(Cluster(embedded), "test", PATIENCE) as connected:
        yield connected


@pytest.fixture
async def topic(embedded: str) -> Topic:
    """A topic of the owner that only one test knows, and the one for its replays."""
    made = Topic(f"job_api.{uuid4().hex}.v1", key="tenant")
    admin = AIOKafkaAdminClient(bootstrap_servers=embedded)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in (made.name, made.replay)])
    finally:
        await admin.close()
    return made


@pytest.fixture
def happened(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> type[Event]:
    class Happened(Event):
        """Something happened, `number` tells which."""

        number: int

    Happened.topic = topic
    Happened.__name__ += topic.name
    monkeypatch.setitem(EVENT_TYPES, Happened.type_name(), Happened)
    return Happened


async def write(pool: Database, happened: type[Event], numbers: Sequence[int], *, published: bool = True) -> None:
    events = [
        happened.model_validate({"occurred_at": datetime.now(UTC), "tenant": f"t{number % 5}", "number": number})
        for number in numbers
    ]
    async with pool.transaction() as connection:
        await outbox.append(connection, events)
        if published:
            await connection.execute("UPDATE outbox SET published_at = now() WHERE published_at IS NULL")


async def ask(dsn: str, replay_id: UUID, *, again: bool = False) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await replay.ask(connection, "job_api", replay_id, again=again)
    finally:
        await connection.close()


async def read(bootstrap: str, topic: Topic, replay_id: UUID) -> dict[int, list[RawRecord]]:
    """What a replay brought to each partition, up to its first end mark."""
    found: dict[int, list[RawRecord]] = {}
    ended: set[int] = set()
    async with (
        asyncio.timeout(30),
        AIOKafkaConsumer(
            topic.replay, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=None
        ) as consumer,
    ):
        while len(ended) < PARTITIONS:
            record: RawRecord = await consumer.getone()
            headers = dict(record.headers)
            if headers[replay.HEADER] != str(replay_id).encode() or record.partition in ended:
                continue
            if headers["ce_type"] == replay.ENDED.encode():
                ended.add(record.partition)
            else:
                found.setdefault(record.partition, []).append(record)
    return found


def numbers(found: dict[int, list[RawRecord]]) -> dict[str, list[int]]:
    """The events of each key in their order, without the repetitions."""
    seen: dict[str, list[int]] = {}
    for records in found.values():
        for record in records:
            event = decode(record)
            number = event.model_dump()["number"]
            if number not in seen.setdefault(event.tenant, []):
                seen[event.tenant].append(number)
    return seen


def expected(count: int) -> dict[str, list[int]]:
    return {f"t{n}": list(range(n, count, 5)) for n in range(5)}


async def test_all_events_are_copied_in_order_and_every_partition_gets_an_end_mark(
    dsn: str, pool: Database, kafka: Producer, embedded: str, topic: Topic, happened: type[Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(replay, "BATCH_ROWS", 7)
    await write(pool, happened, range(100))
    owner = Replay(pool, kafka, PATIENCE, [topic])
    assert await owner.copy_asked() == 0
    first, second = uuid4(), uuid4()
    await ask(dsn, first)
    await ask(dsn, first)
    await ask(dsn, second)

    assert [await owner.copy_asked() for _ in range(3)] == [1, 1, 0]

    for replay_id in (first, second):
        found = await read(embedded, topic, replay_id)
        assert numbers(found) == expected(100)
        assert sum(map(len, found.values())) == 100
    connection = await asyncpg.connect(dsn)
    try:
        assert await replay.copied(connection, "job_api", first) == 100
        assert await replay.copied(connection, "job_api", uuid4()) is None
    finally:
        await connection.close()


async def test_a_replay_may_be_asked_for_again_when_the_broker_lost_it(
    dsn: str, pool: Database, kafka: Producer, topic: Topic
) -> None:
    owner, asked = Replay(pool, kafka, PATIENCE, [topic]), uuid4()
    await ask(dsn, asked)
    assert await owner.copy_asked() == 1
    await ask(dsn, asked)
    assert await owner.copy_asked() == 0
    await ask(dsn, asked, again=True)
    assert await owner.copy_asked() == 1


async def test_an_owner_killed_midway_starts_again(
    dsn: str, pool: Database, kafka: Producer, embedded: str, topic: Topic, happened: type[Event]
) -> None:
    await write(pool, happened, range(50))
    asked = uuid4()
    await ask(dsn, asked)
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.shared.replayer", dsn, embedded, topic.name,
        env={**os.environ, "CDDS_FAILPOINT": "replay.copied"},
    )  # fmt: skip
    assert await killed.wait() == -signal.SIGKILL

    # PostgreSQL keeps the lock of the dead until it notices that their connection is gone.
    await eventually(Replay(pool, kafka, PATIENCE, [topic]).copy_asked, what="the dead owner's lock")

    found = await read(embedded, topic, asked)
    assert numbers(found) == expected(50)
    assert sum(map(len, found.values())) == 100


async def test_of_two_replicas_one_copies(dsn: str, pool: Database, kafka: Producer, topic: Topic) -> None:
    await ask(dsn, uuid4())
    async with database.connect(dsn, "job_api", outbox=True) as other:
        done = await asyncio.gather(*(Replay(each, kafka, PATIENCE, [topic]).copy_asked() for each in (pool, other)))
    assert sum(done) == 1


async def test_nothing_is_copied_before_the_live_topics_have_it(
    dsn: str, pool: Database, kafka: Producer, embedded: str, topic: Topic, happened: type[Event]
) -> None:
    await write(pool, happened, range(10), published=False)
    asked = uuid4()
    await ask(dsn, asked)
    copying = asyncio.create_task(Replay(pool, kafka, PATIENCE, [topic]).copy_asked())
    async with producer(Cluster(embedded), "relay", PATIENCE) as relayed, pool.session() as connection:
        connection_is_free = await connection.fetchval("SELECT count(*) FROM replays WHERE copied_at IS NULL")
        assert connection_is_free == 1
        assert await outbox.Relay(pool, relayed, PATIENCE).publish_pending(connection) == 10
    assert await copying == 1
    assert numbers(await read(embedded, topic, asked)) == expected(10)
