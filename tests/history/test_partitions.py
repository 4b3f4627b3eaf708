"""Months: made ahead, dropped as a whole when they are too old, and what becomes of events and readers meanwhile."""

import asyncio
import doctest
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from deploy.local.kafka import EmbeddedKafka
from services.history import consumers
from services.history.loops import keeper
from services.history.store import Store
from services.history.store import partitions as store_partitions
from services.history.store.partitions import TABLES
from shared.cluster import Cluster
from shared.database import Database
from shared.events import TOPICS, Event
from shared.inbox import Inbox
from shared.messaging import Producer, Record, ensure_topics, producer
from tests.conftest import DatabaseOf
from tests.history.events import Run, beside, empty, everything, finished_run, job_event, project

NOW = datetime.now(UTC)
RETENTION = timedelta(days=400)
PATIENCE = timedelta(seconds=20)

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
async def database(database_of: DatabaseOf) -> Database:
    """One of its own: months come and go."""
    return await database_of("history")


@pytest.fixture
async def store(database: Database) -> Store:
    store = Store(database, RETENTION)
    await store.keep_partitions()
    return store


def month(moment: datetime, later: int = 0) -> datetime:
    """The first moment of the month that is so many after that of `moment`."""
    months = moment.year * 12 + moment.month - 1 + later
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)


def kept(now: datetime, retention: timedelta = RETENTION) -> list[datetime]:
    """The months there must be, from the oldest to two ahead."""
    first, last = month(now - retention), month(now, 2)
    return [month(first, later) for later in range(100) if month(first, later) <= last]


async def partitions(database: Database) -> set[str]:
    async with database.transaction() as connection:
        rows = await connection.fetch(
            """SELECT child.relname AS name FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid
               WHERE inhparent = ANY(SELECT oid FROM pg_class WHERE relnamespace = 'history'::regnamespace
                                                                AND relkind = 'p')"""
        )
    return {row["name"] for row in rows}


def named(months: Iterable[datetime]) -> set[str]:
    return {f"{table}_{start:%Y_%m}" for table in TABLES for start in months}


async def keep_partitions_at(store: Store, database: Database, now: datetime) -> int:
    """What the store does when it is `now`, but for looking at the result."""
    async with database.transaction() as connection:
        return await store.keep_partitions_of(connection, now)


def life_at(start: datetime, job_id: UUID | None = None) -> list[Event]:
    """Rows for every table, all kept by when the run was requested."""
    run, events = finished_run(start=start, job_id=job_id)
    slots = [event.model_copy(update={"occurred_at": start}) for event in beside("t1", run.job_id)]
    other = Run(job_id=job_id, start=start)
    return [*events, run.deleted(1), *slots, other.requested(), other.progressed(attempt=1, sequence=1)]


async def test_every_month_that_is_kept_and_two_ahead_have_partitions_and_there_is_no_default(
    store: Store, database: Database
) -> None:
    assert await partitions(database) == named(kept(NOW))
    async with database.transaction() as connection:
        parted = await connection.fetch(
            """SELECT relname AS name, partdefid AS default FROM pg_partitioned_table
               JOIN pg_class ON pg_class.oid = partrelid WHERE relkind = 'p'"""
        )
    assert {(row["name"], row["default"]) for row in parted} == {(table, 0) for table in TABLES}


async def test_looking_again_changes_nothing(store: Store, database: Database) -> None:
    await project(store, life_at(NOW))
    before = await everything(database)

    assert await store.keep_partitions() == 0

    assert await partitions(database) == named(kept(NOW))
    assert await everything(database) == before


async def test_replicas_that_start_together_make_each_month_once(database: Database) -> None:
    made = await asyncio.gather(*(Store(database, RETENTION).keep_partitions() for _ in range(4)))

    assert await partitions(database) == named(kept(NOW))
    assert sum(made) == len(named(kept(NOW)))


