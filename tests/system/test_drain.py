"""An exporter that is told to stop while it works: short runs end in time, long ones go on elsewhere."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.local.stack import SOURCES_DATABASE, Stack
from tests.system.driver import Row, Tenant, eventually, execute, fetch, tenant
from tests.system.invariants import assert_invariants
from tests.system.stacks import BROKERS, QUICK, running

GRACE = "PT6S"
# Rows of 8 kB that do not compress below 4 kB each, and a nap before each one: a part of 64 KiB about every 0.2 s.
NAPPING = """CREATE VIEW lab.{name} AS SELECT *, pg_sleep(0.01)::text AS nap FROM lab.wide
             WHERE id <= {rows} ORDER BY at, id"""
SLOW = (
    "CREATE SCHEMA lab",
    """CREATE TABLE lab.wide AS
       SELECT i AS id, 'acme' AS tenant, timestamptz '2026-01-01' + i * interval '1 s' AS at,
              (SELECT string_agg(md5(i || '/' || j), '') FROM generate_series(1, 256) j) AS noise
       FROM generate_series(1, 1000) i""",
    # Sorted by the view, so that each row comes after its own nap, and not all after the last one.
    NAPPING.format(name="short", rows=200),
    NAPPING.format(name="long", rows=1000),
)
TYPE = """
[sources.lab.types.{name}]
title = "Row"
table = "lab.{name}"
id_column = "id"
time_column = "at"
tenant_column = "tenant"
"""
SOURCES = '[sources.lab]\ntitle = "Laboratory"\ndsn = "env:CDDS_SOURCE_UCS"\n'

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=BROKERS)
async def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    sources = tmp_path_factory.mktemp("sources") / "sources.toml"
    sources.write_text(SOURCES + TYPE.format(name="short") + TYPE.format(name="long"))
    async with running(request.param, environment={**QUICK, "CDDS_EXPORTER_GRACE": GRACE}, sources=sources) as stack:
        await execute(stack, *SLOW, database=SOURCES_DATABASE)
        yield stack


@pytest.fixture(scope="module")
async def acme(stack: Stack) -> AsyncIterator[Tenant]:
    async with tenant(stack) as acme:
        yield acme


async def until_exporting(stack: Stack, job: Row) -> None:
    """Return when the second part of the job's only run is there."""

    async def stored() -> list[Path]:
        runs = await fetch(stack, "SELECT run_id::text FROM exporter.runs WHERE job_id = $1::uuid", job["id"])
        return [part for run in runs for part in (stack.data / "objects" / run["run_id"]).glob("1/0002")]

    await eventually(stored, what="the second part")


async def test_a_short_run_ends_in_its_attempt_and_then_the_process(stack: Stack, acme: Tenant) -> None:
    job = await acme.submit(source="lab", type="short", split_bytes=64 * 1024, title="Short")
    await until_exporting(stack, job)
    exporter = stack.services["exporter"]
    ended = asyncio.create_task(exporter.wait())
    assert exporter.pid is not None

    os.kill(exporter.pid, signal.SIGTERM)

    assert await ended == 0
    (run,) = await fetch(stack, "SELECT state, attempt FROM exporter.runs WHERE job_id = $1::uuid", job["id"])
    assert dict(run) == {"state": "succeeded", "attempt": 1}
    execution = await acme.succeeded(job)
    assert len((await acme.download(execution)).lines) == 200


async def test_a_long_run_is_handed_over_when_the_grace_is_over_and_ends_once(stack: Stack, acme: Tenant) -> None:
    job = await acme.submit(source="lab", type="long", split_bytes=64 * 1024, title="Long")
    await until_exporting(stack, job)
    ended = asyncio.create_task(stack.services["exporter"].wait())

    await stack.stop("exporter")  # asked once; it would be killed 10 s later

    assert await ended == 0
    (run,) = await fetch(stack, "SELECT state, attempt FROM exporter.runs WHERE job_id = $1::uuid", job["id"])
    assert dict(run) == {"state": "queued", "attempt": 1}
    await stack.start("exporter")
    execution = await acme.succeeded(job)
    assert execution["attempt"] == 2
    rows = await fetch(
        stack,
        "SELECT type, value::jsonb->>'reason' AS reason FROM exporter.outbox WHERE key = $1 ORDER BY id",
        execution["run_id"],
    )
    told = [row["type"].split(".")[1] for row in rows]
    expected = ["RunQueued", "RunStarted", "RunAttemptFailed", "RunStarted", "RunSucceeded"]
    assert [name for name in told if name != "ArtifactStored"] == expected
    assert [row["reason"] for row in rows if row["reason"] is not None] == ["worker_stopped"]
    assert len((await acme.download(execution)).lines) == 1000
    await assert_invariants(stack)
