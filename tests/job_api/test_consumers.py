"""What job_api makes of the events it follows: the same at the end, in whatever order and however often they come."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.job_api import consumers
from services.job_api.domain import commands, jobs
from services.job_api.domain.commands import BackfillState
from services.job_api.store import Store
from shared import slots
from shared.database import Database
from shared.events import (
    BackfillStarted,
    Event,
    Job,
    JobState,
    Progress,
    Question,
    RunAttemptFailed,
    RunCancelled,
    RunFailed,
    RunProgressed,
    RunQueued,
    RunRequested,
    RunStarted,
    RunSucceeded,
    ScheduleComputed,
    SchedulePaused,
    Slot,
    SlotMissed,
    SlotSkipped,
    SlotWaiting,
    new_event_id,
)
from shared.inbox import Inbox
from tests.job_api.jobs import create

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
Deliver = Callable[[Event], Awaitable[None]]


class Handlers:
    """Stands where an inbox is: remembers the handlers, and calls them."""

    def __init__(self) -> None:
        self.handlers: dict[type[Event], Callable[[Any], Awaitable[None]]] = {}

    def on(self, *types: type[Event]) -> Callable[[Any], Any]:
        def register(handle: Any) -> Any:
            self.handlers.update(dict.fromkeys(types, handle))
            return handle

        return register

    async def deliver(self, event: Event) -> None:
        await self.handlers[type(event)](event)


@pytest.fixture
def deliver(store: Store) -> Deliver:
    handlers = Handlers()
    consumers.register(cast("Inbox", handlers), store)
    return handlers.deliver


@pytest.fixture
async def job(store: Store) -> Job:
    return await create(store)


class Told:
    """The events about one slot of a job, in the order of their making."""

    def __init__(self, job: Job, slot: Slot, begin: int) -> None:
        self.run_id = slots.run_id(job.id, slot.key)
        self._job, self._slot, self._minute, self._version = job, slot, begin, 0
        self.events: list[Event] = []

    def _about(self) -> dict[str, Any]:
        self._minute += 1
        return {"occurred_at": NOW + timedelta(minutes=self._minute), "tenant": "acme", "job_id": self._job.id}

    def waits(self) -> "Told":
        self.events.append(SlotWaiting(**self._about(), job_version=1, slot=self._slot))
        return self

    def skipped(self, *, missed: bool = False) -> "Told":
        event = SlotMissed if missed else SlotSkipped
        reason = "coalesced" if missed else "cancelled"
        about = {**self._about(), "job_version": 1, "slot": self._slot, "reason": reason}
        self.events.append(event.model_validate(about))
        return self

    def requested(self) -> "Told":
        question = Question(
            source="ucs", type="interaction", media_types="all", interval_from=self._slot.at - timedelta(hours=4),
            interval_to=self._slot.at, split_bytes=None, format="jsonl", encryption="gcm", recipients=None,
        )  # fmt: skip
        self.events.append(
            RunRequested(
                **self._about(), job_version=1, run_id=self.run_id, slot=self._slot, question=question, title="A job"
            )
        )
        return self

    def run(self, kind: type[Any], attempt: int = 1, **more: Any) -> "Told":
        self._version += 1
        about = {**self._about(), "run_id": self.run_id, "version": self._version, "attempt": attempt}
        self.events.append(kind(**about, **more))
        return self

    def progress(self, attempt: int, sequence: int, percent: float) -> "Told":
        step = Progress(
            attempt=attempt, sequence=sequence, rows=1, bytes=1, total=4, percent=percent, remaining_seconds=9.0
        )
        self.events.append(RunProgressed(**self._about(), run_id=self.run_id, progress=step))
        return self

    def started(self) -> "Told":
        return self.requested().run(RunQueued, 0).run(RunStarted, worker="w")

    def failed_once(self) -> "Told":
        return self.started().run(RunAttemptFailed, reason="r", message="m").run(RunStarted, 2, worker="w")

    def succeeded(self) -> "Told":
        return self.run(
            RunSucceeded, 2, rows=1, bytes=1, parts=1, snapshot="s", manifest_id=UUID(int=1), manifest_sha256="0"
        )


def histories(job: Job, backfill_id: UUID) -> list[Event]:
    """Everything that may become of a slot, one slot each, then a backfill and the schedule."""
    at = [slots.scheduled_slot(NOW + timedelta(hours=4 * number)) for number in range(6)]
    filled = [slots.backfilled_slot(backfill_id, NOW - timedelta(hours=4 * number)) for number in range(4)]
    stories = [
        Told(job, at[0], 0).waits().failed_once().progress(2, 1, 30.0).succeeded(),
        Told(job, at[1], 10).waits().skipped(),
        Told(job, at[2], 20).skipped(missed=True),
        Told(job, at[3], 30).started().run(RunFailed, reason="r", message="m"),
        Told(job, at[4], 40).started(),
        Told(job, at[5], 50).waits(),
        Told(job, filled[0], 60).waits().failed_once().succeeded(),
        Told(job, filled[1], 70).waits().started().run(RunCancelled, actor="alice"),
        Told(job, filled[2], 80).waits().started().run(RunFailed, reason="r", message="m"),
        Told(job, filled[3], 15).waits().skipped(),
    ]
    about: dict[str, Any] = {"tenant": "acme", "job_id": job.id, "job_version": 1}
    return [
        *(event for story in stories for event in story.events),
        BackfillStarted(occurred_at=NOW, backfill_id=backfill_id, slots=5, **about),
        ScheduleComputed(occurred_at=NOW, next_slot_at=NOW + timedelta(hours=1), **about),
        ScheduleComputed(occurred_at=NOW + timedelta(hours=1), next_slot_at=NOW + timedelta(hours=5), **about),
    ]


async def backfilled(store: Store, job: Job) -> UUID:
    command_id = new_event_id()
    wanted = commands.Wanted(NOW - timedelta(days=1), NOW, "all", 1)
    return await store.order_for_job(
        "acme", job.id, command_id,
        lambda facts: commands.backfill(
            facts, wanted, command_id, settle=lambda _: timedelta(0), actor="alice", expected=None
        ),
    )  # fmt: skip


async def seen(database: Database, job: Job) -> tuple[list[Any], list[Any], list[Any]]:
    """All that the projection keeps, but for progress, which may be lost."""
    async with database.session() as connection:
        runs = await connection.fetch(
            """SELECT run_id, state, version, requested_at, started_at, attempt, trigger, interval_from, interval_to
               FROM runs WHERE job_id = $1 ORDER BY run_id""",
            job.id,
        )
        shown = await connection.fetch(
            "SELECT latest_run_id, latest_status, latest_started_at, next_slot_at, state FROM jobs WHERE id = $1",
            job.id,
        )
        filled = await connection.fetch(
            "SELECT slots, succeeded, failed, cancelled FROM backfills WHERE job_id = $1", job.id
        )
    return [tuple(row) for row in runs], [tuple(row) for row in shown], [tuple(row) for row in filled]


@settings(
    max_examples=15, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(chance=st.randoms(use_true_random=False), again=st.integers(0, 20))
async def test_any_order_and_any_repetition_end_the_same(
    store: Store, database: Database, deliver: Deliver, chance: Any, again: int
) -> None:
    ends: list[Any] = []
    for shuffled in (False, True):
        job = await create(store)
        backfill_id = await backfilled(store, job)
        told = histories(job, backfill_id)
        names = {slots.run_id(job.id, key): key.replace(str(backfill_id), "") for key in _keys(told)}
        if shuffled:
            told += chance.choices(told, k=again)
            chance.shuffle(told)
        for event in told:
            await deliver(event)
        runs, [shown], filled = await seen(database, job)
        ends.append((sorted((names[run[0]], *run[1:]) for run in runs), (names[shown[0]], *shown[1:]), filled))
    assert ends[0] == ends[1]


def _keys(told: Sequence[Event]) -> set[str]:
    return {
        event.slot.key for event in told if isinstance(event, SlotWaiting | SlotSkipped | SlotMissed | RunRequested)
    }


async def test_a_backfill_counts_its_slots_once(store: Store, deliver: Deliver, job: Job) -> None:
    backfill_id = await backfilled(store, job)
    assert (await store.backfill("acme", job.id, backfill_id)).state is BackfillState.PLANNED
    for event in histories(job, backfill_id) * 2:
        await deliver(event)
    backfill = await store.backfill("acme", job.id, backfill_id)
    assert (backfill.slots, backfill.succeeded, backfill.failed, backfill.cancelled) == (5, 1, 1, 2)
    assert backfill.state is BackfillState.RUNNING
    last = Told(job, slots.backfilled_slot(backfill_id, NOW - timedelta(hours=16)), 90).waits().skipped()
    for event in last.events:
        await deliver(event)
    assert (await store.backfill("acme", job.id, backfill_id)).state is BackfillState.FINISHED


# --- the latest run -----------------------------------------------------------------------------------------------


async def latest(store: Store, job: Job) -> tuple[UUID, str] | None:
    run = (await store.job("acme", job.id)).latest_run
    return None if run is None else (run.run_id, run.status.value)


async def test_the_latest_run_is_the_one_requested_last_and_a_waiting_slot_only_while_nothing_is_open(
    store: Store, deliver: Deliver, job: Job
) -> None:
    first = Told(job, slots.scheduled_slot(NOW), 0).started()
    second = Told(job, slots.scheduled_slot(NOW + timedelta(hours=4)), 10).waits()
    for event in [*first.events, *second.events]:
        await deliver(event)
    assert await latest(store, job) == (first.run_id, "running")
    first.events.clear()
    for event in first.succeeded().events:
        await deliver(event)
    assert await latest(store, job) == (second.run_id, "waiting")
    second.events.clear()
    for event in second.skipped().events:
        await deliver(event)
    assert await latest(store, job) == (first.run_id, "succeeded")


async def test_progress_is_that_of_the_newest_attempt_and_only_of_a_running_run(
    store: Store, deliver: Deliver, job: Job
) -> None:
    told = Told(job, slots.scheduled_slot(NOW), 0).requested().progress(1, 1, 5.0)
    told.run(RunStarted, worker="w").progress(1, 2, 40.0).progress(1, 1, 20.0)
    told.run(RunAttemptFailed, reason="r", message="m").progress(1, 3, 60.0)
    told.run(RunStarted, 2, worker="w").progress(1, 9, 90.0).progress(2, 1, 10.0).succeeded()
    seen: list[float | None] = []
    for event in told.events:
        await deliver(event)
        run = (await store.job("acme", job.id)).latest_run
        assert run
        seen.append(run.percent)
    assert seen == [None, None, None, 40.0, 40.0, None, None, None, None, 10.0, None]


async def test_progress_of_a_run_nobody_has_heard_of_is_dropped(store: Store, deliver: Deliver, job: Job) -> None:
    for event in Told(job, slots.scheduled_slot(NOW), 0).progress(1, 1, 50.0).events:
        await deliver(event)
    assert await latest(store, job) is None


@pytest.mark.parametrize("end", [RunSucceeded, RunFailed, RunCancelled])
async def test_a_terminal_state_is_never_left(store: Store, deliver: Deliver, job: Job, end: type[Any]) -> None:
    told = Told(job, slots.scheduled_slot(NOW), 0).started()
    fields = {
        RunSucceeded: {
            "rows": 1,
            "bytes": 1,
            "parts": 1,
            "snapshot": "s",
            "manifest_id": uuid4(),
            "manifest_sha256": "",
        },
        RunFailed: {"reason": "r", "message": "m"},
        RunCancelled: {"actor": "alice"},
    }
    told.run(end, **fields[end])
    for other in (RunSucceeded, RunFailed, RunCancelled):
        told.run(other, **fields[other])
    for event in [*told.events, *told.events[:3]]:
        await deliver(event)
    expected = {RunSucceeded: "succeeded", RunFailed: "failed", RunCancelled: "cancelled"}[end]
    assert await latest(store, job) == (told.run_id, expected)


async def test_a_late_run_does_not_revive_a_deleted_job(
    store: Store, database: Database, deliver: Deliver, job: Job
) -> None:

    await store.change_job("acme", job.id, lambda facts: jobs.delete(facts, actor="alice", expected=None))
    told = Told(job, slots.scheduled_slot(NOW), 0).started()
    about: dict[str, Any] = {"tenant": "acme", "job_id": job.id, "job_version": 1, "occurred_at": NOW}
    for event in [
        *told.events, SchedulePaused(failures=3, **about), ScheduleComputed(next_slot_at=NOW, **about),
    ]:  # fmt: skip
        await deliver(event)
    async with database.session() as connection:
        row = await connection.fetchrow("SELECT state, version, next_slot_at FROM jobs WHERE id = $1", job.id)
    assert row
    assert tuple(row) == (JobState.DELETED, 2, None)


async def test_a_pause_stops_the_job_when_the_scheduler_said_so(store: Store, deliver: Deliver, job: Job) -> None:
    about: dict[str, Any] = {"tenant": "acme", "job_id": job.id, "job_version": 1, "occurred_at": NOW}
    for _ in range(2):
        await deliver(SchedulePaused(failures=3, **about))
    row = await store.job("acme", job.id)
    assert (row.job.version, row.job.state, row.job.suspended_reason) == (2, "suspended", "failures")
    assert (await store.facts("acme", job.id)).stopped_at == NOW