async def test_a_later_look_makes_new_months_and_drops_old_ones_with_their_rows_and_nothing_else(
    store: Store, database: Database
) -> None:
    job_id = uuid4()
    old, young = kept(NOW)[0], kept(NOW)[2]
    living = life_at(young, job_id)
    await project(store, living)
    expected = await everything(database)
    await empty(database)
    await project(store, life_at(old, job_id))
    await project(store, living)
    later = month(NOW, 2)

    changed = await keep_partitions_at(store, database, later)

    assert await partitions(database) == named(kept(later))
    assert changed == len(named(kept(later)) ^ named(kept(NOW)))
    rows = await everything(database)
    for table in TABLES:
        assert rows[table] == expected[table]
    assert rows["job_versions"] == [{**row, "occurred_at": old} for row in expected["job_versions"]]


async def test_what_is_older_than_what_is_kept_changes_nothing(store: Store, database: Database) -> None:
    await project(store, life_at(NOW))
    before = await everything(database)
    too_old = kept(NOW)[0] - timedelta(days=1)
    run = Run(start=too_old)
    run.started()

    for event in [*life_at(too_old), run.attempt_failed(), run.cancelled(), run.failed(), run.waiting()]:
        await project(store, [event])
    await project(store, life_at(too_old))

    after = await everything(database)
    # Of jobs the newest version is kept, however old it is; `tidy` knows which ones that are.
    assert {**after, "job_versions": []} == {**before, "job_versions": []}


async def test_a_request_that_is_not_kept_tells_of_no_version_of_its_job(store: Store, database: Database) -> None:
    job_id = uuid4()
    too_old = Run(job_id=job_id, start=kept(NOW)[0] - timedelta(days=1)).requested()
    kept_one = Run(job_id=job_id, start=NOW).requested()

    await project(store, [too_old])
    assert not any((await everything(database)).values())

    await project(store, [too_old, kept_one])
    [version] = (await everything(database))["job_versions"]
    assert version["occurred_at"] == kept_one.occurred_at


async def test_what_happens_now_to_a_run_that_is_not_kept_any_more_is_on_the_timeline_only(
    store: Store, database: Database
) -> None:
    run = Run(start=kept(NOW)[0] - timedelta(days=1))
    run.now = NOW

    await project(store, [*run.succeeded(), run.deleted(1)])

    rows = await everything(database)
    assert len(rows.pop("events")) == 4
    assert not any(rows.values())


async def test_an_event_of_a_month_that_nobody_made_is_refused_and_leaves_nothing(
    store: Store, database: Database
) -> None:
    _, events = finished_run(start=month(NOW, 3))

    with pytest.raises(asyncpg.CheckViolationError):
        await project(store, [*life_at(NOW), *events])

    assert not any((await everything(database)).values())


# --- what is tidied up -------------------------------------------------------------------------------------------


async def test_slots_that_were_decided_wait_no_longer_and_nothing_else_is_removed(
    store: Store, database: Database
) -> None:
    requested, held = Run(start=NOW), Run(start=NOW)
    elsewhere = held.waiting().model_copy(update={"tenant": "t2", "job_id": uuid4(), "event_id": uuid4()})
    skipped = beside("t1")  # of its two that wait, one is skipped
    events = [requested.waiting(), held.waiting(), elsewhere, *skipped, *life_at(NOW)]
    await project(store, events)
    await project(store, [requested.requested(), held.requested().model_copy(update={"job_id": uuid4()})])
    expected = await everything(database)

    assert await store.tidy() == 3

    async with database.transaction() as connection:
        left = {(row["job_id"], row["slot_key"]) for row in await connection.fetch("TABLE slots_waiting")}
    assert left == {(row["job_id"], row["slot_key"]) for row in expected["slots_waiting"]}
    assert {(held.job_id, f"manual:{held.run_id}"), (elsewhere.job_id, elsewhere.slot.key)} < left
    assert await everything(database) == expected
    assert await store.tidy() == 0


