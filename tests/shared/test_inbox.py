"""The inbox on real brokers: nothing is skipped, nothing is lost, and one bad record harms no other."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest
from aiokafka import AIOKafkaProducer
from prometheus_client import REGISTRY

from shared.cluster import Cluster
from shared.events import Event
from shared.inbox import Inbox, Stalled
from shared.messaging import MAX_RECORD_BYTES, Producer, Record, producer
from shared.tracing import Off
from tests.shared.events import Private, private

PATIENCE = timedelta(seconds=20)


@pytest.fixture
async def own(bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> Private:
    return await private(bootstrap, monkeypatch)


@pytest.fixture
async def kafka(bootstrap: str) -> AsyncIterator[Producer]:
    async with producer(Cluster(bootstrap), "test", PATIENCE) as connected:
        yield connected


def happened(own: Private, number: int) -> Event:
    return own.happened.model_validate({"occurred_at": datetime.now(UTC), "tenant": "acme", "number": number})


async def publish(kafka: Producer, own: Private, *numbers: int) -> None:
    await kafka.publish([Record.of(happened(own, number)) for number in numbers])


class Handled:
    """Remembers the numbers it was given, and can be waited for."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._changed = asyncio.Event()

    def __call__(self, event: Any) -> None:
        self.numbers.append(event.number)
        self._changed.set()

    async def until(self, *numbers: int) -> None:
        async with asyncio.timeout(30):
            while not set(numbers) <= set(self.numbers):
                self._changed.clear()
                await self._changed.wait()


class Gathered(list[tuple[Any, bytes]]):
    """Events and their bodies; does not take a `refused` number in."""

    refused = -1

    def add(self, event: Any, body: bytes) -> None:
        if event.number == self.refused:
            raise RuntimeError("a bug, äöü")
        self.append((event, body))


def remembering(own: Private, kafka: Producer) -> tuple[Inbox, Handled]:
    """An inbox of the group, and what it has handled."""
    inbox, handled = Inbox(own.group, kafka, PATIENCE), Handled()

    @inbox.on(own.happened)
    async def remember(event: Event) -> None:
        handled(event)

    return inbox, handled


@asynccontextmanager
async def running(inbox: Inbox, bootstrap: str) -> AsyncGenerator["asyncio.Task[None]"]:
    task = asyncio.create_task(inbox.run(Cluster(bootstrap)))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until_committed(own: Private, bootstrap: str, offset: int) -> None:
    async with asyncio.timeout(30):
        while await own.committed(bootstrap) != offset:
            pass


def consumed(own: Private) -> dict[str, float]:
    outcomes = ("applied", "ignored", "dead")
    labels = [{"topic": own.topic.name, "outcome": outcome} for outcome in outcomes]
    return {of["outcome"]: REGISTRY.get_sample_value("cdds_events_consumed_total", of) or 0 for of in labels}


Headers = list[tuple[str, bytes | None]]


def bad_records(own: Private) -> list[tuple[str, bytes | None, Headers]]:
    """Records that no version of us can read: a word of the reason, the value, the headers."""
    record = Record.of(happened(own, 1))
    good, headers = record.value.encode(), record.headers()

    def typed(name: bytes) -> Headers:
        return [("ce_type", name) if header == "ce_type" else (header, value) for header, value in headers]

    return [
        ("is not a", b'{"number": ', headers),
        ("is not a", b'"\xff\xfe"', headers),
        ("is not a", b'{"number": 1}', headers),
        ("is not a", b"", headers),
        ("is unknown here", good, typed(b"cdds.Nonsense.v1")),
        ("is unknown here", good, typed(record.type.replace(".v1", ".v2").encode())),
        ("is unknown here", good, typed(b"\xff\xfe")),
        ("has no value", None, headers),
        ("has no ce_type", good, []),
        ("has no ce_type", good, [("ce_type", None), ("traceparent", None)]),
    ]


async def test_what_cannot_be_read_is_dead_lettered_unchanged_and_the_next_record_is_handled(
    bootstrap: str, kafka: Producer, own: Private
) -> None:
    bad = bad_records(own)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as raw:
        for _, value, headers in bad:
            await raw.send_and_wait(own.topic.name, value, key=b"k\xff", headers=headers)
    ended = own.ended.model_validate({"occurred_at": datetime.now(UTC), "tenant": "acme", "number": 1})
    await kafka.publish([Record.of(ended)])
    await publish(kafka, own, 7)
    inbox, handled = remembering(own, kafka)
    async with running(inbox, bootstrap), asyncio.timeout(60):
        await handled.until(7)
        buried = await own.records(bootstrap, own.topic.dead, len(bad))
        await until_committed(own, bootstrap, len(bad) + 2)
    assert handled.numbers == [7]
    for offset, (record, (reason, value, headers)) in enumerate(zip(buried, bad, strict=True)):
        assert (record.key, record.value) == (b"k\xff", value)
        assert list(record.headers[: len(headers)]) == headers
        origin = dict(record.headers[len(headers) :])
        assert reason in origin.pop("dead_reason").decode()
        assert origin == {
            "dead_consumer": own.group.encode(), "dead_topic": own.topic.name.encode(),
            "dead_partition": b"0", "dead_offset": str(offset).encode(),
        }  # fmt: skip
    # I11: every record is accounted for.
    assert consumed(own) == {"applied": 1, "ignored": 1, "dead": len(bad)}


