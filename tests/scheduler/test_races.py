"""Eight schedulers on one database, and schedulers that are killed: every slot becomes one run, never two."""

import asyncio
import os
import re
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from itertools import cycle, permutations
from random import Random
from uuid import UUID

import asyncpg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.scheduler.domain import RunState
from services.scheduler.store import Store
from shared import database, slots
from shared.database import Connection, Database
from shared.events import JobEvent, RunRequested, RunSucceeded, ScheduleComputed
from tests.conftest import fresh_database
from tests.scheduler.jobs import UNTIL_NOW, created, hours_ago, resumed, suspended, updated
from tests.scheduler.world import HOUR, MINUTE, NOON, Handlers, backfill, ended, published, retry, run_now, words

SECOND = timedelta(seconds=1)
SCHEDULERS = 8
BOUNDARIES = 200


@pytest.fixture
async def dsn(postgres: EmbeddedPostgres, templates: dict[str, str]) -> AsyncIterator[str]:
    async with fresh_database(postgres, templates["scheduler"]) as address:
        yield address


def store_on(pool: Database) -> Store:
    return Store(pool, lambda _: timedelta(0))


async def hundreds_of_boundaries_of_one_job(store: Store) -> None:
    event = created(hours_ago(BOUNDARIES), catchup={"window": "P52W"}, **UNTIL_NOW)
    await store.keep_schedule(event)


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

        async def hammer(pool: Database) -> None:
            for _ in range(3):
                while await store_on(pool).request_due_runs(limit=5):
                    pass

        await asyncio.gather(*map(hammer, pools))
        # Whoever looked away while another one held the only due row has left the rest to the next look.
        await hammer(pools[0])
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
    await assert_each_boundary_committed_so_far(dsn, 6 if point == "scheduler.requested" else 0)
    assert await contend(dsn, 1) == 0
    await assert_each_boundary_ran_once(dsn, 6)


# --- two at once ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def pools(dsn: str) -> AsyncIterator[list[Database]]:
    """Three replicas, each with connections of its own."""
    async with AsyncExitStack() as exits:
        yield [await exits.enter_async_context(database.connect(dsn, "scheduler", outbox=True)) for _ in range(3)]


@asynccontextmanager
async def held(pool: Database, statement: str, *arguments: object) -> AsyncGenerator[Callable[[int], Awaitable[None]]]:
    """Hold the locks that `statement` takes; the yielded function waits until so many others wait for them."""
    async with pool.session() as connection, pool.session() as observer, connection.transaction():
        await connection.execute(statement, *arguments)

        async def until_awaited(by: int) -> None:
            async with asyncio.timeout(10):
                while by > await observer.fetchval("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"):
                    pass

        yield until_awaited


async def test_a_change_that_waited_for_its_turn_does_not_ask_again_for_what_was_decided_meanwhile(
    dsn: str, pools: list[Database]
) -> None:
    here, there = store_on(pools[0]), store_on(pools[1])
    async with pools[0].session() as connection:
        soon = await connection.fetchval("SELECT clock_timestamp() + interval '0.5 s'")
    # A suspension and a resumption are heard of late, just before the only slot is due.
    event = created(soon - timedelta(minutes=2), schedule={"kind": "once"}, start=soon)
    await here.keep_schedule(event)
    stopped = suspended(event, soon - timedelta(minutes=1))
    lock = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
    async with held(pools[2], lock, str(event.job_id)) as until_awaited:
        changing = asyncio.create_task(here.keep_schedule(resumed(stopped, soon - timedelta(seconds=1))))
        await until_awaited(1)
        while not await there.request_due_runs():
            pass
    await changing
    await there.request_due_runs()
    await assert_each_boundary_ran_once(dsn, 1)


def store_at(pool: Database, now: datetime) -> Store:
    async def clock(_: Connection) -> datetime:
        return now

    return Store(pool, lambda _: timedelta(0), clock)


async def assert_at_most_one_open_run_each(pool: Database) -> None:
    async with pool.session() as connection:
        crowded = await connection.fetch(
            "SELECT job_id, count(*) FROM slots WHERE run_state = 'open' GROUP BY job_id HAVING count(*) > 1"
        )
    assert crowded == []


