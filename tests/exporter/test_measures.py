"""The queue and the files as their gauges show them, from the real store."""

from datetime import timedelta
from typing import Any

from services.exporter.domain import Failure, Lane, OpenRuns
from services.exporter.loops import measure_files, measure_runs
from services.exporter.store import Store
from shared.database import Database
from shared.events import RunState
from tests.exporter.runs import LEASE, claimed, expire_lease, outcome, requested, seal
from tests.exporter.test_lanes import asked
from tests.exporter.test_store import explained
from tests.shared.metrics import Moved, measured

LATER = Failure("source_unavailable", "The source does not answer.", repeatable=True)
OVER = Failure("source_refused", "There is no such table.", repeatable=False)
HOUR = 3600


async def made_older(database: Database, age: timedelta) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            "UPDATE runs SET queued_at = queued_at - $1::interval, not_before = not_before - $1::interval", age
        )


def queue(state: str, lane: Lane) -> tuple[float, float]:
    """How many, and how old the oldest is, in whole hours."""
    runs = measured("cdds_runs", state=state, lane=lane)
    return runs, measured("cdds_oldest_run_seconds", state=state, lane=lane) // HOUR


async def test_open_runs_are_counted_by_state_and_lane_with_the_age_of_the_oldest(
    store: Store, database: Database
) -> None:
    await claimed(store, asked(Lane.BACKFILL))
    ended = await claimed(store, asked())
    await store.fail_attempt(ended, OVER)
    await store.queue_run(asked(Lane.SCHEDULED))
    await made_older(database, timedelta(hours=2))
    await store.queue_run(asked(Lane.SCHEDULED, tenant="t2"))
    await made_older(database, timedelta(hours=3))

    await measure_runs(store)

    assert queue("queued", Lane.SCHEDULED) == (2, 5)
    assert queue("running", Lane.BACKFILL) == (1, 5)
    assert queue("queued", Lane.MANUAL) == queue("running", Lane.MANUAL) == (0, 0)

    async with database.transaction() as connection:
        await connection.execute(
            "UPDATE runs SET state = 'failed', finished_at = now(), worker = NULL, lease_until = NULL"
        )
    await measure_runs(store)
    assert queue("queued", Lane.SCHEDULED) == queue("running", Lane.BACKFILL) == (0, 0)


async def test_a_run_that_is_tried_again_waits_since_the_end_of_its_backoff(store: Store, database: Database) -> None:
    claim = await claimed(store, requested(backoff=timedelta(hours=2)))
    await store.fail_attempt(claim, LATER)
    key = (RunState.QUEUED, Lane.MANUAL)

    assert (await store.open_runs())[key] == OpenRuns(1, timedelta(0))
    await made_older(database, timedelta(hours=1))
    assert (await store.open_runs())[key] == OpenRuns(1, timedelta(0))
    await made_older(database, timedelta(hours=3))
    assert (await store.open_runs())[key].oldest // timedelta(hours=1) == 2


async def test_the_queue_is_counted_from_its_indexes(store: Store, database: Database) -> None:
    statements: list[Any] = []
    note = statements.append
    async with database.session() as connection:
        connection.add_query_logger(note)
    # The pool hands out the connection that was returned last.
    await store.open_runs()
    async with database.session() as connection:
        connection.remove_query_logger(note)
        [counting] = [logged for logged in statements if "greatest(queued_at" in logged.query]
        async with connection.transaction():
            # Of a table as small as this one the planner would rather read all, depending on what it knows of it.
            await connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
            plan = await explained(connection, counting)
    assert "using runs_queued" in plan, plan
    assert "using runs_running" in plan, plan


async def test_files_are_measured_until_their_bytes_are_gone(store: Store, database: Database) -> None:
    await measure_files(store)
    assert measured("cdds_artifacts", state="available") == measured("cdds_artifact_bytes", state="available") == 0

    for _ in range(2):
        claim = await claimed(store, requested())
        await store.succeed(claim, outcome(claim), seal)  # parts of 100 and 200 bytes
    await measure_files(store)
    assert (measured("cdds_artifacts", state="available"), measured("cdds_artifact_bytes", state="available")) == (
        4,
        600,
    )

    async with database.transaction() as connection:
        await connection.execute("UPDATE artifacts SET expires_at = now() WHERE number = 2")
    doomed = await store.take_deletions(10, LEASE)
    await measure_files(store)
    assert (measured("cdds_artifacts", state="deleting"), measured("cdds_artifact_bytes", state="deleting")) == (2, 400)
    assert measured("cdds_artifact_bytes", state="available") == 200

    await store.finish_deletions([each.artifact_id for each in doomed])
    await measure_files(store)
    assert measured("cdds_artifacts", state="deleting") == measured("cdds_artifact_bytes", state="deleting") == 0


async def test_an_attempt_whose_worker_was_lost_counts_as_failed_whether_it_is_tried_again_or_not(
    store: Store, database: Database
) -> None:
    moved = Moved()
    for attempts in (2, 1):
        claim = await claimed(store, requested(attempts=attempts))
        await expire_lease(database, claim.run_id)
        again = await store.claim_run("second", LEASE)
        assert (again is None) == (attempts == 1)
    assert moved["cdds_attempt_failures_total", "worker_lost"] == 2