async def test_versions_of_jobs_are_kept_from_the_one_that_the_oldest_month_began_with(
    store: Store, database: Database
) -> None:
    oldest = kept(NOW)[0]
    job_id, quiet = uuid4(), uuid4()
    for days, version in ((-20, 1), (-10, 2), (-1, 3), (1, 4), (2, 5)):
        told = job_event("t1", job_id, version).model_copy(update={"occurred_at": oldest + timedelta(days=days)})
        await project(store, [told])
    await project(store, [job_event("t1", quiet, 1).model_copy(update={"occurred_at": oldest - timedelta(days=90)})])
    before = await everything(database)

    assert await store.tidy() == 2

    after = await everything(database)
    assert {(row["job_id"], row["version"]) for row in after["job_versions"]} == {
        (job_id, 3),
        (job_id, 4),
        (job_id, 5),
        (quiet, 1),
    }
    assert {**after, "job_versions": []} == {**before, "job_versions": []}


async def test_ticks_that_lost_the_race_against_the_end_are_removed_after_an_hour(
    store: Store, database: Database
) -> None:
    earlier = NOW - timedelta(hours=2)
    over, ended, running, quiet = Run(start=earlier), Run(start=NOW), Run(start=earlier), Run(start=earlier)
    dropped = Run(start=kept(NOW)[0])
    for run in (over, ended, running, quiet, dropped):
        await project(store, [run.progressed(attempt=1, sequence=1)])
    await project(store, [running.started()])
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL ROLE NONE")
        await connection.execute("CREATE TABLE late AS TABLE progress")
    await project(store, [*over.succeeded(), ended.cancelled()])
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL ROLE NONE")
        await connection.execute("INSERT INTO progress TABLE late ON CONFLICT DO NOTHING")
    await keep_partitions_at(store, database, month(NOW, 2))
    await store.look_at_partitions()
    before = await everything(database)

    assert await store.tidy() == 2

    after = await everything(database)
    assert {row["run_id"] for row in after["progress"]} == {ended.run_id, running.run_id, quiet.run_id}
    assert {**after, "progress": []} == {**before, "progress": []}


# --- with a real inbox -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with EmbeddedKafka(tmp_path_factory.mktemp("kafka") / "broker") as broker:
        await ensure_topics(Cluster(broker.bootstrap), partitions=1, replication=1)
        yield broker.bootstrap


async def consume(store: Store, database: Database, kafka: str, connected: Producer, *events: Event) -> None:
    """Have `events`, and one more behind them, projected as history does it."""
    end = job_event("t1", uuid4(), 1)
    await connected.publish([Record.of(event) for event in [*events, end]])
    inbox = Inbox(f"history-{end.event_id}", connected, PATIENCE)
    consumers.register(inbox, store)
    running = asyncio.create_task(inbox.run(Cluster(kafka), timedelta(seconds=0.1)))
    expected = {event.event_id for event in (events[-1], end)}
    try:
        async with asyncio.timeout(60):
            while not expected <= {row["event_id"] for row in (await everything(database))["events"]}:
                assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def buried(kafka: str) -> list[str]:
    """Why records were dead-lettered."""
    async with AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest") as consumer:
        partitions = [TopicPartition(topic.dead, 0) for topic in TOPICS]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        found: list[str] = []
        for _ in range(sum(ends.values())):
            found.append(dict((await consumer.getone()).headers)["dead_reason"].decode())
        return found


async def test_a_month_that_another_replica_dropped_is_noticed_and_the_projection_goes_on(
    store: Store, database: Database, kafka: str
) -> None:
    dropped, young = kept(NOW)[0], kept(NOW)[2]
    lost, old = finished_run(start=dropped)
    found, events = finished_run(start=young)
    await keep_partitions_at(Store(database, RETENTION), database, month(NOW, 2))

    async with producer(Cluster(kafka), "test", PATIENCE) as connected:
        await consume(store, database, kafka, connected, *old, *events)

    rows = await everything(database)
    assert await buried(kafka) == []
    assert {row["run_id"] for row in rows["executions"]} == {found.run_id}
    assert {row["run_id"] for row in rows["events"]} == {found.run_id, None}
    assert lost.run_id != found.run_id


