"""Events and topics of a test's own, so that tests share a broker without seeing each other's records."""

from dataclasses import dataclass
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from shared.events import EVENT_TYPES, Event, Topic
from shared.messaging import RawRecord


@dataclass(frozen=True)
class Private:
    """A topic with one partition that only one test knows, with the two events that travel on it."""

    topic: Topic
    happened: type[Event]
    ended: type[Event]
    group: str

    async def records(self, bootstrap: str, name: str, count: int) -> list[RawRecord]:
        """The first `count` records of a topic; waits for them."""
        async with AIOKafkaConsumer(
            name, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=None
        ) as consumer:
            return [await consumer.getone() for _ in range(count)]

    async def end(self, bootstrap: str, name: str) -> int:
        """How many records a topic has."""
        async with AIOKafkaConsumer(bootstrap_servers=bootstrap) as consumer:
            return (await consumer.end_offsets([TopicPartition(name, 0)]))[TopicPartition(name, 0)]

    async def committed(self, bootstrap: str) -> int | None:
        """The offset its group will go on from."""
        async with AIOKafkaConsumer(
            bootstrap_servers=bootstrap, group_id=self.group, enable_auto_commit=False
        ) as group:
            return await group.committed(TopicPartition(self.topic.name, 0))


async def private(bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> Private:
    """Make the topic and its dead-letter topic, and let its events be known for as long as the test runs."""
    identity = uuid4().hex
    topic = Topic(f"tests.{identity}.v1", key="tenant")

    class Happened(Event):
        """Something happened, `number` tells which."""

        number: int

    class Ended(Event):
        """Something of another type."""

        number: int

    for event in (Happened, Ended):
        event.topic = topic
        event.__name__ += identity
        monkeypatch.setitem(EVENT_TYPES, event.type_name(), event)
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1, 1) for name in (topic.name, topic.dead)])
    finally:
        await admin.close()
    return Private(topic, Happened, Ended, f"group-{identity}")
