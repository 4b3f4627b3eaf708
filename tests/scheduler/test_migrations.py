"""Schedules and slots as the first release kept them go on under the second, whoever owns the database."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import asyncpg
import pytest

from deploy.local.postgres import FAST_AND_UNSAFE, EmbeddedPostgres
from shared import database, migration, slots
from shared.events import JobCreated, RunFailed, RunRequested, RunSucceeded, Slot, Trigger
from tests.conftest import fresh_database
from tests.scheduler.jobs import created, resumed, settings, suspended
from tests.scheduler.world import HOUR, NOON, World, backfill, ended, only, retry, run_now


@pytest.fixture(params=["superuser", "owner"])
async def dsn(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """An empty database of the superuser, or of a login that may make roles and owns the database, no more."""
    if request.param == "superuser":
        async with fresh_database(postgres) as address:
            yield address
        return
    # On a server of its own: roles belong to a whole server, and there they are made by the superuser already.
    with TemporaryDirectory(prefix="cdds-test-", ignore_cleanup_errors=True) as folder:
        async with EmbeddedPostgres(Path(folder) / "postgres", settings=FAST_AND_UNSAFE) as server:
            connection = await asyncpg.connect(server.dsn())
            await connection.execute("CREATE ROLE plain LOGIN CREATEROLE")
            await connection.execute("CREATE DATABASE cdds OWNER plain")
            await connection.close()
            yield server.dsn("cdds").replace("postgres@", "plain@")


FIRST_RELEASE = ("0000_outbox.sql", "0001_schedules.sql")


async def migrate_to_the_first_release(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [file for file in migration.of_service("scheduler", outbox=True) if file.name in FIRST_RELEASE]
    with monkeypatch.context() as patched:
        patched.setattr(migration, "of_service", lambda *_, **__: first)
        await migration.migrate(dsn, "scheduler", outbox=True)


RAN = slots.scheduled_slot(NOON - HOUR)


class FirstRelease:
    """Rows as the first release wrote them."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    async def schedule(self, job: JobCreated, next_slot_at: datetime | None) -> JobCreated:
        await self._write(
            """INSERT INTO schedules (job_id, tenant, job_version, settings, next_slot_at)
               VALUES ($1, 'acme', $2, $3, $4)""",
            job.job_id, job.job.version, job.job.settings.model_dump_json(exclude={"overlap", "catchup"}),
            next_slot_at,
        )  # fmt: skip
        return job

    async def run(self, job: JobCreated, slot: Slot = RAN) -> RunRequested:
        asked = RunRequested(
            occurred_at=slot.at, tenant="acme", job_id=job.job_id, job_version=1, slot=slot, title="A job",
            run_id=slots.run_id(job.job_id, slot.key), question=slots.question(settings(), slot.at - HOUR, slot.at),
        )  # fmt: skip
        await self._write(
            """INSERT INTO slots (job_id, tenant, slot_key, slot_at, trigger, outcome, run_id)
               VALUES ($1, 'acme', $2, $3, $4, 'requested', $5)""",
            job.job_id, slot.key, slot.at, slot.trigger, asked.run_id,
        )  # fmt: skip
        await self._write(
            """INSERT INTO outbox (event_id, topic, key, type, tenant, occurred_at, value)
               VALUES ($1, 'scheduler.runs.v1', $2, $3, 'acme', $4, $5)""",
            asked.event_id, asked.key, asked.type_name(), asked.occurred_at, asked.model_dump_json(),
        )  # fmt: skip
        return asked

    async def _write(self, statement: str, *arguments: object) -> None:
        connection = await asyncpg.connect(
            self.dsn, server_settings={"role": "scheduler_worker", "search_path": "scheduler"}
        )
        try:
            await connection.execute(statement, *arguments)
        finally:
            await connection.close()


async def test_the_first_releases_schedules_and_slots_go_on(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await migrate_to_the_first_release(dsn, monkeypatch)
    before = FirstRelease(dsn)
    hourly = await before.schedule(created(NOON - 3 * HOUR), NOON)
    ran = await before.run(hourly)
    jittering = await before.schedule(created(NOON - HOUR, jitter="PT59M", job_id=UUID(int=1)), NOON)
    stopped = suspended(await before.schedule(created(NOON - 3 * HOUR), None), NOON - 2.5 * HOUR)
    done = await before.schedule(created(NOON - HOUR, schedule={"kind": "once"}, start="immediately"), None)
    await before.run(done, slots.commanded_slot(Trigger.IMMEDIATE, done.event_id, done.occurred_at))

    async with database.connect(dsn, "scheduler", outbox=True) as pool:
        world = World(pool, NOON + timedelta(milliseconds=1))
        await world.said()
        # Redelivered: known, so nothing new.
        assert await world.hear(hourly, done) == []
        assert await world.hear(ended(RunFailed, hourly.job_id, ran.run_id, NOON)) == []

        said = await world.wait_until(world.now)
        assert only(said, "run") == ["run schedule 12:00"]
        assert (await world.runs())[-1].job_id == hourly.job_id
        # The first release knew no jitter; the same look has put this one where it belongs.
        async with pool.session() as connection:
            due_at = await connection.fetchval("SELECT due_at FROM schedules WHERE job_id = $1", jittering.job_id)
        assert NOON < due_at == slots.due_at(jittering.job_id, jittering.job.settings, NOON)

        # Asked again, it is the same question, and what was answered is not missing.
        await world.end(RunSucceeded, NOON)
        await world.hear(retry(hourly, ran.run_id, world.now))
        again = (await world.runs())[-1]
        assert (again.retry_of, again.question) == (ran.run_id, ran.question)
        said = await world.hear(backfill(hourly, NOON - 4 * HOUR, NOON - HOUR, world.now, max_parallel=9))
        assert only(said, "run") == ["run backfill 09:00", "run backfill 10:00"]

        # A job that the first release held back is taken up, and one that is done may run again.
        stopped = stopped.model_copy(update={"job": stopped.job.model_copy(update={"version": 1})})
        said = await world.hear(resumed(stopped, world.now, "all"))
        assert only(said, "run") == ["run schedule 10:00", "run schedule 11:00", "run schedule 12:00"]
        assert await world.hear(run_now(done, world.now)) == ["run manual 12:00"]
