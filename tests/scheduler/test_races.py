"""Eight schedulers on one database, and schedulers that are killed: every slot becomes one run, never two."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta

import asyncpg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.scheduler.store import Store
from shared import database
from shared.database import Database
from tests.conftest import fresh_database
from tests.scheduler.jobs import UNTIL_NOW, created, hours_ago

SCHEDULERS = 8
BOUNDARIES = 200


@pytest.fixture
async def dsn(postgres: EmbeddedPostgres, templates: dict[str, str]) -> AsyncIterator[str]:
    async with fresh_database(postgres, templates["scheduler"]) as address:
        yield address


def store_on(pool: Database) -> Store:
    return Store(pool, lambda _: timedelta(0))


async def hundreds_of_boundaries_of_one_job(store: Store) -> None:
    await store.keep_schedule(created(hours_ago(BOUNDARIES), **UNTIL_NOW))


async def one_boundary_of_hundreds_of_jobs(store: Store) -> None:
    for _ in range(BOUNDARIES):
        await store.keep_schedule(created(hours_ago(1), **UNTIL_NOW))


async def assert_each_boundary_ran_once(dsn: str, boundaries: int) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        slots, runs = await connection.fetchrow(
            "SELECT count(*), count(DISTINCT run_id) FROM scheduler.slots WHERE outcome = 'requested'"
        )
        requests, event_ids, asked = await connection.fetchrow(
            """SELECT count(*), count(DISTINCT event_id), count(DISTINCT value::jsonb ->> 'run_id')
               FROM scheduler.outbox WHERE type = 'cdds.RunRequested.v1'"""
        )
        unmatched = await connection.fetchval(
            """SELECT count(*) FROM scheduler.slots
               FULL JOIN (SELECT (value::jsonb ->> 'run_id')::uuid AS run_id FROM scheduler.outbox
                          WHERE type = 'cdds.RunRequested.v1') AS asked USING (run_id)
               WHERE job_id IS NULL OR asked.run_id IS NULL"""
        )
        due = await connection.fetchval("SELECT count(*) FROM scheduler.schedules WHERE next_slot_at <= now()")
    finally:
        await connection.close()
    assert (slots, runs, requests, event_ids, asked) == (boundaries,) * 5
    assert (unmatched, due) == (0, 0)


async def assert_each_boundary_committed_so_far(dsn: str, boundaries: int) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        assert await connection.fetchval("SELECT count(*) FROM scheduler.slots") == boundaries
    finally:
        await connection.close()


async def looks(store: Store) -> AsyncIterator[int]:
    """How much each look of one scheduler finds, until it finds nothing."""
    while found := await store.request_due_runs(limit=5):
        yield found


SITUATIONS = pytest.mark.parametrize(
    "prepare", [hundreds_of_boundaries_of_one_job, one_boundary_of_hundreds_of_jobs], ids=lambda f: f.__name__
)


@SITUATIONS
async def test_eight_schedulers_request_two_hundred_boundaries_once_each(
    dsn: str, prepare: Callable[[Store], Awaitable[None]]
) -> None:
    async with AsyncExitStack() as exits:
        pools = [
            await exits.enter_async_context(database.connect(dsn, "scheduler", outbox=True)) for _ in range(SCHEDULERS)
        ]
        await prepare(store_on(pools[0]))

        async def hammer(pool: Database) -> int:
            return sum([found for _ in range(3) async for found in looks(store_on(pool))])

        counts = await asyncio.gather(*map(hammer, pools))
        # Whoever looked away while another one held the only due row has left the rest to the next look.
        rest = [found async for found in looks(store_on(pools[0]))]
    assert sum(counts) + sum(rest) == BOUNDARIES
    await assert_each_boundary_ran_once(dsn, BOUNDARIES)


async def contend(dsn: str, processes: int, **environment: str) -> int:
    """The exit code of `processes` schedulers that requested together what is due."""
    group = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.scheduler.contender", dsn, str(processes), env={**os.environ, **environment}
    )
    return await group.wait()


async def test_eight_scheduler_processes_request_two_hundred_boundaries_once_each(dsn: str) -> None:
    async with database.connect(dsn, "scheduler", outbox=True) as pool:
        await one_boundary_of_hundreds_of_jobs(store_on(pool))
    assert await contend(dsn, SCHEDULERS) == 0
    await assert_each_boundary_ran_once(dsn, BOUNDARIES)


@pytest.mark.parametrize("point", ["scheduler.claimed", "scheduler.requested"])
async def test_a_scheduler_killed_at_the_worst_moment_leaves_one_run_per_boundary(dsn: str, point: str) -> None:
    async with database.connect(dsn, "scheduler", outbox=True) as pool:
        for _ in range(3):
            await store_on(pool).keep_schedule(created(hours_ago(2), **UNTIL_NOW))
    assert await contend(dsn, 1, CDDS_FAILPOINT=point) == -signal.SIGKILL
    await assert_each_boundary_committed_so_far(dsn, 3 if point == "scheduler.requested" else 0)
    assert await contend(dsn, 1) == 0
    await assert_each_boundary_ran_once(dsn, 6)
