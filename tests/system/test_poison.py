"""Records that nobody can read, on every topic, while the stack works."""

from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaProducer

from deploy.local import data
from deploy.local.stack import SOURCES_DATABASE, Stack
from tests.system.driver import Tenant, eventually, tenant
from tests.system.invariants import assert_invariants, dead_letters
from tests.system.stacks import BROKERS, running

CONSUMERS = {
    "job_api.jobs.v1": {"scheduler", "history"},
    "job_api.certificates.v1": {"exporter", "history"},
    "scheduler.runs.v1": {"job_api", "exporter", "history"},
    "exporter.runs.v1": {"job_api", "scheduler", "history"},
}
TYPES = {
    "job_api.jobs.v1": b"cdds.JobCreated.v1",
    "job_api.certificates.v1": b"cdds.CertificateAdded.v1",
    "scheduler.runs.v1": b"cdds.RunRequested.v1",
    "exporter.runs.v1": b"cdds.RunStarted.v1",
}
POISON: dict[str, tuple[bytes | None, bytes | None, str]] = {
    "malformed": (b"", b'{"tenant": "acme", "run_id": ', "the value is not a cdds."),
    "incomplete": (b"", b'{"tenant": "acme"}', "the value is not a cdds."),
    "not UTF-8": (b"", b'{"tenant": "\xff\xfe"}', "the value is not a cdds."),
    "no value": (b"", None, "the record has no value"),
    "no type": (None, b"{}", "the record has no ce_type header"),
    "unknown type": (b"cdds.JobTeleported.v1", b"{}", "the type 'cdds.JobTeleported.v1' is unknown here"),
    "newer version": (b"cdds.JobCreated.v2", b"{}", "the type 'cdds.JobCreated.v2' is unknown here"),
    "type not UTF-8": (b"cdds.\xff", b"{}", "the type 'cdds.\ufffd' is unknown here"),
}
"""Type header (empty: a right one), value, and how the reason begins."""


@pytest.fixture(scope="module", params=BROKERS)
async def stack(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    async with running(request.param) as stack:
        await data.create_schema(stack.dsn(SOURCES_DATABASE))
        await data.load_contacts(stack.dsn(SOURCES_DATABASE), "ucs", rows=100, tenants={"acme": 1})
        yield stack


@pytest.fixture(scope="module")
async def acme(stack: Stack) -> AsyncIterator[Tenant]:
    async with tenant(stack) as acme:
        yield acme


async def test_every_poisonous_record_is_buried_once_by_each_consumer_and_work_goes_on(
    stack: Stack, acme: Tenant
) -> None:
    await acme.succeeded(await acme.submit(type="contact", title="Before"))
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka) as producer:
        for topic, right in TYPES.items():
            for name, (kind, value, _) in POISON.items():
                headers = [] if kind is None else [("ce_type", kind or right)]
                await producer.send_and_wait(topic, value, key=name.encode(), headers=headers)
    expected = sorted(
        (topic, consumer, name) for topic, consumers in CONSUMERS.items() for consumer in consumers for name in POISON
    )

    async def buried() -> bool:
        return len(await dead_letters(stack)) >= len(expected)

    await eventually(buried, what="the dead letters")
    await acme.succeeded(await acme.submit(type="contact", title="After"))

    await assert_invariants(stack, dead=len(expected))
    found: list[tuple[str, str, str]] = []
    for record in await dead_letters(stack):
        headers = {name: value.decode() for name, value in record.headers if name.startswith("dead_")}
        name = (record.key or b"").decode()
        found.append((headers["dead_topic"], headers["dead_consumer"], name))
        _, value, reason = POISON[name]
        assert record.topic == f"{headers['dead_topic']}.dead"
        assert headers["dead_reason"].startswith(reason)
        assert record.value == value
        assert int(headers["dead_offset"]) >= 0
        assert int(headers["dead_partition"]) >= 0
    assert sorted(found) == expected
