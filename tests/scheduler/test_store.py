"""Schedules and the slot ledger on a real PostgreSQL."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from services.scheduler.store import PUT_OFF, Store
from shared import slots
from shared.database import Database
from shared.events import RunRequested, ScheduleCompleted, ScheduleComputed, Trigger
from tests.scheduler.jobs import UNTIL_NOW, created, hours_ago, suspended, updated
from tests.scheduler.world import HOUR, MINUTE, NOON, World, only, published


async def requested(database: Database) -> list[RunRequested]:
    return [event for event in await published(database) if isinstance(event, RunRequested)]


async def next_slot_at(database: Database, job_id: UUID) -> datetime | None:
    async with database.session() as connection:
        return await connection.fetchval("SELECT next_slot_at FROM schedules WHERE job_id = $1", job_id)


async def request_all(store: Store) -> int:
    count = 0
    while found := await store.request_due_runs():
        count += found
    return count


async def test_a_new_job_gets_its_next_slot_and_says_so(database: Database, store: Store) -> None:
    event = created(hours_ago(-4.5))
    await store.keep_schedule(event)
    slot = hours_ago(-5)
    assert await next_slot_at(database, event.job_id) == slot
    [announced] = await published(database)
    assert isinstance(announced, ScheduleComputed)
    assert (announced.next_slot_at, announced.job_version, announced.tenant) == (slot, 1, "acme")
    assert await store.request_due_runs() == 0


async def test_a_redelivered_job_changes_nothing(database: Database, store: Store) -> None:
    event = created(datetime.now(UTC), start="immediately")
    for _ in range(3):
        await store.keep_schedule(event)
    assert Counter(type(e) for e in await published(database)) == {RunRequested: 1, ScheduleComputed: 1}


async def test_a_redelivered_job_does_not_turn_its_schedule_back(database: Database, store: Store) -> None:
    event = created(hours_ago(3), **UNTIL_NOW)
    await store.keep_schedule(event)
    await request_all(store)
    assert len(await requested(database)) == 3
    before = await published(database)
    await store.keep_schedule(event)
    assert await request_all(store) == 0
    assert await published(database) == before


async def test_an_older_version_changes_nothing(database: Database, store: Store) -> None:
    first = created(datetime.now(UTC))
    second = updated(first, datetime.now(UTC), schedule={"kind": "hourly", "every": 24})
    await store.keep_schedule(second)
    slot = await next_slot_at(database, first.job_id)
    assert slot
    assert slot.hour == 0
    before = await published(database)
    await store.keep_schedule(first)
    assert await next_slot_at(database, first.job_id) == slot
    assert await published(database) == before


async def test_a_job_submitted_to_run_at_once_runs_once_at_once(database: Database, store: Store) -> None:
    event = created(datetime.now(UTC), schedule={"kind": "once"}, start="immediately")
    await store.keep_schedule(event)
    await store.keep_schedule(event)
    [run] = await requested(database)
    assert run.slot.trigger is Trigger.IMMEDIATE
    assert run.slot.key == f"immediate:{event.event_id}"
    assert await request_all(store) == 0


async def test_a_one_time_job_is_completed_by_its_only_slot(database: Database, store: Store) -> None:
    at = hours_ago(1) + timedelta(minutes=17)
    event = created(hours_ago(2), schedule={"kind": "once"}, start=at)
    await store.keep_schedule(event)
    assert await request_all(store) == 1
    computed, run, completed = await published(database)
    assert isinstance(computed, ScheduleComputed)
    assert isinstance(run, RunRequested)
    assert isinstance(completed, ScheduleCompleted)
    assert (computed.next_slot_at, run.slot.at, completed.job_id) == (at, at, event.job_id)
    assert await next_slot_at(database, event.job_id) is None


async def test_every_slot_missed_in_an_outage_is_requested_in_order(database: Database, store: Store) -> None:
    event = created(hours_ago(30) + timedelta(minutes=1), schedule={"kind": "hourly", "every": 2}, **UNTIL_NOW)
    await store.keep_schedule(event)
    await request_all(store)
    slots = [run.slot.at for run in await requested(database)]
    assert slots == [hours_ago(h) for h in range(29, -1, -1) if hours_ago(h).hour % 2 == 0]
    announced = [e.next_slot_at for e in await published(database) if isinstance(e, ScheduleComputed)]
    assert announced == [slots[0], None]


async def test_the_end_of_a_schedule_is_exclusive(database: Database, store: Store) -> None:
    event = created(hours_ago(5) + timedelta(minutes=1), ends_at=hours_ago(2))
    await store.keep_schedule(event)
    await request_all(store)
    assert [run.slot.at for run in await requested(database)] == [hours_ago(4), hours_ago(3)]
    assert await next_slot_at(database, event.job_id) is None


async def test_a_suspended_job_has_no_next_slot_and_runs_what_was_due_before(database: Database, store: Store) -> None:
    event = created(hours_ago(3), **UNTIL_NOW)
    await store.keep_schedule(event)
    await store.keep_schedule(suspended(event, hours_ago(0.5)))
    assert await next_slot_at(database, event.job_id) is None
    assert await request_all(store) == 0
    assert [run.slot.at for run in await requested(database)] == [hours_ago(2), hours_ago(1)]


async def test_an_edited_job_is_not_asked_twice_for_a_slot_it_had(database: Database, store: Store) -> None:
    event = created(hours_ago(3), **UNTIL_NOW)
    await store.keep_schedule(event)
    await request_all(store)
    # The edit happened before the last slots were requested, and is heard of only now.
    await store.keep_schedule(updated(event, hours_ago(3), title="Another title", **UNTIL_NOW))
    await request_all(store)
    slots = [run.slot.key for run in await requested(database)]
    assert len(slots) == len(set(slots)) == 3


async def test_slots_are_due_by_the_databases_clock(database: Database, store: Store) -> None:
    async with database.session() as connection:
        now: datetime = await connection.fetchval("SELECT now()")
    event = created(now - timedelta(seconds=1), schedule={"kind": "once"}, start=now)
    later = created(now - timedelta(seconds=1), schedule={"kind": "once"}, start=now + timedelta(hours=1))
    await store.keep_schedule(event)
    await store.keep_schedule(later)
    assert await request_all(store) == 1
    assert [run.job_id for run in await requested(database)] == [event.job_id]


def settle_or_fail(source: str) -> timedelta:
    if source == "broken":
        raise RuntimeError(source)
    return timedelta(0)


@pytest.mark.parametrize("broken_ones", [{0}, {1, 2}, {3}], ids=str)
async def test_schedules_that_cannot_be_decided_are_put_off_and_all_others_go_on_at_once(
    world: World, broken_ones: set[int]
) -> None:
    jobs = [
        created(
            NOON - HOUR / 2,
            source="broken" if n in broken_ones else "ucs",
            start=NOON + n * MINUTE,
            schedule={"kind": "once"},
        )
        for n in range(4)
    ]
    for job in jobs:
        await world.store.keep_schedule(job)
    world.now = NOON + HOUR / 2
    store = Store(world.database, settle_or_fail, world.clock)
    # In one look: those at fault do not stand in the way of the others, wherever they stand in the queue.
    assert await store.request_due_runs() == 4
    assert await store.request_due_runs() == 0
    sound = [job.job_id for n, job in enumerate(jobs) if n not in broken_ones]
    assert [run.job_id for run in await world.runs()] == sound
    for n in broken_ones:
        assert await next_slot_at(world.database, jobs[n].job_id) == NOON + n * MINUTE
    assert await store.next_due_in() == PUT_OFF
    # Once they can be decided, nothing of theirs is lost.
    said = await world.wait_until(NOON + HOUR / 2 + PUT_OFF)
    assert len(only(said, "run")) == 4


async def test_a_schedule_whose_decision_cannot_be_written_is_put_off_and_the_others_go_on(world: World) -> None:
    jobs = [created(NOON - HOUR / 2) for _ in range(3)]
    for job in jobs:
        await world.store.keep_schedule(job)
    async with world.database.session() as connection:
        # Another job's slot has its run.
        await connection.execute(
            """INSERT INTO slots (job_id, tenant, slot_key, slot_at, trigger, outcome, reason, run_id)
               VALUES (gen_random_uuid(), 'acme', 'x', now(), 'manual', 'skipped', 'cancelled', $1)""",
            slots.run_id(jobs[1].job_id, slots.scheduled_slot(NOON).key),
        )
    assert only(await world.wait_until(NOON), "run") == ["run schedule 12:00"] * 2
    assert {run.job_id for run in await world.runs()} == {jobs[0].job_id, jobs[2].job_id}
    assert await world.store.next_due_in() == PUT_OFF


async def test_a_schedule_whose_settings_no_longer_make_sense_is_put_off(world: World) -> None:
    jobs = [created(NOON - HOUR / 2) for _ in range(2)]
    for job in jobs:
        await world.store.keep_schedule(job)
    async with world.database.session() as connection:
        await connection.execute("UPDATE schedules SET settings = '{}' WHERE job_id = $1", jobs[0].job_id)
    assert only(await world.wait_until(NOON), "run") == ["run schedule 12:00"]
    assert await world.store.next_due_in() == PUT_OFF


async def test_two_tenants_jobs_do_not_mix(database: Database, store: Store) -> None:
    for tenant in ("acme", "globex"):
        await store.keep_schedule(created(hours_ago(1), tenant=tenant, **UNTIL_NOW))
    await request_all(store)
    assert Counter(run.tenant for run in await requested(database)) == {"acme": 1, "globex": 1}


async def test_a_job_nobody_knows_can_be_suspended_first(database: Database, store: Store) -> None:
    event = created(hours_ago(3), job_id=uuid4())
    await store.keep_schedule(suspended(event, datetime.now(UTC)))
    await store.keep_schedule(event)
    assert await next_slot_at(database, event.job_id) is None
    assert await request_all(store) == 0