async def test_a_trace_without_a_value_stops_nobody_who_traces(
    bootstrap: str, kafka: Producer, own: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tracing(Off):
        on = True

    monkeypatch.setattr("shared.inbox.tracer", Tracing)
    record = Record.of(happened(own, 7))
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as raw:
        headers = [*record.headers(), ("traceparent", None)]
        await raw.send_and_wait(own.topic.name, record.value.encode(), key=b"acme", headers=headers)
    inbox, handled = remembering(own, kafka)
    async with running(inbox, bootstrap):
        await handled.until(7)


async def test_a_record_too_large_to_be_put_aside_leaves_its_place_and_its_size_and_the_next_is_handled(
    bootstrap: str, kafka: Producer, own: Private
) -> None:
    headers = Record.of(happened(own, 1)).headers()
    value = b'{"number": 1}' + b" " * (MAX_RECORD_BYTES + 1)
    # Packed, it is a small record of any topic.
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, compression_type="gzip", max_request_size=2 * MAX_RECORD_BYTES
    ) as raw:
        await raw.send_and_wait(own.topic.name, value, key=b"k", headers=headers)
    await publish(kafka, own, 7)
    inbox, handled = remembering(own, kafka)
    async with running(inbox, bootstrap):
        await handled.until(7)
        [buried] = await own.records(bootstrap, own.topic.dead, 1)
    assert (buried.key, buried.value) == (None, None)
    said = dict(buried.headers)
    assert said["ce_type"].decode() == own.happened.type_name()
    assert "is not a" in said["dead_reason"].decode()
    assert (said["dead_topic"].decode(), said["dead_offset"]) == (own.topic.name, b"0")
    assert len(value) < int(said["dead_bytes"]) < len(value) + 3000


async def test_a_record_its_handler_cannot_bear_is_dead_lettered_after_three_tries_and_order_is_kept(
    bootstrap: str, kafka: Producer, own: Private
) -> None:
    await publish(kafka, own, *range(10))
    handled = Handled()
    tries: list[int] = []
    inbox = Inbox(own.group, kafka, PATIENCE)

    async def remember(received: Gathered) -> None:
        events = [event for event, _ in received]
        assert [orjson.loads(body)["number"] for _, body in received] == [event.number for event in events]
        numbers = [event.number for event in events]
        if 4 in numbers:
            tries.append(len(numbers))
            raise RuntimeError("a bug, äöü")
        for event in events:
            handled(event)

    inbox.on_batch(Gathered, remember, [own.happened])
    async with running(inbox, bootstrap):
        await handled.until(9)
        [buried] = await own.records(bootstrap, own.topic.dead, 1)
    assert handled.numbers == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [size for size in tries if size == 1] == [1, 1, 1]
    assert (
        happened(own, 4).model_dump(include={"number"}).items()
        <= own.happened.model_validate_json(buried.value or b"").model_dump().items()
    )
    said = {name: value.decode() for name, value in buried.headers}
    assert "the handler failed 3 times: RuntimeError('a bug, äöü')" in said["dead_reason"]
    assert said["dead_traceback"].endswith("RuntimeError: a bug, äöü\n")
    assert consumed(own) == {"applied": 9, "ignored": 0, "dead": 1}


async def test_a_record_that_cannot_be_gathered_harms_no_other_and_is_dead_lettered_in_its_turn(
    bootstrap: str, kafka: Producer, own: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gathered, "refused", 4)
    await publish(kafka, own, *range(10))
    handled = Handled()
    inbox = Inbox(own.group, kafka, PATIENCE)

    async def remember(received: Gathered) -> None:
        for event, _ in received:
            handled(event)

    inbox.on_batch(Gathered, remember, [own.happened])
    async with running(inbox, bootstrap):
        await handled.until(9)
        [buried] = await own.records(bootstrap, own.topic.dead, 1)
        await until_committed(own, bootstrap, 10)
    assert handled.numbers == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert "the handler failed 3 times: RuntimeError('a bug, äöü')" in dict(buried.headers)["dead_reason"].decode()
    assert consumed(own) == {"applied": 9, "ignored": 0, "dead": 1}


