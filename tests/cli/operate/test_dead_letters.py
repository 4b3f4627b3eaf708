"""`cdds dead-letters` beside a stack: what a service puts aside is found, shown, and handled once more."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from cli.broker import administrator
from deploy.local.stack import SERVICES, Stack
from shared.cluster import Cluster
from shared.events import CERTIFICATES, EXPORTED_RUNS, JOBS, SCHEDULED_RUNS
from shared.messaging import MAX_RECORD_BYTES
from tests.cli.operate.commands import cdds
from tests.system.driver import Tenant, eventually, execute, fetch

CLEAR_AND_BELL = "\x1b[2J\x07"
LATER = "2099-01-01T00:00:00Z"
"""A job that starts then does nothing meanwhile."""
Row = dict[str, Any]


@asynccontextmanager
async def faulty_handler(stack: Stack, title: str) -> AsyncIterator[None]:
    """As long as this lasts, history fails on jobs of this title, as a bug in it would."""
    await execute(
        stack,
        f"""CREATE FUNCTION history.fail() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
              IF NEW.title = '{title}' THEN RAISE EXCEPTION 'a bug in the handler'; END IF;
              RETURN NEW;
            END $$""",
        "CREATE TRIGGER fail BEFORE INSERT ON history.job_versions FOR EACH ROW EXECUTE FUNCTION history.fail()",
    )
    try:
        yield
    finally:
        await execute(stack, "DROP TRIGGER fail ON history.job_versions", "DROP FUNCTION history.fail()")


async def test_what_a_handler_failed_on_is_replayed_after_the_fix(stack: Stack, acme: Tenant) -> None:
    title = "Poison"
    async with faulty_handler(stack, title):
        job = await acme.submit(title=title, start=LATER)
        [letter] = await put_aside(stack, 1, topic=JOBS.name)
        assert letter["type"] == "cdds.JobCreated.v1"
        assert (letter["key"], letter["tenant"], letter["handler"]) == (job["id"], "acme", "history")
        assert "a bug in the handler" in letter["reason"]
        assert letter["source"]["topic"] == JOBS.name
        assert (letter["replays"], letter["replayed_at"]) == (0, None)

        # Not mended yet: it comes back once, as another dead letter, and not again.
        ended = await cdds("dead-letters", "replay", letter["id"], "--yes", *at(stack))
        assert ended.code == 0, ended
        first, second = await put_aside(stack, 2, topic=JOBS.name)
        assert first["id"] == letter["id"]
        assert first["replayed_at"] is not None
        assert (second["replays"], second["replayed_at"]) == (1, None)
        await everything_handled(stack)
        assert len(await listed(stack, "--topic", JOBS.name)) == 2

    waiting = await listed(stack, "--topic", JOBS.name, "--waiting")
    assert [one["id"] for one in waiting] == [second["id"]]
    ended = await cdds("dead-letters", "replay", "--all", "--topic", JOBS.name, "--yes", "--output", "json", *at(stack))
    assert ended.code == 0, ended
    [replayed] = ended.json()["replayed"]
    assert replayed["replays"] == 2

    async def projected() -> bool:
        return bool(await fetch(stack, "SELECT FROM history.job_versions WHERE title = $1", title))

    await eventually(projected, what="the job in history")
    await everything_handled(stack)
    assert await listed(stack, "--topic", JOBS.name, "--waiting") == []
    original, again, third = [r for r in await records(stack, JOBS.name) if (r.key or b"").decode() == job["id"]][:3]
    assert original.key == again.key == third.key
    assert original.value == again.value == third.value
    assert again.headers == (*original.headers, ("replays", b"1"))
    assert third.headers == (*original.headers, ("replays", b"2"))


async def test_one_record_is_shown_with_everything_that_is_known_of_it(
    stack: Stack, acme: Tenant, tmp_path: Path
) -> None:
    async with faulty_handler(stack, "Shown"):
        await acme.submit(title="Shown", start=LATER)
        letters = await put_aside(stack, 1, topic=JOBS.name, waiting=True)
    place = letters[0]["id"].split("/")
    shown = await cdds("dead-letters", "show", *place, "--body", tmp_path / "body", *at(stack))
    assert shown.code == 0, shown
    for part in (
        "by         history", f"came from  {JOBS.name}/", "a bug in the handler", "Traceback", "ce_type",
        '    "title": "Shown"',
    ):  # fmt: skip
        assert part in shown.output, shown.output
    assert json.loads((tmp_path / "body").read_bytes())["job"]["settings"]["title"] == "Shown"
    as_json = (await cdds("dead-letters", "show", letters[0]["id"], "--output", "json", *at(stack))).json()
    assert json.loads(as_json["body"])["tenant"] == "acme"
    assert as_json["traceback"].startswith("Traceback")
    assert ["ce_tenantid", "acme"] in as_json["headers"]
    await cdds("dead-letters", "replay", "--all", "--yes", *at(stack))


async def test_what_nobody_can_read_is_shown_and_does_nothing_to_the_terminal(stack: Stack) -> None:
    await send(
        stack, SCHEDULED_RUNS.name, b"\x00\xff\x1b[2J", key=b"\x1b[31mred", ce_type=b"cdds.Bad\x1b]0;title\x07.v1"
    )
    await send(stack, SCHEDULED_RUNS.name, f'{{"tenant": "{CLEAR_AND_BELL}'.encode(), ce_type=b"cdds.RunRequested.v1")
    await send(stack, SCHEDULED_RUNS.name, b"", ce_type=None, ce_tenantid=None)
    letters = await put_aside(stack, 9, topic=SCHEDULED_RUNS.name)  # three records, three consumers
    outputs = [(await cdds("dead-letters", "list", *at(stack))).output]
    outputs += [(await cdds("dead-letters", "show", letter["id"], *at(stack))).output for letter in letters]
    outputs += [(await cdds("dead-letters", "list", "--output", "json", *at(stack))).output]
    for output in outputs:
        assert not {character for character in output if not character.isprintable() and character != "\n"}, output
    assert any("00000000  00 ff 1b 5b 32 4a" in output for output in outputs)
    assert any('{"tenant": "\\x1b[2J\\x07' in output for output in outputs)


async def test_a_record_that_several_services_put_aside_is_replayed_once(stack: Stack) -> None:
    await send(stack, EXPORTED_RUNS.name, b"{}", ce_type=b"cdds.RunStarted.v1", ce_tenantid=b"once")
    letters = await put_aside(stack, 3, topic=EXPORTED_RUNS.name, tenant="once")
    assert {letter["handler"] for letter in letters} == {"job_api", "scheduler", "history"}
    before = await end(stack, EXPORTED_RUNS.name)
    ended = await cdds("dead-letters", "replay", letters[0]["id"], "--yes", *at(stack))
    assert ended.code == 0, ended
    assert "which stands for" in ended.output
    assert await end(stack, EXPORTED_RUNS.name) == before + 1
    again = await put_aside(stack, 6, topic=EXPORTED_RUNS.name, tenant="once")
    assert [one["replays"] for one in again] == [0, 0, 0, 1, 1, 1]
    assert [one["replayed_at"] is None for one in again] == [False, False, False, True, True, True]


async def test_a_record_of_nothing_at_all_is_put_aside_and_replayed(stack: Stack) -> None:
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka) as producer:
        batch = producer.create_batch()
        batch.append(key=None, value=None, timestamp=None, headers=[("ce_tenantid", b"nothing")])
        batch.close()
        await (await producer.send_batch(batch, JOBS.name, partition=1))
    letters = await put_aside(stack, 2, topic=JOBS.name, tenant="nothing")
    assert {letter["reason"] for letter in letters} == {"the record has no ce_type header"}
    shown = await cdds("dead-letters", "show", letters[0]["id"], *at(stack))
    assert "(no value)" in shown.output
    ended = await cdds("dead-letters", "replay", letters[0]["id"], "--yes", *at(stack))
    assert ended.code == 0, ended
    await put_aside(stack, 4, topic=JOBS.name, tenant="nothing")


async def test_filters_leave_what_they_say(stack: Stack) -> None:
    for tenant in ("filters-a", "filters-b"):
        await send(stack, CERTIFICATES.name, b"{}", ce_type=b"cdds.CertificateAdded.v1", ce_tenantid=tenant.encode())
    await put_aside(stack, 4, topic=CERTIFICATES.name)
    of = ("--topic", CERTIFICATES.name)
    assert len(await listed(stack, *of, "--tenant", "filters-a")) == 2
    assert len(await listed(stack, *of, "--type", "CertificateAdded", "--handler", "exporter")) == 2
    assert await listed(stack, *of, "--type", "CertificateRemoved") == []
    assert len(await listed(stack, *of, "--since", "1h", "--limit", "3")) == 3
    assert await listed(stack, *of, "--since", "2100-01-01T00:00Z") == []


async def test_a_record_from_nowhere_is_refused_by_name_and_the_others_are_replayed(stack: Stack) -> None:
    where = ("--tenant", "nowhere", *at(stack))
    headers = {"ce_type": b"cdds.RunStarted.v1", "ce_tenantid": b"nowhere", "dead_reason": b"why"}
    await send(stack, EXPORTED_RUNS.dead, b"{}", **headers)
    await send(stack, EXPORTED_RUNS.dead, b"{}", **headers, dead_topic=b"billing.invoices.v1")
    await send(stack, EXPORTED_RUNS.dead, b"{}", **headers, dead_topic=EXPORTED_RUNS.name.encode())
    tried = await cdds("dead-letters", "replay", "--all", "--dry-run", *where)
    assert "1 record would be replayed, 2 refused" in tried.output
    assert len(await listed(stack, "--tenant", "nowhere", "--waiting")) == 3
    ended = await cdds("dead-letters", "replay", "--all", "--yes", *where)
    assert ended.code == 1, ended
    assert f"refused: {EXPORTED_RUNS.dead}/" in ended.error
    assert "it does not say which topic it came from" in ended.error
    assert "'billing.invoices.v1'" in ended.error
    assert "1 record replayed, 2 refused" in ended.output


async def test_nothing_is_published_before_yes(stack: Stack) -> None:
    before = await end(stack, EXPORTED_RUNS.name)
    await send(stack, EXPORTED_RUNS.dead, b"{}", dead_topic=EXPORTED_RUNS.name.encode(), ce_tenantid=b"asked")
    where = ("--all", "--tenant", "asked", *at(stack))
    ended = await cdds("dead-letters", "replay", *where, answer="n\n")
    assert ended.code == 1
    assert "Publish 1 record once more?" in ended.error
    assert await end(stack, EXPORTED_RUNS.name) == before


async def test_a_record_too_large_to_be_put_aside_says_how_large_it_is_and_is_not_replayed(stack: Stack) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=stack.kafka, compression_type="gzip", max_request_size=2 * MAX_RECORD_BYTES
    ) as packing:
        headers = [("ce_type", b"cdds.JobCreated.v1"), ("ce_tenantid", b"large")]
        sent = await packing.send_and_wait(JOBS.name, b" " * (MAX_RECORD_BYTES + 1), key=b"large", headers=headers)
    letters = await put_aside(stack, 2, topic=JOBS.name, tenant="large")
    assert {letter["source"]["offset"] for letter in letters} == {sent.offset}
    assert all(letter["bytes_left_out"] > MAX_RECORD_BYTES for letter in letters)
    shown = await cdds("dead-letters", "show", letters[0]["id"], *at(stack))
    assert f"{letters[0]['bytes_left_out']:,} bytes were too many" in shown.output
    before = await end(stack, JOBS.name)
    ended = await cdds("dead-letters", "replay", letters[0]["id"], "--yes", *at(stack))
    assert ended.code == 1
    assert f"too many to be put aside: see {JOBS.name}/{sent.partition}/{sent.offset}" in ended.error
    assert await end(stack, JOBS.name) == before


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("replay",), "say which"),
        (("replay", "a/b/c"), "'a/b/c' names no dead letter"),
        (("replay", "x.v1/0/0"), "the topic 'x.v1' has no dead letters"),
        (("replay", f"{JOBS.name}.dead/0/999999"), "there is no dead letter"),
        (("replay", f"{JOBS.name}.dead/0/0", "--tenant", "acme"), "filters go with --all"),
        (("show", JOBS.dead, "99", "0"), "there is no dead letter"),
        (("list", "--topic", "x"), "the topic 'x' has no dead letters"),
    ],
)
async def test_bad_input_is_named(stack: Stack, arguments: tuple[str, ...], error: str) -> None:
    ended = await cdds("dead-letters", *arguments, *at(stack))
    assert ended.code == 1
    assert error in ended.error


async def test_a_time_that_is_none_is_wrong_usage(stack: Stack) -> None:
    ended = await cdds("dead-letters", "list", "--since", "yesterday", *at(stack))
    assert ended.code == 2
    assert "write 30m, 2h or 7d" in ended.error


async def test_looking_leaves_no_trace_on_the_broker(stack: Stack) -> None:
    await cdds("dead-letters", "list", *at(stack))
    async with administrator(Cluster(stack.kafka)) as admin:
        assert {name for name, *_ in await admin.list_consumer_groups()} <= set(SERVICES)
        for service in SERVICES:
            committed = await admin.list_consumer_group_offsets(service)
            assert not [partition for partition in committed if partition.topic.endswith(".dead")]


def at(stack: Stack) -> tuple[str, str]:
    return "--kafka", stack.kafka


async def listed(stack: Stack, *arguments: str) -> list[Row]:
    """The oldest first."""
    ended = await cdds("dead-letters", "list", "--output", "json", *arguments, *at(stack))
    assert ended.code == 0, ended
    return ended.json()["items"][::-1]


async def put_aside(stack: Stack, count: int, *, waiting: bool = False, **filters: str) -> list[Row]:
    """The dead letters of these filters, as soon as there are so many."""
    arguments = [part for name, value in filters.items() for part in (f"--{name}", value)]

    async def look() -> list[Row] | None:
        found = await listed(stack, *arguments, *(["--waiting"] if waiting else []))
        return found if len(found) >= count else None

    found = await eventually(look, what=f"{count} dead letters")
    assert len(found) == count, found
    return found


async def send(
    stack: Stack, topic: str, value: bytes | None, key: bytes | None = None, **headers: bytes | None
) -> None:
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka) as producer:
        await producer.send_and_wait(topic, value, key=key, headers=list(headers.items()))


async def everything_handled(stack: Stack) -> None:
    """Every consumer has handled what is on the topics by now."""
    ends: Mapping[TopicPartition, int] = {}
    for topic in (JOBS, CERTIFICATES, SCHEDULED_RUNS, EXPORTED_RUNS):
        async with AIOKafkaConsumer(topic.name, bootstrap_servers=stack.kafka) as consumer:
            ends = {**ends, **await consumer.end_offsets(consumer.assignment())}

    async with administrator(Cluster(stack.kafka)) as admin:

        async def look() -> bool:
            committed = await admin.list_consumer_group_offsets("history")
            return all(committed[at].offset >= end if at in committed else end == 0 for at, end in ends.items())

        await eventually(look, what="history at the end of its topics")


async def end(stack: Stack, topic: str) -> int:
    """How many records were ever written to a topic."""
    async with AIOKafkaConsumer(topic, bootstrap_servers=stack.kafka) as consumer:
        return sum((await consumer.end_offsets(consumer.assignment())).values())


async def records(stack: Stack, topic: str) -> list[Any]:
    """Everything on a topic, in the order of its partitions."""
    async with AIOKafkaConsumer(topic, bootstrap_servers=stack.kafka, auto_offset_reset="earliest") as consumer:
        ends = await consumer.end_offsets(consumer.assignment())
        found: list[Any] = []
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            for batch in (await consumer.getmany(timeout_ms=100)).values():
                found += batch
        return sorted(found, key=lambda record: (record.partition, record.offset))
