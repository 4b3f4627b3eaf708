"""Kafka as transport: events as CloudEvents records, an idempotent producer, the topics and the dead letters."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from traceback import format_exception
from typing import Any, Final, TypeAlias
from uuid import UUID

from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaTimeoutError, TopicAlreadyExistsError, for_code
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata
from pydantic import ValidationError

from shared.clock import utc_text
from shared.cluster import Cluster
from shared.events import EVENT_TYPES, TOPICS, Event
from shared.observability import PUBLISHED

Headers: TypeAlias = list[tuple[str, bytes]]
RawRecord: TypeAlias = "ConsumerRecord[bytes | None, bytes | None]"

MAX_RECORD_BYTES: Final = 8 * 1024 * 1024
RETENTION: Final = timedelta(days=7)
REPLAY_RETENTION: Final = timedelta(days=1)
DEAD_HEADERS: Final = (
    "dead_reason",
    "dead_consumer",
    "dead_topic",
    "dead_partition",
    "dead_offset",
    "dead_traceback",
    "dead_bytes",
)
"""What `Producer.bury` puts behind the headers of a record; without them it is as it was."""
TRACEBACK_BYTES: Final = 8000
"""Of the end, which names the error."""


@dataclass(frozen=True, slots=True)
class Record:
    """One event on its way to Kafka."""

    topic: str
    key: str
    type: str
    tenant: str
    event_id: UUID
    occurred_at: datetime
    value: str
    extra: tuple[tuple[str, bytes], ...] = ()
    """Headers beside those of CloudEvents."""
    partition: int | None = None
    """Where it goes; None leaves that to the key."""

    @classmethod
    def of(cls, event: Event) -> "Record":
        """The record of `event`."""
        return cls(
            event.topic.name, event.key, event.type_name(), event.tenant,
            event.event_id, event.occurred_at, event.model_dump_json(),
        )  # fmt: skip

    def headers(self) -> Headers:
        """CloudEvents 1.0, Kafka binding, binary mode."""
        return [
            ("ce_specversion", b"1.0"),
            ("ce_id", str(self.event_id).encode()),
            ("ce_type", self.type.encode()),
            ("ce_source", b"/cdds/" + self.topic.partition(".")[0].encode()),
            ("ce_time", utc_text(self.occurred_at).encode()),
            ("ce_subject", self.key.encode()),
            ("ce_tenantid", self.tenant.encode()),
            ("content-type", b"application/json"),
            *self.extra,
        ]


class Producer:
    """An idempotent producer that waits for all in-sync replicas."""

    def __init__(self, kafka: AIOKafkaProducer, patience: timedelta) -> None:
        self._kafka = kafka
        self._patience = patience

    async def publish(self, records: Iterable[Record]) -> None:
        """Return when Kafka has acknowledged every record; raises KafkaError when it did not within the patience.

        The batches are built here, because `send` makes a future per record: 200,000 events of 1 kB took the relay
        7.2 s of CPU time that way and take 3.3 s this way (`make bench-outbox`).
        """
        filling: dict[tuple[str, int], BatchBuilder] = {}
        sent: list[asyncio.Future[RecordMetadata]] = []
        counts: Counter[str] = Counter()

        async def send(topic: str, partition: int) -> None:
            batch = filling.pop((topic, partition))
            batch.close()
            counts[topic] += batch.record_count()
            sent.append(await self._kafka.send_batch(batch, topic, partition=partition))

        for record in records:
            key, value, headers = record.key.encode(), record.value.encode(), record.headers()
            partition = record.partition
            if partition is None:
                partition = _partition(key, await self.partitions(record.topic))
            place = record.topic, partition
            batch = filling.get(place)
            if batch is None or batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                if batch is not None:
                    await send(*place)
                # A partition's batches leave in the order of their making; an empty one takes any record.
                batch = filling[place] = self._kafka.create_batch()
                batch.append(key=key, value=value, timestamp=None, headers=headers)
        for place in list(filling):
            await send(*place)
        try:
            # aiokafka's own bound restarts with every retry.
            async with asyncio.timeout(2 * self._patience.total_seconds()):
                await asyncio.gather(*sent)
        except TimeoutError as error:
            raise KafkaTimeoutError from error
        for topic, count in counts.items():
            PUBLISHED.labels(topic).inc(count)

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has."""
        return len(await self._kafka.partitions_for(topic))

    async def bury(self, record: RawRecord, reason: str, consumer: str, error: BaseException | None = None) -> None:
        """Put `record` unchanged on its topic's dead-letter topic, with the reason and where it came from.

        Of one that is too large for that, `dead_bytes` says how large it is; key, body and other headers stay where
        they are.
        """
        origin: Headers = [
            ("dead_reason", reason.encode()[:1000]),
            ("dead_consumer", consumer.encode()),
            ("dead_topic", record.topic.encode()),
            ("dead_partition", str(record.partition).encode()),
            ("dead_offset", str(record.offset).encode()),
        ]
        if error is not None:
            origin.append(("dead_traceback", "".join(format_exception(error)).encode()[-TRACEBACK_BYTES:]))
        key, value, headers = record.key, record.value, [*record.headers, *origin]
        if (size := _size(key, value, headers)) > MAX_RECORD_BYTES:
            # Unpacked, or with our headers, it is larger than a topic takes; its consumer must get on all the same.
            said = [(name, text[:1000]) for name, text in headers if text and name in ("ce_type", "ce_tenantid")][:2]
            key, value, headers = None, None, [*said, *origin, ("dead_bytes", str(size).encode())]
        await self.put(f"{record.topic}.dead", key, value, headers)

    async def put(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, partition: int | None = None
    ) -> RecordMetadata:
        """Publish one record as it is; says where it went when Kafka has acknowledged it."""
        if key is not None or value is not None:
            return await self._kafka.send_and_wait(topic, value, key=key, headers=headers, partition=partition)
        # `send` refuses records of nothing but headers; whoever wrote one must not stop those who bury it.
        batch = self._kafka.create_batch()
        batch.append(key=None, value=None, timestamp=None, headers=headers)
        batch.close()
        return await (await self._kafka.send_batch(batch, topic, partition=partition or 0))


