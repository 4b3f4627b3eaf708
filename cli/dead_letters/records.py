"""Dead letters as they lie on their topics: read, filtered, and looked up one by one."""

import re
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaTimeoutError

from cli.broker import PATIENCE, administrator
from cli.console import Failure
from shared.cluster import Cluster
from shared.events import TOPICS
from shared.messaging import DEAD_HEADERS, MAX_RECORD_BYTES, Headers, RawRecord

REPLAYS: Final = "replays"
"""The header that says how often a record was replayed."""
MARK: Final = "dead_letter_replayed"
"""The header of a mark: the offset, in the mark's partition, of the dead letter that was replayed."""
_FETCH_MILLISECONDS: Final = 200


class Place(NamedTuple):
    """Where a dead letter lies."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def read(cls, text: str) -> "Place":
        """`TOPIC/PARTITION/OFFSET`, where the topic may be the one the record came from; raises Failure."""
        topic, _, rest = text.partition("/")
        if not (numbers := re.fullmatch(r"(\d{1,10})/(\d{1,18})", rest)):
            raise Failure(
                f"{text!r} names no dead letter: write TOPIC/PARTITION/OFFSET as `cdds dead-letters list` does"
            )
        return cls(dead_topic(topic), int(numbers[1]), int(numbers[2]))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What is said of a record that was put aside; its body stays where it is."""

    place: Place
    at: datetime
    """When it was put aside."""
    type: str
    key: bytes | None
    tenant: str
    reason: str
    handler: str
    """The service that could not apply it."""
    source: Place | None
    """Where it came from; None when it does not say so."""
    replays: int
    """How often it had been replayed when it was put aside."""
    digest: bytes
    """Of key, body and original headers."""
    left_out: int | None = None
    """The bytes of a record that was too large to be put aside whole; None for all others."""
    replayed_at: datetime | None = None

    @property
    def identity(self) -> tuple[Place | None, bytes]:
        """The same for the same record, whoever put it aside; a broker that lost its data gives places once more."""
        return self.source, self.digest

    @classmethod
    def of(cls, record: RawRecord) -> "DeadLetter":
        """What the headers of `record` say."""
        said = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}
        return cls(
            place=Place(record.topic, record.partition, record.offset),
            at=_moment(record.timestamp),
            type=said.get("ce_type", ""),
            key=record.key,
            tenant=said.get("ce_tenantid", ""),
            reason=said.get("dead_reason", ""),
            handler=said.get("dead_consumer", ""),
            source=_source(said),
            replays=_number(said.get(REPLAYS, "")) or 0,
            digest=_digest(record),
            left_out=_number(said.get("dead_bytes", "")),
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant; None means any."""

    topic: str | None = None
    since: datetime | None = None
    type: str | None = None
    """With or without what stands around the event's name, as in `cdds.JobCreated.v1`."""
    tenant: str | None = None
    handler: str | None = None
    waiting: bool = False
    """Only those that were not replayed."""

    @property
    def topics(self) -> list[str]:
        """Where they lie; raises Failure for a topic that has no dead letters."""
        return [topic.dead for topic in TOPICS] if self.topic is None else [dead_topic(self.topic)]

    def takes(self, letter: DeadLetter) -> bool:
        """Whether this one is meant."""
        names = {letter.type, *letter.type.split(".")[1:2]}
        return (
            (self.since is None or letter.at >= self.since)
            and (self.type is None or self.type in names)
            and self.tenant in (None, letter.tenant)
            and self.handler in (None, letter.handler)
            and not (self.waiting and letter.replayed_at)
        )


def dead_topic(name: str) -> str:
    """The dead-letter topic that is meant by its own name or by that of the topic it belongs to; raises Failure."""
    for topic in TOPICS:
        if name in (topic.name, topic.dead):
            return topic.dead
    known = ", ".join(topic.name for topic in TOPICS)
    raise Failure(f"the topic {name!r} has no dead letters: use one of {known}")


def original_headers(record: RawRecord) -> Headers:
    """The headers as they were before the record was put aside."""
    return [(name, value) for name, value in record.headers if name not in DEAD_HEADERS]


async def find(cluster: Cluster, selection: Selection) -> list[DeadLetter]:
    """The dead letters that are meant, the oldest first; raises KafkaError."""
    found: dict[Place, DeadLetter] = {}
    topics = selection.topics
    async with _reader(cluster) as consumer:
        ends = await _ends(cluster, consumer, topics, selection.since)
        async for record in _read(consumer, ends):
            mark = next((value for name, value in record.headers if name == MARK), None)
            if mark is None:
                letter = DeadLetter.of(record)
                found[letter.place] = letter
            elif (offset := _number(mark.decode("ascii", "replace"))) is not None:
                replayed = found.get(Place(record.topic, record.partition, offset))
                if replayed is not None:
                    found[replayed.place] = replace(replayed, replayed_at=_moment(record.timestamp))
    return sorted(filter(selection.takes, found.values()), key=lambda letter: (letter.at, letter.place))


async def look_up(cluster: Cluster, places: Iterable[Place]) -> AsyncGenerator[RawRecord]:
    """The records at these places, in this order; raises Failure for one that is not there, and KafkaError."""
    wanted = list(places)
    async with _reader(cluster) as consumer:
        ends = await _ends(cluster, consumer, sorted({place.topic for place in wanted}), None)
        begins = await consumer.beginning_offsets(list(ends)) if ends else {}
        for place in wanted:
            partition = TopicPartition(place.topic, place.partition)
            if not begins.get(partition, 0) <= place.offset < ends.get(partition, 0):
                raise Failure(f"there is no dead letter {place}: it was never there, or is gone after 7 days")
        for place in wanted:
            partition = TopicPartition(place.topic, place.partition)
            if await consumer.position(partition) != place.offset:
                consumer.seek(partition, place.offset)
            record = await _next(consumer, partition)
            if record.offset != place.offset or any(name == MARK for name, _ in record.headers):
                raise Failure(f"there is no dead letter {place}: that is the mark of one that was replayed")
            yield record


@asynccontextmanager
async def _reader(cluster: Cluster) -> AsyncGenerator[AIOKafkaConsumer]:
    """A consumer that belongs to no group, so nothing is ever committed."""
    consumer = AIOKafkaConsumer(
        **cluster.client(),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=MAX_RECORD_BYTES,
        request_timeout_ms=PATIENCE // timedelta(milliseconds=1),
    )
    try:
        await consumer.start()
        yield consumer
    finally:
        await consumer.stop()


async def _ends(
    cluster: Cluster, consumer: AIOKafkaConsumer, topics: Sequence[str], since: datetime | None
) -> Mapping[TopicPartition, int]:
    """Put the consumer where the topics, or their records `since` then, begin; says where they end now."""
    async with administrator(cluster) as admin:
        existing = set(await admin.list_topics())
        present = [topic for topic in topics if topic in existing]
        described: list[Any] = await admin.describe_topics(present) if present else []
    partitions = [
        TopicPartition(topic["topic"], partition["partition"])
        for topic in described
        for partition in topic["partitions"]
    ]
    if not partitions:
        return {}
    consumer.assign(partitions)
    ends: Mapping[TopicPartition, int] = await consumer.end_offsets(partitions)
    if since is None:
        await consumer.seek_to_beginning(*partitions)
        return ends
    milliseconds = int(since.timestamp() * 1000)
    starts = await consumer.offsets_for_times(dict.fromkeys(partitions, milliseconds))
    for partition in partitions:
        found = starts.get(partition)
        consumer.seek(partition, ends[partition] if found is None else found.offset)
    return ends


async def _read(consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]) -> AsyncGenerator[RawRecord]:
    """The records from where the consumer is up to `ends`."""
    waited = timedelta(0)
    left = dict(ends)
    while left := {at: end for at, end in left.items() if await consumer.position(at) < end}:
        batches = await consumer.getmany(*left, timeout_ms=_FETCH_MILLISECONDS)
        waited = timedelta(0) if batches else waited + timedelta(milliseconds=_FETCH_MILLISECONDS)
        if waited > PATIENCE:
            raise KafkaTimeoutError(f"no records of {', '.join(sorted({at.topic for at in left}))} come")
        for at, batch in batches.items():
            for record in batch:
                if record.offset < ends[at]:
                    yield record


async def _next(consumer: AIOKafkaConsumer, partition: TopicPartition) -> RawRecord:
    """The record where the consumer is; raises KafkaTimeoutError."""
    waited = timedelta(0)
    while waited <= PATIENCE:
        for batch in (await consumer.getmany(partition, timeout_ms=_FETCH_MILLISECONDS, max_records=1)).values():
            return batch[0]
        waited += timedelta(milliseconds=_FETCH_MILLISECONDS)
    raise KafkaTimeoutError(f"the records of {partition.topic} do not come")


def _source(said: Mapping[str, str]) -> Place | None:
    if not said.get("dead_topic"):
        return None
    partition, offset = _number(said.get("dead_partition", "")), _number(said.get("dead_offset", ""))
    return Place(said["dead_topic"], -1 if partition is None else partition, -1 if offset is None else offset)


def _digest(record: RawRecord) -> bytes:
    digest = sha256()
    for part in (
        record.key,
        record.value,
        *(part for name, value in original_headers(record) for part in (name, value)),
    ):
        text = part.encode() if isinstance(part, str) else part
        digest.update(b"-" if text is None else b"%d:%s" % (len(text), text))
    return digest.digest()


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
