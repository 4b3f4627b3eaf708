"""A worker that stops for longer than its lease, as a paused virtual machine does, and then goes on."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from deploy.local.stack import SOURCES_DATABASE, Stack
from tests.system.driver import Row, Tenant, eventually, execute, fetch, tenant
from tests.system.invariants import assert_invariants
from tests.system.stacks import BROKERS, QUICK, impatient, running

ROWS = 300
# 10 ms and 8 kB that do not compress below 4 kB per row: a part of 64 KiB about every 0.2 s, for 3 s.
SLOW = (
    "CREATE SCHEMA lab",
    f"""CREATE TABLE lab.wide AS
        SELECT i AS id, 'acme' AS tenant, timestamptz '2026-01-01' + i * interval '1 s' AS at,
               (SELECT string_agg(md5(i || '/' || j), '') FROM generate_series(1, 256) j) AS noise
        FROM generate_series(1, {ROWS}) i""",
    "CREATE UNIQUE INDEX ON lab.wide (tenant, at, id)",
    "CREATE VIEW lab.slow AS SELECT *, pg_sleep(0.01)::text AS nap FROM lab.wide",
    # Sorted rows come only after the last nap; in the order of the index each comes after its own.
    f"ALTER DATABASE {SOURCES_DATABASE} SET enable_sort = off",
)

pytestmark = pytest.mark.slow
SOURCES = """
[sources.lab]
title = "Laboratory"
dsn = "env:CDDS_SOURCE_UCS"

[sources.lab.types.slow]
title = "Row"
table = "lab.slow"
id_column = "id"
time_column = "at"
tenant_column = "tenant"
"""


@pytest.fixture(scope="module", params=BROKERS)
async def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp("frozen")
    sources = folder / "sources.toml"
    sources.write_text(SOURCES)
    environment = {**QUICK, **impatient(timedelta(seconds=5)), "CDDS_FAILPOINT_HOLDS": str(folder)}
    async with running(request.param, environment=environment, sources=sources) as stack:
        await execute(stack, *SLOW, database=SOURCES_DATABASE)
        yield stack


@pytest.fixture(scope="module")
async def acme(stack: Stack) -> AsyncIterator[Tenant]:
    async with tenant(stack) as acme:
        yield acme


async def test_a_worker_that_wakes_after_its_lease_changes_nothing_and_takes_its_bytes_away(
    stack: Stack, acme: Tenant
) -> None:
    job = await acme.submit(source="lab", type="slow", split_bytes=64 * 1024, title="Slow")
    pid = stack.services["exporter"].pid
    assert pid is not None

    async def stored() -> list[Path]:
        return list((stack.data / "objects").glob("*/1/0002"))

    (part,) = await eventually(stored, what="the second part")
    os.kill(pid, signal.SIGSTOP)
    try:
        async with stack.replica("exporter") as replica:
            # The replica takes over the run, the partitions, and what is to be published.
            execution = await acme.succeeded(job)
            before = await told(stack, execution)
            assert not part.parent.exists()
            os.kill(pid, signal.SIGCONT)

            async def ended() -> bool:
                lines = stack.services["exporter"].last_lines
                return stack.services["exporter"].pid != pid or any("attempt fenced" in line for line in lines)

            await eventually(ended, within=timedelta(seconds=30), what="the frozen worker's end")
            assert replica.is_running
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    assert execution["attempt"] == 2
    assert await told(stack, execution) == before
    assert not part.parent.exists()
    assert len((await acme.download(execution)).lines) == ROWS
    await assert_invariants(stack)


async def test_a_worker_that_was_frozen_before_its_terminal_transaction_publishes_nothing(
    stack: Stack, acme: Tenant
) -> None:
    assert stack.options.sources is not None
    hold = stack.options.sources.with_name("exporter.exported")
    hold.touch()
    job = await acme.submit(source="lab", type="slow", split_bytes=64 * 1024, title="Frozen at the end")
    pid = stack.services["exporter"].pid
    assert pid is not None

    async def held() -> bool:
        return hold.with_name("exporter.exported.held").exists()

    await eventually(held, what="a run whose parts are all stored")
    os.kill(pid, signal.SIGSTOP)
    hold.unlink()
    try:
        async with stack.replica("exporter"):
            execution = await acme.succeeded(job)
            before = await told(stack, execution)
            os.kill(pid, signal.SIGCONT)

            async def ended() -> bool:
                lines = stack.services["exporter"].last_lines
                return stack.services["exporter"].pid != pid or any("attempt fenced" in line for line in lines)

            await eventually(ended, what="the frozen worker's end")
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    assert execution["attempt"] == 2
    assert await told(stack, execution) == before
    assert len((await acme.download(execution)).lines) == ROWS
    await assert_invariants(stack)


async def told(stack: Stack, execution: Row) -> list[str]:
    """What the exporter has said about a run so far."""
    rows = await fetch(stack, "SELECT value FROM exporter.outbox WHERE key = $1 ORDER BY id", execution["run_id"])
    return [row["value"] for row in rows]
