"""Both brokers, started for real, under the same tests; Apache Kafka when this machine can run it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy.local.kafka import ApacheKafka, Broker, EmbeddedKafka, apache_jars, kafka_version, missing_for_apache

TOPIC = "tests.numbers.v1"
BROKERS = [
    pytest.param(EmbeddedKafka, id="embedded"),
    pytest.param(ApacheKafka, id="apache", marks=pytest.mark.apache),
]


def make(kind: type[EmbeddedKafka | ApacheKafka], data: Path) -> Broker:
    if kind is ApacheKafka and (missing := missing_for_apache()):
        pytest.skip(missing)
    return kind(data)


@pytest.fixture(params=BROKERS)
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    async with make(request.param, tmp_path / "broker") as running:
        yield running


async def create_topic(broker: Broker) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(TOPIC, num_partitions=3, replication_factor=1)])
    finally:
        await admin.close()


async def topics(broker: Broker) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        return set(await admin.list_topics())
    finally:
        await admin.close()


async def produce(broker: Broker, *numbers: int) -> None:
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", enable_idempotence=True) as producer:
        for number in numbers:
            key = str(number).encode()
            await producer.send_and_wait(TOPIC, key, key=key, headers=[("ce_type", b"Number")])


async def consume(broker: Broker, count: int) -> list[int]:
    """The next records for one group, in order of their numbers; commits them."""
    async with AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=broker.bootstrap,
        group_id="tests",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    ) as consumer:
        records = [await consumer.getone() for _ in range(count)]
        assert all(record.headers == (("ce_type", b"Number"),) and record.key == record.value for record in records)
        await consumer.commit()
        return sorted(int(record.value or b"") for record in records)


def member(broker: Broker, name: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=broker.bootstrap,
        group_id="tests",
        group_instance_id=name,
        enable_auto_commit=False,
    )


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.05)


async def stored(broker: Broker) -> int:
    """How many records the topic has, without a group."""
    async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap) as consumer:
        partitions = [TopicPartition(TOPIC, number) for number in range(3)]
        ends = await consumer.end_offsets(partitions)
        return sum(ends.values())


async def test_records_headers_and_a_groups_position_survive_a_clean_restart(broker: Broker):
    assert not broker.started_after_crash
    await create_topic(broker)
    await produce(broker, 1, 2, 3)
    assert await consume(broker, 2) != []
    address = broker.bootstrap
    await broker.stop()
    await broker.start()
    assert broker.bootstrap == address
    assert not broker.started_after_crash
    assert await stored(broker) == 3
    await produce(broker, 4)
    assert (await consume(broker, 2))[-1] == 4


async def test_a_killed_broker_starts_again_and_says_so(broker: Broker):
    await create_topic(broker)
    await produce(broker, 1, 2, 3)
    broker.kill()
    await broker.start()
    assert broker.started_after_crash
    if isinstance(broker, ApacheKafka):
        assert await consume(broker, 3) == [1, 2, 3]
    await broker.stop()
    await broker.start()
    assert not broker.started_after_crash


async def test_a_wiped_broker_has_lost_everything(broker: Broker):
    await create_topic(broker)
    with pytest.raises(RuntimeError, match="is running"):
        await broker.wipe()
    broker.kill()
    await broker.wipe()
    await broker.start()
    assert TOPIC not in await topics(broker)


async def test_stop_after_a_kill_does_not_make_the_end_a_clean_one(tmp_path: Path):
    broker = EmbeddedKafka(tmp_path)
    await broker.start()
    broker.kill()
    await broker.stop()
    async with broker:
        assert broker.started_after_crash


async def test_a_broker_forgotten_by_a_killed_parent_is_stopped_first(broker: Broker):
    async with type(broker)(broker.data) as successor:
        assert await broker.wait() in (0, 143)
        assert successor.pid != broker.pid
        assert successor.started_after_crash
        assert await topics(successor) is not None


async def test_the_loaders_note_stays_out_of_the_log(tmp_path: Path):
    lines: list[str] = []
    async with EmbeddedKafka(tmp_path, output=lambda _, line: lines.append(line)):
        pass
    assert not any("GLIBC" in line for line in lines)


async def test_jars_that_somebody_else_fetched_meanwhile_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    theirs = tmp_path / "cdds" / f"kafka-{kafka_version()}"
    ours = "${argument#-DoutputDirectory=}"
    (tmp_path / "mvn").write_text(f"""#!/bin/sh
for argument; do case $argument in -DoutputDirectory=*) mkdir -p "{ours}" && touch "{ours}/ours.jar";; esac; done
mkdir -p {theirs} && touch {theirs}/theirs.jar
""")
    (tmp_path / "mvn").chmod(0o755)
    assert await apache_jars() == theirs
    assert [path.name for path in theirs.parent.rglob("*.jar")] == ["theirs.jar"]


@pytest.mark.apache
async def test_apache_kafka_makes_no_topic_unasked(tmp_path: Path):
    async with make(ApacheKafka, tmp_path) as broker:
        assert await topics(broker) == set()


def test_the_pom_names_a_kafka_of_the_fourth_generation():
    assert kafka_version().startswith("4.")


def test_what_is_missing_for_apache_kafka_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing_for_apache() == "Apache Kafka needs Java 17 or newer, and there is no `java` on the PATH."
    (tmp_path / "java").write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    (tmp_path / "java").chmod(0o755)
    assert "11.0.2" in (missing_for_apache() or "")
    (tmp_path / "java").write_text("#!/bin/sh\necho 'openjdk version \"17.0.15\" 2025-04-15' >&2\n")
    assert missing_for_apache() == "Apache Kafka's jars are fetched with Maven, and there is no `mvn` on the PATH."
    (tmp_path / "cdds" / f"kafka-{kafka_version()}").mkdir(parents=True)
    assert missing_for_apache() is None


async def test_who_has_ended_leaves_no_partitions_to_nobody_once_it_is_forgotten(tmp_path: Path):
    """Otherwise the embedded broker keeps them for it, and what is in them is never read."""
    async with EmbeddedKafka(tmp_path / "broker") as broker:
        await create_topic(broker)
        async with member(broker, "stays") as stays:
            async with member(broker, "goes") as goes:
                await eventually(lambda: (len(stays.assignment()), len(goes.assignment())) in {(1, 2), (2, 1)})
            await broker.forget("tests", "goes")
            await eventually(lambda: len(stays.assignment()) == 3)