def _size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """At least what Kafka counts of a record that is sent alone: lengths take up to 5 bytes each."""
    parts = [key or b"", value or b"", *(part for name, text in headers for part in (name.encode(), text or b""))]
    return 128 + sum(len(part) + 5 for part in parts)


@lru_cache(maxsize=16_384)
def _partition(key: bytes, partitions: int) -> int:
    """Where every Kafka client puts a key; cached, because murmur2 in Python takes 5 µs and keys come back soon."""
    return DefaultPartitioner()(key, range(partitions), ())


@asynccontextmanager
async def producer(cluster: Cluster, client: str, patience: timedelta) -> AsyncGenerator[Producer]:
    """Connect a producer; one that met a fatal error is not mended but replaced, by leaving and entering again."""
    kafka = AIOKafkaProducer(
        **cluster.client(),
        client_id=client,
        acks="all",
        enable_idempotence=True,
        max_batch_size=256 * 1024,
        max_request_size=MAX_RECORD_BYTES,
        request_timeout_ms=int(patience.total_seconds() * 1000),
    )
    await kafka.start()
    try:
        yield Producer(kafka, patience)
    finally:
        await kafka.stop()


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """A topic as it shall be."""

    name: str
    partitions: int
    replication: int
    retention: timedelta

    def configs(self) -> dict[str, str]:
        """Kafka's names and values; none is compacted, for a key stands for many events."""
        return {
            "cleanup.policy": "delete",
            "retention.ms": str(self.retention // timedelta(milliseconds=1)),
            "max.message.bytes": str(MAX_RECORD_BYTES),
        }


def topic_settings(partitions: int, replication: int) -> list[TopicSettings]:
    """The project's topics, each with those for dead letters and for replays."""
    return [
        TopicSettings(name, partitions, replication, retention)
        for topic in TOPICS
        for name, retention in ((topic.name, RETENTION), (topic.dead, RETENTION), (topic.replay, REPLAY_RETENTION))
    ]


async def ensure_topics(cluster: Cluster, partitions: int, replication: int) -> None:
    """Create the project's topics where they are missing; those that exist stay as they are."""
    admin = AIOKafkaAdminClient(**cluster.client())
    await admin.start()
    try:
        await create_topics(admin, topic_settings(partitions, replication))
    finally:
        await admin.close()


async def create_topics(admin: AIOKafkaAdminClient, wanted: Sequence[TopicSettings]) -> None:
    """Create those that do not exist; raises KafkaError."""
    answer: Any = await admin.create_topics(
        [NewTopic(t.name, t.partitions, t.replication, topic_configs=t.configs()) for t in wanted]
    )
    for topic, code, *rest in answer.topic_errors:
        error = for_code(code)
        if code != 0 and error is not TopicAlreadyExistsError:
            raise error(f"{topic}: {rest}")


class Undecodable(Exception):
    """The record is not an event this version can read."""


def decode(record: RawRecord) -> Event:
    """The event in `record`; raises Undecodable with a sentence that says what is wrong."""
    if (raw_type := next((value for name, value in record.headers if name == "ce_type"), None)) is None:
        raise Undecodable("the record has no ce_type header")
    name = raw_type.decode("utf-8", "replace")
    if (model := EVENT_TYPES.get(name)) is None:
        raise Undecodable(f"the type {name!r} is unknown here; a newer version may have written it")
    if record.value is None:
        raise Undecodable("the record has no value")
    try:
        # Job settings refuse unknown fields where people write them; in an event a later version may have added some.
        return model.model_validate_json(record.value, extra="ignore")
    except (ValidationError, ValueError) as error:
        raise Undecodable(f"the value is not a {name}: {error}") from error
