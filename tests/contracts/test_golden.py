"""One golden message per event: the producer must write it, the consumer must read it.

After adding an optional field: `python -m tests.contracts.test_golden` writes the messages anew, and the difference
shows in review what other services and other languages will see.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import ConsumerRecord

from shared.events import EVENT_TYPES, Event
from shared.messaging import Record, decode
from tests.contracts.examples import EXAMPLES

FOLDER = Path(__file__).parent

each_event = pytest.mark.parametrize("event", EXAMPLES.values(), ids=lambda event: type(event).__name__)


def message(event: Event) -> dict[str, Any]:
    """What is on Kafka after `event` was published."""
    record = Record.of(event)
    headers = {name: value.decode() for name, value in record.headers()}
    return {"topic": record.topic, "key": record.key, "headers": headers, "value": orjson.loads(record.value)}


def path(event: Event) -> Path:
    return FOLDER / f"{type(event).__name__}.json"


def golden(event: Event) -> dict[str, Any]:
    return orjson.loads(path(event).read_bytes())


def consumer_record(written: dict[str, Any]) -> "ConsumerRecord[bytes | None, bytes | None]":
    headers = tuple((name, value.encode()) for name, value in written["headers"].items())
    value = orjson.dumps(written["value"])
    return ConsumerRecord(
        written["topic"], 0, 0, 0, 0, written["key"].encode(), value, None, len(written["key"]), len(value), headers
    )


def objects(value: object) -> Iterator[dict[str, Any]]:
    """Every object inside `value` whose keys are names of fields."""
    if isinstance(value, dict):
        yield value
        for name, inner in value.items():
            if name not in ("labels", "masking"):  # their keys are the user's
                yield from objects(inner)


def test_every_event_has_a_golden_message_and_every_golden_message_an_event() -> None:
    assert {event.type_name() for event in EXAMPLES} == set(EVENT_TYPES)
    assert {file.stem for file in FOLDER.glob("*.json")} == {event.__name__ for event in EXAMPLES}


@each_event
def test_the_producer_writes_the_golden_message(event: Event) -> None:
    assert message(event) == golden(event)


@each_event
def test_the_example_fills_every_field(event: Event) -> None:
    """A golden message that leaves a field to its default would not notice when that field is renamed."""
    defaulted = {"attempt"} if event.type_name() == "cdds.RunQueued.v1" else set[str]()
    assert set(type(event).model_fields) - defaulted == event.model_fields_set - defaulted


@each_event
def test_the_consumer_reads_the_golden_message(event: Event) -> None:
    assert decode(consumer_record(golden(event))) == event


@each_event
def test_optional_fields_of_a_later_version_are_ignored_at_every_depth(event: Event) -> None:
    written = golden(event)
    found = list(objects(written["value"]))
    for place in found:
        place["added_later"] = {"anything": [1, None]}
    written["headers"]["ce_later"] = "1"
    assert decode(consumer_record(written)) == event


def write() -> None:
    for event in EXAMPLES.values():
        path(event).write_bytes(orjson.dumps(message(event), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    write()
