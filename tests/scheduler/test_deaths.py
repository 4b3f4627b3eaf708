"""Schedulers that are killed or frozen while they work: another one takes over, and nothing is asked for twice."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deploy.local.postgres import EmbeddedPostgres
from shared import database, slots
from shared.events import Event, RunFailed, RunSucceeded, Trigger
from tests.conftest import fresh_database
from tests.scheduler.jobs import created, deleted, resumed, suspended, updated
from tests.scheduler.world import (
    HOUR,
    MINUTE,
    NOON,
    World,
    backfill,
    cancel,
    cancel_backfill,
    ended,
    retry,
    run_now,
)


@pytest.fixture
async def dsn(postgres: EmbeddedPostgres, templates: dict[str, str]) -> AsyncIterator[str]:
    async with fresh_database(postgres, templates["scheduler"]) as address:
        yield address


@pytest.fixture
async def own_world(dsn: str) -> AsyncIterator[World]:
    """A scheduler on the database that the replicas use."""
    async with database.connect(dsn, "scheduler", outbox=True) as pool:
        yield World(pool)


class Replicas:
    """Processes that work on one thing each, one after the other."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def begin(self, what: Event | str) -> int:
        """The process that works on an event, or on what is due."""
        line = what if isinstance(what, str) else f"{what.type_name()} {what.model_dump_json()}"
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n".encode())
        return await self.end()

    async def end(self) -> int:
        """How it ended."""
        assert self._process.stdout
        return int(await self._process.stdout.readline())

    async def die(self, event: Event) -> None:
        """Be killed while working on an event."""
        await self.begin(event)
        assert await self.end() == -signal.SIGKILL

    async def stop(self, what: Event | str) -> int:
        """The process that has stopped while working."""
        pid = await self.begin(what)
        async with asyncio.timeout(20):
            # The third field says the state; the second may have blanks in it.
            while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                await asyncio.sleep(0)
        return pid


@asynccontextmanager
async def replicas(dsn: str, *options: str, **environment: str) -> AsyncGenerator[Replicas]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.scheduler.replica", dsn, *options, env={**os.environ, **environment},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        yield Replicas(process)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # with the one that has stopped
        raise
    finally:
        assert process.stdin
        process.stdin.close()
        await process.wait()


JOB = created(NOON - HOUR / 2, start="immediately", overlap="buffer_all")
AT_ONCE = slots.commanded_slot(Trigger.IMMEDIATE, JOB.event_id, JOB.occurred_at)
BY_HAND = run_now(JOB, NOON - 20 * MINUTE)
AGAIN = retry(JOB, slots.run_id(JOB.job_id, AT_ONCE.key), NOON - 15 * MINUTE)
EARLIER = backfill(JOB, NOON - 9 * HOUR, NOON - 5 * HOUR, NOON - 10 * MINUTE)
STOPPED = suspended(updated(JOB, NOON - 5 * MINUTE, title="Another"), NOON - 4 * MINUTE)


def life_of_a_job() -> list[Event]:
    """Events that all change something."""
    by_hand = slots.run_id(JOB.job_id, f"manual:{BY_HAND.event_id}")
    again = slots.run_id(JOB.job_id, f"retry:{AGAIN.event_id}")
    piece = slots.run_id(JOB.job_id, slots.backfilled_slot(EARLIER.event_id, NOON - 8 * HOUR).key)
    return [
        JOB,
        BY_HAND,  # waits
        ended(RunFailed, JOB.job_id, AGAIN.run_id, NOON),  # what waits is requested
        AGAIN,  # waits
        cancel(JOB, by_hand, NOON),
        cancel(JOB, again, NOON),
        EARLIER,
        ended(RunSucceeded, JOB.job_id, piece, NOON),  # the backfill goes on
        cancel_backfill(EARLIER, NOON),
        updated(JOB, NOON - 5 * MINUTE, title="Another"),
        STOPPED,
        resumed(STOPPED, NOON - 3 * MINUTE),
        deleted(resumed(STOPPED, NOON - 3 * MINUTE), NOON - 2 * MINUTE),
    ]


