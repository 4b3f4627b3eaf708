import asyncio
from datetime import timedelta
from functools import partial
from random import Random

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.history.store import Store
from shared.database import Database, outlast
from shared.events import Event
from tests.history.events import (
    TABLES,
    Run,
    beside,
    cut,
    delivered,
    empty,
    everything,
    execution,
    finished_run,
    project,
    streams,
)


async def test_a_batch_that_comes_twice_changes_nothing(store: Store, database: Database) -> None:
    _, events = finished_run()
    await project(store, events)
    once = await everything(database)

    await project(store, events)
    await project(store, [*events, *events])

    assert await everything(database) == once
    assert len(once["events"]) == len(events) - 1  # ticks are not kept
    assert len(once["artifacts"]) == 2


async def test_an_event_twice_in_one_batch_is_one_event(store: Store, database: Database) -> None:
    run = Run()
    queued = run.queued()

    await project(store, [queued, queued])

    assert len((await everything(database))["events"]) == 1


async def test_replicas_that_get_the_same_batch_together_project_it_once(store: Store, database: Database) -> None:
    _, events = finished_run()
    await project(store, events)
    once = await everything(database)
    await empty(database)

    await asyncio.gather(*(project(store, events) for _ in range(4)))

    assert await everything(database) == once


async def test_what_the_exporter_says_may_come_before_the_request(store: Store, database: Database) -> None:
    _, events = finished_run()
    await project(store, events)
    in_order = await everything(database, progress=False)
    await empty(database)

    request, *rest = events
    for event in [*rest, request]:
        await project(store, [event])

    assert await everything(database, progress=False) == in_order


async def test_an_execution_tells_the_whole_story(store: Store, database: Database) -> None:
    run = Run()
    request, queued = run.requested(), run.queued()
    first, failed, second = run.started(), run.attempt_failed(), run.started()
    *_, end = run.succeeded(parts=3)

    await project(store, [request, queued, first, failed, second, end])

    row = await execution(database, run.run_id)
    assert (row["title"], row["source"], row["type"], row["trigger"]) == (
        "Interactions",
        "ucs",
        "interaction",
        "manual",
    )
    assert (row["state"], row["version"], row["attempt"], row["worker"]) == ("succeeded", 5, 2, "w2")
    assert (row["requested_at"], row["started_at"], row["finished_at"]) == (
        request.occurred_at,
        first.occurred_at,
        end.occurred_at,
    )
    assert (row["rows"], row["bytes"], row["parts"], row["manifest_sha256"]) == (10, 100, 3, "ab" * 32)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
async def test_any_delivery_gives_the_same_rows(store: Store, database: Database, seed: int) -> None:
    """Interleaved, repeated, cut into any batches; in the order of each key, as from Kafka, and, as in a rebuild
    beside the living, in none."""
    random = Random(seed)
    found = streams(random)
    await empty(database)
    await project(store, [event for stream in found for event in stream])
    in_order = await everything(database)

    await empty(database)
    for batch in delivered(found, random):
        await project(store, batch)
    assert await everything(database) == in_order

    shuffled = [event for batch in delivered(found, random) for event in batch]
    random.shuffle(shuffled)
    await empty(database)
    for batch in cut(shuffled, random):
        await project(store, batch)
    async with database.transaction() as connection:
        await store.recount(connection)  # as a rebuild does: durations need the starts
    assert await everything(database) == in_order


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
async def test_replicas_that_share_the_topics_give_the_same_rows(store: Store, database: Database, seed: int) -> None:
    random = Random(seed)
    found = streams(random)
    await empty(database)
    await project(store, [event for stream in found for event in stream])
    in_order = await everything(database, progress=False)

    async def replica(batches: list[list[Event]]) -> None:
        for batch in batches:
            await outlast(partial(project, store, batch), timedelta(seconds=10))

    await empty(database)
    await asyncio.gather(*(replica(delivered(found, random)) for _ in range(3)))

    assert await everything(database, progress=False) == in_order


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
async def test_a_finished_run_stays_as_it_is(store: Store, database: Database, end: str) -> None:
    run = Run()
    events = [run.requested(), run.queued(), run.started()]
    late = [run.started(), run.attempt_failed(), run.failed(), run.cancelled(), *run.succeeded()]
    run.version = 2
    ended = run.succeeded() if end == "succeeded" else [getattr(run, end)()]
    await project(store, [*events, *ended])
    before = await execution(database, run.run_id)

    await project(store, late)

    after = await execution(database, run.run_id)
    assert (after["state"], after["finished_at"]) == (end, before["finished_at"])


async def test_the_greatest_tick_is_shown_whenever_it_comes(store: Store, database: Database) -> None:
    run = Run()
    await project(store, [run.queued(), run.started()])
    for attempt, sequence in ((1, 1), (1, 3), (1, 2), (2, 1), (1, 9)):
        await project(store, [run.progressed(attempt=attempt, sequence=sequence)])

    (row,) = (await everything(database))["progress"]
    assert (row["attempt"], row["sequence"]) == (2, 1)
    assert (await execution(database, run.run_id))["state"] == "running"


async def test_a_tick_may_be_the_first_that_is_heard_of_a_run(store: Store, database: Database) -> None:
    run = Run()
    tick = run.progressed(attempt=1, sequence=1)

    await project(store, [tick])

    (row,) = (await everything(database))["progress"]
    assert (row["run_id"], row["rows"]) == (run.run_id, 1)


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
async def test_a_tick_never_touches_a_finished_run(store: Store, database: Database, end: str) -> None:
    run = Run()
    ended = run.succeeded() if end == "succeeded" else [getattr(run, end)()]
    await project(store, ended)
    before = await everything(database)

    await project(store, [run.progressed(attempt=9, sequence=9)])

    assert await everything(database) == before


async def test_a_deletion_may_be_heard_of_before_its_file(store: Store, database: Database) -> None:
    run = Run()
    *stored, end = run.succeeded()

    await project(store, [run.deleted(1)])
    await project(store, [run.requested(), *stored, end])

    by_number = {row["number"]: row["deleted_at"] for row in (await everything(database))["artifacts"]}
    assert by_number[1] is not None
    assert by_number[2] is None


async def test_a_batch_that_fails_leaves_nothing(store: Store, database: Database) -> None:
    run = Run()
    request = run.requested()
    too_large = run.started().model_copy(update={"version": 2**31})

    with pytest.raises(asyncpg.DataError):
        await project(store, [request, too_large])

    assert not any((await everything(database)).values())


async def test_a_tenant_sees_its_own_rows_only_even_without_a_filter(store: Store, database: Database) -> None:
    for tenant in ("t1", "t2"):
        run, events = finished_run(tenant=tenant)
        await project(store, [*events, run.deleted(1), *beside(tenant), Run(tenant).progressed()])

    for table in TABLES:
        for tenant, seen in (("t1", {"t1"}), ("t2", {"t2"}), ("t3", set()), ("", set())):
            async with database.tenant(tenant) as connection:
                assert {row["tenant"] for row in await connection.fetch(f"SELECT tenant FROM {table}")} == seen


async def test_a_tenants_edge_can_not_write(database: Database) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with database.tenant("t1") as connection:
            await connection.execute("UPDATE executions SET title = 'x'")
