"""Every statement the scheduler runs often is a look into an index, however much there is in its tables.

The statements are taken from the store at work, so that they are the ones that run.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.scheduler.domain import Settle
from services.scheduler.store import Store
from shared import database
from shared.database import Connection, Database
from shared.events import RunSucceeded
from tests.conftest import fresh_database
from tests.scheduler.jobs import created, settings, updated
from tests.scheduler.world import HOUR, MINUTE, NOON, Handlers, backfill, cancel, ended, run_now

SCHEDULES = 100_000
SLOTS_OF_BUSY = 200_000
BUSY, RUN_ID = UUID(int=1), UUID(int=0xA)

FILL = (
    # The first one is the busy one and due at noon, the others one after the other a second later.
    f"""INSERT INTO schedules (job_id, tenant, job_version, settings, active, next_slot_at, due_at)
        SELECT lpad(to_hex(n), 32, '0')::uuid, 'acme', 1, CASE WHEN n <= 500 THEN $1::jsonb ELSE '{{}}' END,
               true, at, at
        FROM (SELECT n, $2::timestamptz + (n - 1) * interval '1 s' AS at
              FROM generate_series(1, {SCHEDULES}) AS n) AS due""",
    # Each has a slot that ran, and one in fifty a run that is open.
    f"""INSERT INTO slots (job_id, tenant, slot_key, slot_at, trigger, outcome, run_id, run_state)
        SELECT lpad(to_hex(n), 32, '0')::uuid, 'acme', 'schedule:' || n, $2::timestamptz - interval '1 h', 'schedule',
               'requested', gen_random_uuid(), CASE WHEN n % 50 = 0 THEN 'open' ELSE 'succeeded' END
        FROM generate_series(1, {SCHEDULES}) AS n WHERE $1::jsonb IS NOT NULL""",
    # The busy one has had a slot every minute for months, and the last run is open.
    f"""INSERT INTO slots (job_id, tenant, slot_key, slot_at, trigger, outcome, run_id, run_state, interval_to)
        SELECT '{BUSY}', 'acme', 'busy:' || n, at, 'schedule', 'requested',
               CASE WHEN n = 1 THEN '{RUN_ID}' ELSE gen_random_uuid() END,
               CASE WHEN n = 1 THEN 'open' ELSE 'succeeded' END, at
        FROM (SELECT n, $2::timestamptz - n * interval '1 min' AS at
              FROM generate_series(1, {SLOTS_OF_BUSY}) AS n) AS past
        WHERE $1::jsonb IS NOT NULL""",
    """INSERT INTO backfills (backfill_id, job_id, tenant, max_parallel, started_at)
       SELECT gen_random_uuid(), gen_random_uuid(), 'acme', 1, $2 FROM generate_series(1, 10000)
       WHERE $1::jsonb IS NOT NULL""",
    "ANALYZE schedules",
    "ANALYZE slots",
    "ANALYZE backfills",
)


class Recorded(Database):
    """A database that remembers what is asked of it."""

    def __init__(self, pool: database.Pool) -> None:
        super().__init__(pool, "scheduler")
        self.asked: list[tuple[str, tuple[Any, ...]]] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        async with super().transaction() as connection:
            with connection.query_logger(self._record):
                yield connection

    def _record(self, query: asyncpg.connection.LoggedQuery) -> None:
        self.asked.append((query.query, query.args))


@pytest.fixture(scope="module")
async def recorded(postgres: EmbeddedPostgres, templates: dict[str, str]) -> AsyncIterator[Recorded]:
    async with (
        fresh_database(postgres, templates["scheduler"]) as dsn,
        database.connect(dsn, "scheduler", outbox=True) as filled,
    ):
        async with filled.session() as connection:
            await connection.execute("SET ROLE NONE")
            for statement in FILL:
                given = (settings().model_dump(mode="json"), NOON) if "INSERT" in statement else ()
                await connection.execute(statement, *given)
        yield Recorded(filled._pool)


class RolledBack(Exception):
    pass


async def plans(recorded: Recorded, fragment: str) -> list[dict[str, Any]]:
    """How PostgreSQL goes about what was asked that has `fragment` in it."""
    asked = [(query, arguments) for query, arguments in recorded.asked if fragment in query]
    assert asked, fragment
    found: list[dict[str, Any]] = []
    try:
        async with super(Recorded, recorded).transaction() as connection:
            for query, arguments in asked:
                [plan] = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) {query}", *arguments)
                found.append(plan)
            raise RolledBack
    except RolledBack:
        return found


async def assert_cheap(recorded: Recorded, fragment: str, *, index: str, blocks: int, in_order: bool = False) -> None:
    """What was asked with `fragment` in it reads at most so many blocks, by way of `index`."""
    for plan in await plans(recorded, fragment):
        text = orjson.dumps(plan).decode()
        assert f'"Index Name":"{index}"' in text, text
        assert "Seq Scan" not in text, text
        assert not in_order or '"Sort"' not in text, text
        read = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
        assert read <= blocks, f"{read} blocks: {text}"


def no_settling(_: str) -> timedelta:
    return timedelta(0)


def store_at(recorded: Recorded, now: datetime, settle: Settle = no_settling) -> Store:
    recorded.asked.clear()

    async def clock(_: Connection) -> datetime:
        return now

    return Store(recorded, settle, clock)


async def test_an_idle_look_reads_a_handful_of_blocks(recorded: Recorded) -> None:
    store = store_at(recorded, NOON - HOUR)
    assert await store.request_due_runs() == 0
    assert await store.next_due_in() == HOUR
    # The descent of one B-tree: root, one inner page, one leaf, and what the planner itself touches.
    await assert_cheap(recorded, "FOR UPDATE SKIP LOCKED", index="schedules_due_at", blocks=10, in_order=True)
    await assert_cheap(recorded, "min(due_at)", index="schedules_due_at", blocks=10, in_order=True)


async def test_a_look_that_finds_five_hundred_schedules_reads_what_belongs_to_them(recorded: Recorded) -> None:
    def interrupted(_: str) -> timedelta:
        raise ConnectionResetError

    store = store_at(recorded, NOON + timedelta(seconds=499), interrupted)
    with pytest.raises(ConnectionResetError):
        await store.request_due_runs()
    [jobs] = [arguments[0] for query, arguments in recorded.asked if "backfill_id IS NULL" in query]
    assert len(jobs) == 500
    # Each schedule is a row to lock, and each has its place in the index of what waits or runs.
    await assert_cheap(recorded, "FOR UPDATE SKIP LOCKED", index="schedules_due_at", blocks=2500, in_order=True)
    await assert_cheap(recorded, "backfill_id IS NULL", index="slots_held", blocks=2500)
    await assert_cheap(recorded, "JOIN slots USING", index="slots_of_schedule", blocks=2500)


async def test_one_event_reads_what_belongs_to_it_however_long_the_jobs_ledger_is(recorded: Recorded) -> None:
    job = created(NOON - HOUR, job_id=BUSY)
    now = NOON - MINUTE
    hear = Handlers(store_at(recorded, now)).hear
    await hear(cancel(BUSY, RUN_ID, now))
    await hear(run_now(BUSY, now))
    await hear(updated(job, now - 5 * MINUTE))
    begin = NOON - 100 * timedelta(days=1)
    command = backfill(BUSY, begin, begin + 2 * HOUR, now, reprocess="all")
    await hear(command)
    async with recorded.session() as connection:
        run_id = await connection.fetchval("SELECT run_id FROM slots WHERE backfill_id IS NOT NULL ORDER BY slot_at")
    await hear(ended(RunSucceeded, BUSY, run_id, now))
    await hear(ended(RunSucceeded, BUSY, RUN_ID, now))

    await assert_cheap(recorded, "WHERE job_id = $1 FOR UPDATE", index="schedules_pk", blocks=10)
    await assert_cheap(recorded, "WHERE run_id = $1", index="slots_run_id", blocks=10)
    await assert_cheap(recorded, "backfill_id IS NULL", index="slots_held", blocks=20)
    await assert_cheap(recorded, "trigger = 'schedule' AND slot_at > $2", index="slots_of_schedule", blocks=30)
    await assert_cheap(recorded, "SELECT EXISTS (SELECT FROM slots", index="slots_pk", blocks=10)
    await assert_cheap(recorded, "AS open_runs", index="slots_held", blocks=20)
    await assert_cheap(recorded, "outcome = 'waiting' AND backfill_id = $2", index="slots_held", blocks=20)