async def test_a_scheduler_that_dies_before_its_commit_has_changed_nothing(dsn: str, own_world: World) -> None:
    async with replicas(dsn, CDDS_FAILPOINT="scheduler.saved") as dying:
        for event in life_of_a_job():
            before = await own_world.everything()
            await dying.die(event)
            assert await own_world.everything() == before, type(event)
            await own_world.hear(event)
            assert await own_world.everything() != before, type(event)


async def test_a_scheduler_that_dies_after_its_commit_hears_it_again_and_changes_nothing(
    dsn: str, own_world: World
) -> None:
    async with replicas(dsn, CDDS_FAILPOINT="inbox.handled") as dying:
        for event in life_of_a_job():
            before = await own_world.everything()
            await dying.die(event)
            after = await own_world.everything()
            assert after != before, type(event)
            await own_world.hear(event)
            assert await own_world.everything() == after, type(event)


async def locked(world: World) -> int:
    """How many transactions of others hold what they have locked."""
    async with world.database.session() as connection:
        return await connection.fetchval(
            """SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
               WHERE granted AND locktype IN ('advisory', 'transactionid') AND pid <> pg_backend_pid()
                 AND datname = current_database()"""
        )


async def test_what_a_frozen_scheduler_was_told_is_done_by_another_one_and_not_again_when_it_thaws(
    dsn: str, own_world: World
) -> None:
    job = created(NOON - HOUR / 2, start="immediately", overlap="buffer_all")
    first, second = run_now(job, NOON - 20 * MINUTE), run_now(job, NOON - 10 * MINUTE)

    async def at_once() -> Event:
        return job

    async def released() -> Event:
        await own_world.hear(first)
        run_id = slots.run_id(job.job_id, f"immediate:{job.event_id}")
        return ended(RunSucceeded, job.job_id, run_id, NOON)

    async def by_hand() -> Event:
        await own_world.hear(ended(RunFailed, job.job_id, slots.run_id(job.job_id, f"manual:{first.event_id}"), NOON))
        return second

    steps: list[Callable[[], Awaitable[Event]]] = [at_once, released, by_hand]
    async with replicas(dsn, "stop") as freezing:
        for runs, step in enumerate(steps, 1):
            event = await step()
            pid = await freezing.stop(event)
            before = await own_world.everything()
            # Other jobs go on while the frozen one still holds what it has locked.
            await own_world.handlers.hear(created(NOON))
            assert await locked(own_world) == 1
            assert await own_world.everything() != before
            # Redelivered, it waits until the server has ended the frozen transaction.
            await own_world.hear(event)
            assert len(await own_world.runs()) == runs
            after = await own_world.everything()
            os.kill(pid, signal.SIGCONT)
            assert await freezing.end() == 0
            assert await own_world.everything() == after


async def test_what_a_frozen_scheduler_has_claimed_is_requested_by_another_one_and_not_again_when_it_thaws(
    dsn: str, own_world: World
) -> None:
    jobs = [created(NOON - HOUR / 2, schedule={"kind": "once"}, start=NOON - n * MINUTE) for n in range(3, 0, -1)]
    for job in jobs:
        await own_world.store.keep_schedule(job)
    async with replicas(dsn, "stop") as freezing:
        pid = await freezing.stop("due")
        assert await own_world.store.request_due_runs() == 1
        assert [run.job_id for run in await own_world.runs()] == [jobs[2].job_id]
        assert await own_world.store.request_due_runs() == 0
        assert await locked(own_world) == 1
        async with own_world.database.session() as connection:
            # Waits until the server has ended the frozen transaction.
            await connection.execute("SELECT FROM schedules FOR UPDATE")
        assert await own_world.store.request_due_runs() == 2
        after = await own_world.everything()
        os.kill(pid, signal.SIGCONT)
        assert await freezing.end() == 0
    assert await own_world.everything() == after
    assert len({run.run_id for run in await own_world.runs()}) == len(await own_world.runs()) == 3
