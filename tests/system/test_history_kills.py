"""A projector killed at any moment, over and over, ends equal to one that was never interrupted."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from signal import SIGKILL

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from deploy.local.postgres import EmbeddedPostgres
from deploy.local.processes import Child, free_port
from deploy.local.secrets import Secrets
from services.history.app import BATCH_RECORDS
from services.history.store import Store
from shared.cluster import Cluster
from shared.database import Database, connect
from shared.events import TOPICS, Event
from shared.messaging import Record, ensure_topics, producer
from tests.brokers import apache_kafka
from tests.conftest import fresh_database
from tests.history.events import delivered, everything, project, streams
from tests.system.driver import eventually
from tests.system.stacks import empty_broker, show

PARTITIONS = 3
CROWD = 30
"""So many times a few runs, all of them interleaved."""
PAUSE = timedelta(milliseconds=5)
"""Between batches of about six events: more to do in every life of a projector, however many of them there are."""
HUNG = timedelta(seconds=30)
"""A kill is due by then: a group waits 10 s for a member that died, and another one may die meanwhile."""

WAYS = ("history.projected", "working", "inbox.handled", "working", "starting")
"""How a life ends: inside the transaction, between it and the offset, or at a random moment."""


@pytest.fixture
async def kafka(tmp_path: Path) -> AsyncIterator[str]:
    async with apache_kafka(tmp_path / "broker") as address:
        await empty_broker(address)
        await ensure_topics(Cluster(address), PARTITIONS, replication=1)
        yield address


@pytest.fixture
async def dsn(postgres: EmbeddedPostgres, templates: dict[str, str]) -> AsyncIterator[str]:
    async with fresh_database(postgres, templates["history"]) as dsn:
        yield dsn


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    """What the killed projectors write into."""
    async with connect(dsn, "history") as database:
        yield database


@pytest.fixture
async def unbroken(postgres: EmbeddedPostgres, templates: dict[str, str]) -> AsyncIterator[Database]:
    async with fresh_database(postgres, templates["history"]) as dsn, connect(dsn, "history") as database:
        yield database


class Projector:
    """A replica of history that dies again and again, and comes back under its name."""

    def __init__(self, member: str, kafka: str, dsn: str, database: Database, keys: Path) -> None:
        self._member = member
        self._database = database
        self._environment = {
            "CDDS_HISTORY_HTTP_PORT": str(free_port()),
            "CDDS_HISTORY_LOG_FORMAT": "console",
            "CDDS_HISTORY_STOP_WITH_PARENT": "true",
            "CDDS_HISTORY_POSTGRES": dsn,
            "CDDS_HISTORY_KAFKA": kafka,
            "CDDS_HISTORY_KAFKA_PARTITIONS": str(PARTITIONS),
            "CDDS_HISTORY_KAFKA_MEMBER": member,
            "CDDS_HISTORY_AUTH_ISSUER": "https://issuer.test",
            "CDDS_HISTORY_AUTH_PUBLIC_KEY": str(Secrets(keys).token_public_key),
        }

    def child(self, failpoint: str = "") -> Child:
        command = [sys.executable, "-m", "services.history"]
        return Child(self._member, command, output=show, env={**self._environment, "CDDS_FAILPOINT": failpoint})

    async def die(self, ways: Sequence[str], random: Random) -> list[str]:
        """Live and die once in each of these ways; those that came as intended."""
        return [way for way in ways if await self._die(way, random)]

    async def _die(self, way: str, random: Random) -> bool:
        known = await self._events()
        child = self.child(failpoint=way if "." in way else "")
        await child.start()
        intended = True
        try:
            match way:
                case "starting":
                    await asyncio.sleep(random.uniform(0, 2))
                case "working":
                    await eventually(lambda: self._grown(known), within=HUNG, what=f"events from {self._member}")
                    await asyncio.sleep(random.uniform(0, 0.5))
                case _:
                    # It does so by itself, unless the other replica has all partitions.
                    done, _ = await asyncio.wait({asyncio.create_task(child.wait())}, timeout=HUNG.total_seconds())
                    intended = bool(done)
        finally:
            child.kill()
            code = await child.wait()
        assert code == -SIGKILL, list(child.last_lines)
        return intended

    async def _events(self) -> int:
        async with self._database.transaction() as connection:
            return await connection.fetchval("SELECT count(*) FROM events")

    async def _grown(self, known: int) -> bool:
        return await self._events() > known


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(8, marks=[pytest.mark.apache, pytest.mark.timeout(600)]),
        pytest.param(50, marks=[pytest.mark.apache, pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
async def test_a_projector_that_is_killed_again_and_again_ends_equal_to_an_unbroken_one(
    kafka: str, dsn: str, database: Database, unbroken: Database, tmp_path: Path, kills: int
) -> None:
    random = Random(kills)
    first, second = (Projector(f"history-{n}", kafka, dsn, database, tmp_path / "keys") for n in (1, 2))
    ways = [WAYS[n % len(WAYS)] for n in range(kills)]
    alone, together = ways[: kills // 4], ways[kills // 4 :]
    published: list[Event] = []

    producing = asyncio.create_task(produce(kafka, published, random))
    try:
        came = await first.die(alone, random)
        for more in await asyncio.gather(first.die(together[::2], random), second.die(together[1::2], random)):
            came += more
    finally:
        producing.cancel()
        await asyncio.gather(producing, return_exceptions=True)
    last = [first.child(), second.child()]
    try:
        await asyncio.gather(*(child.start() for child in last))
        await eventually(lambda: caught_up(kafka), within=timedelta(minutes=1), what="a lag of zero")
    finally:
        await asyncio.gather(*(child.stop() for child in last))

    assert {"history.projected", "inbox.handled", "working"} <= set(came)
    store = Store(unbroken)
    await store.keep_partitions()
    for batch in batches(list({event.event_id: event for event in published}.values())):
        await project(store, batch)
    rows = await everything(database, progress=False)
    assert rows == await everything(unbroken, progress=False)
    assert len(rows["executions"]) > 100
    assert await dead_letters(kafka) == 0
    await assert_positions_in_order(database)


async def produce(kafka: str, published: list[Event], random: Random) -> None:
    """Lives of runs, hundreds at once and many events twice, until cancelled; `published` is what Kafka has."""
    async with producer(Cluster(kafka), "test", timedelta(seconds=20)) as connected:
        while True:
            crowd = [stream for _ in range(CROWD) for stream in streams(random)]
            for batch in delivered(crowd, random):
                sending = asyncio.create_task(connected.publish([Record.of(event) for event in batch]))
                try:
                    await asyncio.shield(sending)
                finally:
                    await sending
                    published += batch
                await asyncio.sleep(PAUSE.total_seconds())


def batches(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    for start in range(0, len(events), BATCH_RECORDS):
        yield events[start : start + BATCH_RECORDS]


async def caught_up(kafka: str) -> bool:
    """Whether the group has committed all there is."""
    ends = {partition: end for partition, end in (await end_offsets(kafka, dead=False)).items() if end > 0}
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        committed = await admin.list_consumer_group_offsets("history", partitions=list(ends))
    finally:
        await admin.close()
    return {partition: offset.offset for partition, offset in committed.items()} == ends


async def dead_letters(kafka: str) -> int:
    return sum((await end_offsets(kafka, dead=True)).values())


async def end_offsets(kafka: str, *, dead: bool) -> dict[TopicPartition, int]:
    names = [topic.dead if dead else topic.name for topic in TOPICS]
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        return await consumer.end_offsets([TopicPartition(name, n) for name in names for n in range(PARTITIONS)])


async def assert_positions_in_order(database: Database) -> None:
    """Every event has one of its own, and no transaction's are among those of another."""
    async with database.transaction() as connection:
        positions = [row["position"] for row in await connection.fetch("SELECT position FROM events ORDER BY position")]
        commits = await connection.fetch(
            """SELECT min(position) AS first, max(position) AS last, count(*) AS events
               FROM events GROUP BY xmin::text ORDER BY 1"""
        )
    assert None not in positions
    assert len(set(positions)) == len(positions)
    assert len(commits) > 1
    for earlier, later in pairwise(commits):
        assert earlier["last"] < later["first"]