async def two_open_runs_and_a_slot_that_is_due(pool: Database) -> tuple[UUID, list[UUID]]:
    """A job whose runs may not overlap any more; two still do, one waits, and another slot is due at noon."""
    job = created(NOON - 3.5 * HOUR)
    for hours in (3, 2):
        await store_at(pool, NOON - hours * HOUR).keep_schedule(job)
        assert await store_at(pool, NOON - hours * HOUR).request_due_runs() == 1
    await store_at(pool, NOON - 1.5 * HOUR).keep_schedule(updated(job, NOON - 1.5 * HOUR, overlap="buffer_all"))
    assert await store_at(pool, NOON - HOUR).request_due_runs() == 1
    async with pool.session() as connection:
        rows = await connection.fetch(
            "SELECT run_id FROM slots WHERE job_id = $1 AND run_state = 'open' ORDER BY slot_at", job.job_id
        )
    return job.job_id, [row["run_id"] for row in rows]


async def until_all_is_over(pool: Database) -> list[RunRequested]:
    """Let one run after the other succeed; at no time two of a job are open."""
    store = store_at(pool, NOON)
    while await store.request_due_runs():
        pass
    await assert_at_most_one_open_run_each(pool)
    while True:
        async with pool.session() as connection:
            unended = await connection.fetch("SELECT job_id, run_id FROM slots WHERE run_state = 'open'")
        if not unended:
            return [event for event in await published(pool) if isinstance(event, RunRequested)]
        for row in unended:
            await store.end_run(row["job_id"], row["run_id"], RunState.SUCCEEDED)
        await assert_at_most_one_open_run_each(pool)


@pytest.mark.parametrize("order", [*permutations(range(3))], ids=str)
async def test_two_ends_and_a_due_slot_leave_at_most_one_run_open_in_each_order(
    pools: list[Database], order: tuple[int, ...]
) -> None:
    job_id, (first, second) = await two_open_runs_and_a_slot_that_is_due(pools[0])
    store = store_at(pools[0], NOON)
    steps = [
        lambda: store.end_run(job_id, first, RunState.SUCCEEDED),
        lambda: store.end_run(job_id, second, RunState.FAILED),
        store.request_due_runs,
    ]
    for step in order:
        await steps[step]()
    await assert_at_most_one_open_run_each(pools[0])
    assert len(await until_all_is_over(pools[0])) == 4


async def test_two_ends_and_a_due_slot_at_once_leave_at_most_one_run_open(pools: list[Database]) -> None:
    here, there, elsewhere = (store_at(pool, NOON) for pool in pools)
    jobs = [await two_open_runs_and_a_slot_that_is_due(pools[0]) for _ in range(20)]
    # All of them wait for the schedules, and are let go together.
    async with held(pools[0], "SELECT FROM schedules FOR UPDATE") as until_awaited:
        ends = [
            asyncio.create_task(store.end_run(job_id, run_id, RunState.SUCCEEDED))
            for job_id, runs in jobs
            for store, run_id in zip((here, there), runs, strict=True)
        ]
        await until_awaited(10)
    await asyncio.gather(*(elsewhere.request_due_runs(limit=3) for _ in range(7)), *ends)
    await assert_at_most_one_open_run_each(pools[0])
    runs = await until_all_is_over(pools[0])
    assert len(runs) == len({run.run_id for run in runs}) == 4 * len(jobs)


async def test_eight_scheduler_processes_decide_due_slots_by_each_overlap_policy(dsn: str) -> None:
    policies = ("skip", "buffer_one", "cancel_other")
    async with database.connect(dsn, "scheduler", outbox=True) as pool:
        jobs: dict[UUID, str] = {}
        for number in range(60):
            job = created(hours_ago(5), overlap=policies[number % 3], **UNTIL_NOW)
            jobs[job.job_id] = policies[number % 3]
            await store_on(pool).keep_schedule(job)
    assert await contend(dsn, SCHEDULERS) == 0
    async with database.connect(dsn, "scheduler", outbox=True) as pool:
        said: dict[UUID, list[str]] = defaultdict(list)
        for event in await published(pool):
            if not isinstance(event, ScheduleComputed):
                said[UUID(event.key)].append(re.sub(r" \d\d:00", "", words(event)))
    expected = {
        "skip": ["run schedule", *["skip overlap"] * 4],
        "buffer_one": ["run schedule", "wait schedule", *["skip buffer_full"] * 3],
        "cancel_other": [
            "run schedule", "cancel by scheduler", "wait schedule", *["skip overlap", "wait schedule"] * 3
        ],
    }  # fmt: skip
    assert {job_id: expected[policy] for job_id, policy in jobs.items()} == said