async def test_what_is_too_old_changes_nothing_unless_it_lasts(
    bootstrap: str, kafka: Producer, own: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own.ended, "lasting", True)
    long_ago = {"occurred_at": datetime.now(UTC) - timedelta(days=2), "tenant": "acme"}
    await kafka.publish(
        [
            Record.of(kind.model_validate({**long_ago, "number": number}))
            for number, kind in ((1, own.happened), (2, own.ended))
        ]
    )
    await publish(kafka, own, 3)
    handled = Handled()
    inbox = Inbox(own.group, kafka, PATIENCE, follows_for=timedelta(days=1))

    @inbox.on(own.happened, own.ended)
    async def remember(event: Event) -> None:
        handled(event)

    async with running(inbox, bootstrap):
        await handled.until(2, 3)
        await until_committed(own, bootstrap, 3)
    assert handled.numbers == [2, 3]
    assert await own.end(bootstrap, own.topic.dead) == 0
    labels = {"topic": own.topic.name, "outcome": "too_old"}
    assert REGISTRY.get_sample_value("cdds_events_consumed_total", labels) == 1


async def test_an_outage_dead_letters_nothing(bootstrap: str, kafka: Producer, own: Private) -> None:
    await publish(kafka, own, 1, 2)
    handled = Handled()
    outages = [asyncpg.ConnectionDoesNotExistError("gone"), ConnectionRefusedError(), TimeoutError()]
    inbox = Inbox(own.group, kafka, PATIENCE)

    @inbox.on(own.happened)
    async def remember(event: Event) -> None:
        if outages:
            raise outages.pop()
        handled(event)

    async with running(inbox, bootstrap):
        await handled.until(1, 2)
        await until_committed(own, bootstrap, 2)
    assert handled.numbers == [1, 2]
    assert await own.end(bootstrap, own.topic.dead) == 0


async def test_an_outage_beyond_the_patience_ends_the_run_and_the_next_one_begins_with_the_same_record(
    bootstrap: str, kafka: Producer, own: Private
) -> None:
    await publish(kafka, own, 1)
    inbox = Inbox(own.group, kafka, timedelta(0))

    @inbox.on(own.happened)
    async def fail(event: Event) -> None:
        raise ConnectionRefusedError("PostgreSQL is away")

    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(60):
            await inbox.run(Cluster(bootstrap))
    assert raised.group_contains(ConnectionRefusedError, match="PostgreSQL is away")
    assert not await own.committed(bootstrap)
    assert await own.end(bootstrap, own.topic.dead) == 0

    restarted, handled = remembering(own, kafka)
    async with running(restarted, bootstrap):
        await handled.until(1)
        await until_committed(own, bootstrap, 1)

    # Restarted once more, it is given only what came since.
    await publish(kafka, own, 2)
    once_more, again = remembering(own, kafka)
    async with running(once_more, bootstrap):
        await again.until(2)
    assert (handled.numbers, again.numbers) == ([1], [2])


async def test_neighbours_with_one_handler_come_as_one_batch_and_order_is_kept_between_handlers(
    bootstrap: str, kafka: Producer, own: Private
) -> None:
    ended = own.ended.model_validate({"occurred_at": datetime.now(UTC), "tenant": "acme", "number": 2})
    await kafka.publish([Record.of(event) for event in (happened(own, 0), happened(own, 1), ended, happened(own, 3))])
    handled = Handled()
    inbox = Inbox(own.group, kafka, PATIENCE)

    @inbox.on(own.ended)
    async def one(event: Event) -> None:
        handled(event)

    async def many(received: Gathered) -> None:
        for event, _ in received:
            handled(event)

    inbox.on_batch(Gathered, many, [own.happened])
    async with running(inbox, bootstrap):
        await handled.until(3)
    assert handled.numbers == [0, 1, 2, 3]


async def test_a_handler_that_hangs_on_the_last_records_is_noticed(
    bootstrap: str, kafka: Producer, own: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is fetched by then, so nothing is behind."""
    monkeypatch.setattr("shared.inbox.STALLED_AFTER", timedelta(0))
    await publish(kafka, own, 1)
    inbox = Inbox(own.group, kafka, timedelta(seconds=1))
    begun = asyncio.Event()

    @inbox.on(own.happened)
    async def hang(_: Event) -> None:
        begun.set()
        await asyncio.Event().wait()

    await inbox.check()
    async with running(inbox, bootstrap), asyncio.timeout(60):
        await begun.wait()
        with pytest.raises(Stalled):
            await inbox.check()


async def test_a_stop_begins_no_other_batch_and_what_was_not_handled_comes_again(
    bootstrap: str, kafka: Producer, own: Private
) -> None:
    first = Handled()
    begun, go_on = asyncio.Event(), asyncio.Event()
    inbox = Inbox(own.group, kafka, PATIENCE, batch_records=1)

    @inbox.on(own.happened)
    async def slowly(event: Event) -> None:
        begun.set()
        await go_on.wait()
        first(event)

    await publish(kafka, own, *range(5))
    async with running(inbox, bootstrap) as task:
        await begun.wait()
        task.cancel()
        await asyncio.sleep(0)  # the stop waits for the batch in hand by now
        go_on.set()
        await asyncio.gather(task, return_exceptions=True)
    assert first.numbers == [0]

    again, second = remembering(own, kafka)
    async with running(again, bootstrap):
        await second.until(1, 2, 3, 4)
    assert second.numbers == [1, 2, 3, 4]
