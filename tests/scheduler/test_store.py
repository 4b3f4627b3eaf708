"""Schedules and the slot ledger on a real PostgreSQL."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from services.scheduler.store import Store
from shared.database import Database
from shared.events import EVENT_TYPES, Event, RunRequested, ScheduleCompleted, ScheduleComputed, Trigger
from tests.conftest import DatabaseOf
from tests.scheduler.jobs import UNTIL_NOW, created, hours_ago, suspended, updated


@pytest.fixture
async def database(database_of: DatabaseOf) -> Database:
    return await database_of("scheduler")


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database, lambda _: timedelta(0))


async def published(database: Database) -> list[Event]:
    """What the outbox holds, in order."""
    async with database.session() as connection:
        rows = await connection.fetch("SELECT type, value FROM outbox ORDER BY id")
    return [EVENT_TYPES[row["type"]].model_validate_json(row["value"]) for row in rows]


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
    assert await request_all(store) == 3
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
    assert announced == [*slots, None]


async def test_the_end_of_a_schedule_is_exclusive(database: Database, store: Store) -> None:
    event = created(hours_ago(5) + timedelta(minutes=1), ends_at=hours_ago(2))
    await store.keep_schedule(event)
    await request_all(store)
    assert [run.slot.at for run in await requested(database)] == [hours_ago(4), hours_ago(3)]
    assert await next_slot_at(database, event.job_id) is None


async def test_a_suspended_job_has_no_next_slot(database: Database, store: Store) -> None:
    event = created(hours_ago(3))
    await store.keep_schedule(event)
    await store.keep_schedule(suspended(event, datetime.now(UTC)))
    assert await next_slot_at(database, event.job_id) is None
    assert await request_all(store) == 0
    assert await requested(database) == []


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


async def test_a_due_slot_and_its_run_commit_together_or_not_at_all(database: Database) -> None:
    event = created(hours_ago(1))

    def broken(source: str) -> timedelta:
        raise RuntimeError(source)

    await Store(database, lambda _: timedelta(0)).keep_schedule(event)
    due = await next_slot_at(database, event.job_id)
    with pytest.raises(RuntimeError, match="ucs"):
        await Store(database, broken).request_due_runs()
    assert await next_slot_at(database, event.job_id) == due
    async with database.session() as connection:
        assert await connection.fetchval("SELECT count(*) FROM slots") == 0
    assert await requested(database) == []


async def test_an_idle_look_reads_one_index_however_many_schedules_there_are(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            """INSERT INTO schedules (job_id, tenant, job_version, settings, next_slot_at)
               SELECT gen_random_uuid(), 'acme', 1, '{}', now() + n * interval '1 second'
               FROM generate_series(1, 100000) AS n"""
        )
    async with database.session() as connection:
        await connection.execute("SET ROLE NONE")
        await connection.execute("ANALYZE scheduler.schedules")
        await connection.execute("SET ROLE scheduler_worker")
        answer: str = await connection.fetchval(
            # The statement of Store.request_due_runs.
            """EXPLAIN (ANALYZE, BUFFERS, FORMAT json)
               SELECT job_id, tenant, job_version, settings, next_slot_at
               FROM schedules WHERE next_slot_at <= now()
               ORDER BY next_slot_at LIMIT 200
               FOR UPDATE SKIP LOCKED"""
        )
    plan: list[dict[str, Any]] = orjson.loads(answer) if isinstance(answer, str) else answer
    used = orjson.dumps(plan).decode()
    assert '"Index Name":"schedules_due"' in used
    assert "Seq Scan" not in used
    assert '"Sort"' not in used
    # The descent of one B-tree: root, one inner page, one leaf, and what the planner itself touches.
    assert plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] <= 10


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
