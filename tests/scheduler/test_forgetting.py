"""The ledger of long ago is forgotten, and nothing that is heard again makes a run again."""

from datetime import UTC, datetime, timedelta

from services.scheduler.domain import RunState
from services.scheduler.store import Store
from shared.database import Database
from shared.events import BackfillRequested, RunRequested
from tests.scheduler.jobs import UNTIL_NOW, created, deleted, hours_ago, resumed, suspended
from tests.scheduler.world import published

AGE = timedelta(days=462)


async def requested(database: Database) -> list[RunRequested]:
    return [event for event in await published(database) if isinstance(event, RunRequested)]


async def count(database: Database, table: str) -> int:
    async with database.session() as connection:
        return await connection.fetchval(f"SELECT count(*) FROM {table}")


async def grow_old(database: Database) -> None:
    """As if all that was decided had been decided long ago."""
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL ROLE NONE")  # the login role owns the tables
        await connection.execute("UPDATE slots SET decided_at = decided_at - interval '463 days'")
        await connection.execute("UPDATE backfills SET started_at = started_at - interval '463 days'")
        await connection.execute("UPDATE schedules SET deleted_at = deleted_at - interval '463 days'")


async def forget(store: Store) -> dict[str, int]:
    return {table: await step(100) for table, step in store.forgetting(AGE).items()}


async def request_all(store: Store) -> None:
    while await store.request_due_runs():
        pass


async def test_what_is_over_goes_and_what_is_open_stays(database: Database, store: Store) -> None:
    await store.keep_schedule(created(hours_ago(3), **UNTIL_NOW))
    await request_all(store)
    first, _, last = await requested(database)
    await store.end_run(first.job_id, first.run_id, RunState.SUCCEEDED)
    await store.end_run(last.job_id, last.run_id, RunState.FAILED)
    assert (await forget(store))["slots"] == 0  # too young

    await grow_old(database)

    assert (await forget(store))["slots"] == 2
    assert await count(database, "slots WHERE run_state = 'open'") == 1
    # A schedule that goes on does not look back.
    await request_all(store)
    assert len(await requested(database)) == 3


async def test_the_database_keeps_what_is_not_over_whoever_deletes(database: Database, store: Store) -> None:
    await store.keep_schedule(created(hours_ago(3), overlap="buffer_all", **UNTIL_NOW))
    await request_all(store)
    for table in ("slots", "schedules", "outbox"):
        kept = await count(database, table)
        assert kept > 0
        async with database.transaction() as connection:
            assert await connection.execute(f"DELETE FROM {table}") == "DELETE 0", table


async def test_a_job_that_is_heard_of_again_does_not_run_at_once_again(database: Database) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=463)
    event = created(long_ago, schedule={"kind": "once"}, start="immediately")
    before = Store(database, lambda _: timedelta(0))
    await before.keep_schedule(event)
    [run] = await requested(database)
    await before.end_run(run.job_id, run.run_id, RunState.SUCCEEDED)
    await grow_old(database)
    assert (await forget(before))["slots"] == 1

    store = Store(database, lambda _: timedelta(0), remembers_for=AGE)
    await store.keep_schedule(event)  # events of jobs are followed however old

    assert len(await requested(database)) == 1


async def test_slots_of_a_suspension_that_lasts_are_kept_for_its_end(database: Database, store: Store) -> None:
    """The scheduler decided a slot that was due before it heard of the suspension."""
    first = created(hours_ago(3), **UNTIL_NOW)
    await store.keep_schedule(first)
    await request_all(store)
    for run in await requested(database):
        await store.end_run(run.job_id, run.run_id, RunState.SUCCEEDED)
    stop = suspended(first, hours_ago(1.5))
    await store.keep_schedule(stop)
    await grow_old(database)

    assert (await forget(store))["slots"] == 1
    await store.keep_schedule(resumed(stop, datetime.now(UTC), missed="all"))

    assert len(await requested(database)) == 3


async def test_a_deleted_job_is_forgotten_with_all_that_is_left_of_it(database: Database, store: Store) -> None:
    first, living = created(hours_ago(3), **UNTIL_NOW), created(hours_ago(3), **UNTIL_NOW)
    for event in (first, living):
        await store.keep_schedule(event)
    await store.start_backfill(
        BackfillRequested(
            occurred_at=hours_ago(0), tenant="acme", job_id=first.job_id, actor="alice",
            interval_from=hours_ago(9), interval_to=hours_ago(7),
        )
    )  # fmt: skip
    await store.keep_schedule(deleted(first, datetime.now(UTC)))
    await grow_old(database)
    assert (await forget(store))["schedules"] == 0  # its runs are not known to have ended
    for run in await requested(database):
        await store.end_run(run.job_id, run.run_id, RunState.CANCELLED)
    await grow_old(database)

    forgotten = await forget(store)

    assert (forgotten["backfills"], forgotten["schedules"]) == (1, 1)
    async with database.session() as connection:
        assert await connection.fetchval("SELECT job_id FROM schedules") == living.job_id