async def test_twenty_versions_of_an_unknown_job_at_once_end_with_the_last_one(pools: list[Database]) -> None:
    for seed in range(5):
        first = created(NOON, start="immediately")
        versions: list[JobEvent] = [first]
        for _ in range(19):
            # Each is due a minute later than the one before.
            at = {"kind": "daily", "at": f"13:{len(versions):02}"}
            versions.append(updated(versions[-1], NOON + len(versions) * SECOND, schedule=at, start="immediately"))
        Random(seed).shuffle(versions)
        stores = cycle([store_at(pool, NOON + MINUTE) for pool in pools])
        await asyncio.gather(*(store.keep_schedule(event) for store, event in zip(stores, versions, strict=False)))
        async with pools[0].session() as connection:
            row = await connection.fetchrow(
                "SELECT job_version, next_slot_at FROM schedules WHERE job_id = $1", first.job_id
            )
        assert tuple(row) == (20, NOON + HOUR + 19 * MINUTE)
        runs = [event for event in await published(pools[0]) if isinstance(event, RunRequested)]
        assert [run.slot.key for run in runs if run.job_id == first.job_id] == [f"immediate:{first.event_id}"]


async def test_a_command_told_to_two_replicas_at_once_gives_one_run(pools: list[Database]) -> None:
    job = created(NOON - HOUR / 2)
    here, there = store_at(pools[0], NOON), store_at(pools[1], NOON)
    await here.keep_schedule(job)
    begin = NOON - 9 * HOUR
    by_hand = run_now(job, NOON)
    again = retry(job, slots.run_id(job.job_id, f"manual:{by_hand.event_id}"), NOON)
    for runs, command in enumerate((by_hand, backfill(job, begin, begin + HOUR, NOON), again), 1):
        async with held(pools[2], "SELECT FROM schedules FOR UPDATE") as until_awaited:
            both = [asyncio.create_task(Handlers(store).hear(command)) for store in (here, there)]
            await until_awaited(2)
        await asyncio.gather(*both)
        assert len([event for event in await published(pools[0]) if isinstance(event, RunRequested)]) == runs


async def test_no_two_replicas_ever_wait_for_each_other(pools: list[Database]) -> None:
    """Batches of the clock beside events about single jobs: a deadlock would be raised by the server."""
    jobs = [created(NOON - 5.5 * HOUR, overlap="buffer_one", catchup={"mode": "all"}) for _ in range(12)]
    for job in jobs:
        await store_at(pools[0], NOON - 5.5 * HOUR).keep_schedule(job)

    async def strike(pool: Database) -> None:
        for hours in range(5, -1, -1):
            while await store_at(pool, NOON - hours * HOUR).request_due_runs(limit=5):
                pass

    async def tell(pool: Database, seed: int) -> None:
        hear = Handlers(store_at(pool, NOON)).hear
        shuffled = Random(seed).sample(jobs, len(jobs))
        for job in shuffled:
            await hear(updated(job, NOON - HOUR, title=f"By {seed}", overlap="buffer_one", catchup={"mode": "all"}))
            await hear(run_now(job, NOON))
            async with pool.session() as connection:
                rows = await connection.fetch(
                    "SELECT run_id FROM slots WHERE job_id = $1 AND run_state = 'open'", job.job_id
                )
            for row in rows:
                await hear(ended(RunSucceeded, job.job_id, row["run_id"], NOON))

    await asyncio.gather(*map(strike, pools), *(tell(pool, seed) for seed, pool in enumerate(pools * 2)))
    await assert_at_most_one_open_run_each(pools[0])
    runs = await until_all_is_over(pools[0])
    assert len(runs) == len({run.run_id for run in runs})
