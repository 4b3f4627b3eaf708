"""What other languages and other tools are given: JSON Schemas, AsyncAPI, CloudEvents."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import orjson
import pytest
from aiokafka import AIOKafkaConsumer
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from faststream.specification import AsyncAPI

from services.exporter import consumers as exporter
from services.history import consumers as history
from services.job_api import consumers as job_api
from services.scheduler import consumers as scheduler
from shared import contracts
from shared.cluster import Cluster
from shared.events import EVENT_TYPES, TOPICS, CertificateAdded, Event
from shared.inbox import Inbox
from shared.messaging import Producer, Record, ensure_topics, producer
from tests.contracts.examples import EXAMPLES

COMMITTED = Path(__file__).parents[2] / "docs" / "contracts"
PATIENCE = timedelta(seconds=20)


def test_the_committed_schemas_are_current(tmp_path: Path) -> None:
    """After a change: `python -m shared.contracts docs/contracts`."""
    contracts.write(tmp_path)
    written = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert written == {file.name: file.read_text() for file in COMMITTED.glob("*.schema.json")}


def test_every_event_is_in_the_schema_of_its_topic() -> None:
    schemas = {topic: contracts.schema(topic) for topic in TOPICS}
    named = {place["title"] for schema in schemas.values() for place in schema["anyOf"]}
    assert named == set(EVENT_TYPES)
    for event in EVENT_TYPES.values():
        properties = schemas[event.topic]["$defs"][event.__name__]["properties"]
        assert set(orjson.loads(EXAMPLES[event].model_dump_json())) == set(properties)


class NoStore:
    """Stands where a store is only named, never called."""

    def __getattr__(self, name: str) -> Any:
        return name


@pytest.mark.parametrize(
    ("service", "register"),
    [
        ("job_api", job_api.register),
        ("scheduler", scheduler.register),
        ("exporter", exporter.register),
        ("history", history.register),
    ],
)
async def test_the_asyncapi_document_of_each_service_shows_what_it_consumes(
    service: str, register: Callable[[Inbox, Any], None]
) -> None:
    inbox = Inbox(service, cast("Producer", None), PATIENCE)
    register(inbox, NoStore())
    document = AsyncAPI(inbox.broker(Cluster("127.0.0.1:9092")), title=service).to_specification().to_jsonable()
    assert {channel["address"] for channel in document["channels"].values()} == set(inbox.topics)
    shown = {event for event in EVENT_TYPES.values() if event.__name__ in document["components"]["schemas"]}
    assert {event.topic.name for event in shown} == set(inbox.topics)


async def test_the_official_cloudevents_library_reads_what_we_publish(bootstrap: str) -> None:
    await ensure_topics(Cluster(bootstrap), 6, 1)
    tenant = f"t{uuid4()}"
    event = EXAMPLES[CertificateAdded].model_copy(update={"tenant": tenant})
    async with (
        producer(Cluster(bootstrap), "test", PATIENCE) as kafka,
        AIOKafkaConsumer(
            event.topic.name, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=None
        ) as consumer,
        asyncio.timeout(30),
    ):
        await kafka.publish([Record.of(event)])
        record = await consumer.getone()
        while record.key != tenant.encode():
            record = await consumer.getone()
    assert record.value is not None
    read = from_binary(KafkaMessage(dict(record.headers), record.key, record.value), JSONFormat())
    assert read.get_id() == str(event.event_id)
    assert read.get_type() == "cdds.CertificateAdded.v1"
    assert read.get_source() == "/cdds/job_api"
    assert read.get_subject() == tenant
    assert read.get_time() == event.occurred_at
    assert read.get_datacontenttype() == "application/json"
    assert read.get_extension("tenantid") == tenant
    assert type(event).model_validate(read.get_data()) == event


@pytest.mark.parametrize("event", EXAMPLES.values(), ids=lambda event: type(event).__name__)
def test_the_official_cloudevents_library_reads_every_event(event: Event) -> None:
    record = Record.of(event)
    read = from_binary(KafkaMessage(dict(record.headers()), record.key, record.value.encode()), JSONFormat())
    assert type(event).model_validate(read.get_data()) == event
    assert EVENT_TYPES[read.get_type()] is type(event)


def test_the_schemas_leave_room_for_fields_of_a_later_version() -> None:
    for topic in TOPICS:
        for name, shape in contracts.schema(topic)["$defs"].items():
            assert shape.get("additionalProperties") is not False, name
