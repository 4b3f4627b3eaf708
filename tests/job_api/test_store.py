"""Jobs, certificates and the projection of runs on a real PostgreSQL."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.job_api import domain
from services.job_api.domain import Certificate, KeyTaken
from services.job_api.store import JobRow, Store
from shared.database import Database
from shared.events import Job, JobState, Progress, RunState
from tests.job_api.jobs import settings, sources

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
VALID = Certificate("f" * 64, "", "CN=client", NOW, datetime(2100, 1, 1, tzinfo=UTC))


def deciding(**changes: Any) -> Callable[[datetime, list[Certificate]], Job]:
    def decide(now: datetime, _: list[Certificate]) -> Job:
        return domain.new_job(
            settings(**changes), job_id=uuid4(), created_by="alice", now=now, sources=sources(), certificates=[VALID]
        )

    return decide


async def outbox_types(database: Database) -> list[str]:
    async with database.session() as connection:
        return [row["type"] for row in await connection.fetch("SELECT type FROM outbox ORDER BY id")]


async def read(store: Store, job: Job, tenant: str = "acme") -> JobRow:
    row = await store.job(tenant, job.id)
    assert row
    return row


async def test_a_job_and_its_event_are_one_transaction(database: Database, store: Store) -> None:
    job = await store.create_job("acme", deciding())
    assert await outbox_types(database) == ["cdds.JobCreated.v1"]
    assert (await read(store, job)).job == job


async def test_a_refused_job_leaves_no_event(database: Database, store: Store) -> None:
    with pytest.raises(domain.SettingsRefused):
        await store.create_job("acme", deciding(source="nowhere"))
    await store.create_job("acme", deciding(key="nightly"))
    with pytest.raises(KeyTaken, match="nightly"):
        await store.create_job("acme", deciding(key="nightly"))
    assert await outbox_types(database) == ["cdds.JobCreated.v1"]


async def test_of_two_who_want_a_key_at_once_one_gets_it(database: Database, store: Store) -> None:
    answers = await asyncio.gather(
        *(store.create_job("acme", deciding(key="nightly")) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(answer, Job) for answer in answers) == 1
    assert sum(isinstance(answer, KeyTaken) for answer in answers) == 7
    assert await outbox_types(database) == ["cdds.JobCreated.v1"]


async def test_a_job_is_seen_by_its_tenant_only(store: Store) -> None:
    job = await store.create_job("acme", deciding())
    assert await store.job("globex", job.id) is None
    assert await store.list_jobs("globex", 10, None) == []
    assert [row.job.id for row in await store.list_jobs("acme", 10, None)] == [job.id]


async def test_a_one_time_job_is_completed_once(database: Database, store: Store) -> None:
    job = await store.create_job("acme", deciding(schedule={"kind": "once"}, start=datetime(2100, 1, 1, tzinfo=UTC)))
    assert [await store.update_job(job.id, domain.complete) for _ in range(3)] == [True, False, False]
    assert await outbox_types(database) == ["cdds.JobCreated.v1", "cdds.JobSuspended.v1"]
    done = (await read(store, job)).job
    assert (done.version, done.state) == (2, JobState.SUSPENDED)
    assert not await store.update_job(uuid4(), domain.complete)


async def test_the_next_slot_is_that_of_the_newest_version(store: Store) -> None:
    job = await store.create_job("acme", deciding())
    first, second = NOW, NOW + timedelta(hours=4)
    await store.note_next_slot(job.id, 1, first)
    await store.note_next_slot(job.id, 1, second)
    await store.note_next_slot(job.id, 0, first)
    assert (await read(store, job)).next_slot_at == second


# --- runs ---------------------------------------------------------------------------------------------------------

TERMINAL = [state for state in RunState if state.terminal]


@pytest.fixture
async def job(store: Store) -> Job:
    return await store.create_job("acme", deciding())


async def note(store: Store, job: Job, run: UUID, state: RunState, version: int, minutes: int = 0) -> None:
    await store.note_run("acme", job.id, run, state, version, NOW + timedelta(minutes=minutes))


def progress(attempt: int, sequence: int, percent: float) -> Progress:
    return Progress(
        attempt=attempt, sequence=sequence, rows=1, bytes=1, total=4, percent=percent, remaining_seconds=9.0
    )


async def test_the_latest_run_is_the_newest_one(store: Store, job: Job) -> None:
    old, new = uuid4(), uuid4()
    await note(store, job, old, RunState.REQUESTED, 0)
    await note(store, job, new, RunState.REQUESTED, 0, minutes=1)
    await note(store, job, old, RunState.SUCCEEDED, 3, minutes=2)
    latest = (await read(store, job)).latest_run
    assert latest
    assert (latest.id, latest.state, latest.started_at) == (new, RunState.REQUESTED, None)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1), (1, 1, 3, 0, 3, 2)], ids=str)
async def test_a_run_ends_in_the_same_state_in_whatever_order_it_is_heard_of(
    store: Store, job: Job, order: tuple[int, ...]
) -> None:
    states = [RunState.REQUESTED, RunState.QUEUED, RunState.RUNNING, RunState.SUCCEEDED]
    run = uuid4()
    for version in order:
        await note(store, job, run, states[version], version)
    latest = (await read(store, job)).latest_run
    assert latest
    assert (latest.id, latest.state) == (run, RunState.SUCCEEDED)


@pytest.mark.parametrize("terminal", TERMINAL)
async def test_a_terminal_state_is_never_left(store: Store, job: Job, terminal: RunState) -> None:
    run = uuid4()
    await note(store, job, run, terminal, 5)
    for later in RunState:
        await note(store, job, run, later, 6)
    latest = (await read(store, job)).latest_run
    assert latest
    assert latest.state is terminal


async def test_progress_only_grows_and_a_new_attempt_begins_anew(store: Store, job: Job) -> None:
    run = uuid4()
    await note(store, job, run, RunState.RUNNING, 2)
    seen: list[float | None] = []
    for attempt, sequence, percent in [(1, 2, 40.0), (1, 1, 20.0), (1, 2, 41.0), (2, 1, 5.0), (1, 9, 90.0)]:
        await store.note_progress(run, progress(attempt, sequence, percent))
        latest = (await read(store, job)).latest_run
        assert latest
        seen.append(latest.percent)
    assert seen == [40.0, 40.0, 40.0, 5.0, 5.0]


async def test_progress_never_touches_a_run_that_is_not_running(store: Store, job: Job) -> None:
    for minute, state in enumerate(state for state in RunState if state is not RunState.RUNNING):
        run = uuid4()
        await note(store, job, run, state, 2, minute)
        await store.note_progress(run, progress(1, 1, 50.0))
        latest = (await read(store, job)).latest_run
        assert latest
        assert (latest.id, latest.state, latest.percent) == (run, state, None)


async def test_progress_of_a_run_nobody_has_heard_of_is_dropped(store: Store, job: Job) -> None:
    await store.note_progress(uuid4(), progress(1, 1, 50.0))
    assert (await read(store, job)).latest_run is None