async def test_an_event_from_a_far_future_is_dead_lettered_and_its_neighbours_are_not(
    store: Store, database: Database, kafka: str
) -> None:
    run, events = finished_run(start=NOW)
    future = Run(start=month(NOW, 3)).queued()

    async with producer(Cluster(kafka), "test", PATIENCE) as connected:
        await consume(store, database, kafka, connected, events[0], events[1], future, *events[2:])

    (reason,) = await buried(kafka)
    assert "no partition of relation" in reason
    rows = await everything(database)
    assert run.run_id in {row["run_id"] for row in rows["executions"] if row["state"] == "succeeded"}
    assert future.event_id not in {row["event_id"] for row in rows["events"]}


# --- beside readers and writers ----------------------------------------------------------------------------------


async def test_readers_and_projectors_do_not_fail_while_months_are_dropped(store: Store, database: Database) -> None:
    run, events = finished_run(start=NOW)
    await project(store, [*life_at(kept(NOW)[0]), *events])
    over = False
    read = projected = 0

    async def reader() -> None:
        nonlocal read
        while not over:
            async with database.tenant("t1") as connection:
                files = await connection.fetchval(
                    """SELECT count(*) FROM events JOIN executions USING (run_id) JOIN artifacts USING (run_id)
                       WHERE run_id = $1""",
                    run.run_id,
                )
                assert files > 0
                assert await connection.fetchval("SELECT count(*) FROM statistics") > 0
                assert await connection.fetchval("SELECT count(*) FROM executions") > 0
                read += 1

    async def projector() -> None:
        nonlocal projected
        while not over:
            await project(store, life_at(NOW))
            projected += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(reader())
        tasks.create_task(projector())
        for fewer in range(1, 9):
            before = read, projected
            await Store(database, RETENTION - fewer * timedelta(days=31)).keep_partitions()
            while read == before[0] or projected == before[1]:
                await asyncio.sleep(0)
        over = True

    assert await partitions(database) == named(kept(NOW, RETENTION - 8 * timedelta(days=31)))


async def test_the_keeper_gives_way_to_a_long_reader_and_comes_back(database: Database) -> None:
    earlier = Store(database, RETENTION + timedelta(days=62))
    await earlier.keep_partitions()
    _, events = finished_run(start=kept(NOW)[0] - timedelta(days=1))
    await project(earlier, events)
    before = await partitions(database)
    store = Store(database, RETENTION)

    async with database.transaction() as reader:
        await reader.fetch("SELECT FROM executions")
        async with asyncio.timeout(20):
            looking = asyncio.create_task(store.keep_partitions())
            await waiting_for_locks(database)
            # Whoever comes behind the keeper waits no longer than it does.
            async with database.tenant("t1") as other:
                assert await other.fetchval("SELECT count(*) FROM executions") == 1
            assert await looking == 0
        assert await partitions(database) == before
        await project(store, events)

    await store.keep_partitions()
    assert await partitions(database) == named(kept(NOW))


async def waiting_for_locks(database: Database) -> None:
    async with database.transaction() as connection, asyncio.timeout(20):
        while not await connection.fetchval(
            """SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'
                              AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"""
        ):
            pass


async def test_the_loop_keeps_house_until_it_is_stopped(database: Database) -> None:
    _, events = finished_run(start=NOW)
    store = Store(database, RETENTION)
    keeping = asyncio.create_task(keeper.run(store, PATIENCE))

    async with asyncio.timeout(60):
        while await partitions(database) != named(kept(NOW)):
            assert not keeping.done()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await store.look_at_partitions()
    await project(store, events)


def test_the_examples_in_the_docstrings_are_true() -> None:
    result = doctest.testmod(store_partitions)
    assert (result.failed, result.attempted > 0) == (0, True)
