import asyncio
from random import Random

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.history.store import Store
from shared.database import Database
from tests.history.events import Run, delivered, empty, everything, execution, finished_run, streams


async def test_a_batch_that_comes_twice_changes_nothing(store: Store, database: Database) -> None:
    _, events = finished_run()
    await store.project(events)
    once = await everything(database)

    await store.project(events)
    await store.project([*events, *events])

    assert await everything(database) == once
    assert len(once["events"]) == len(events) - 1  # ticks are not kept
    assert len(once["artifacts"]) == 2


async def test_an_event_twice_in_one_batch_is_one_event(store: Store, database: Database) -> None:
    run = Run()
    queued = run.queued()

    await store.project([queued, queued])

    assert len((await everything(database))["events"]) == 1


async def test_replicas_that_get_the_same_batch_together_project_it_once(store: Store, database: Database) -> None:
    _, events = finished_run()
    await store.project(events)
    once = await everything(database)
    await empty(database)

    await asyncio.gather(*(Store(database).project(events) for _ in range(4)))

    assert await everything(database) == once


async def test_what_the_exporter_says_may_come_before_the_request(store: Store, database: Database) -> None:
    _, events = finished_run()
    await store.project(events)
    in_order = await everything(database, progress=False)
    await empty(database)

    request, *rest = events
    for event in [*rest, request]:
        await store.project([event])

    assert await everything(database, progress=False) == in_order


async def test_an_execution_tells_the_whole_story(store: Store, database: Database) -> None:
    run = Run()
    request, queued = run.requested(), run.queued()
    first, failed, second = run.started(), run.attempt_failed(), run.started()
    *_, end = run.succeeded(parts=3)

    await store.project([request, queued, first, failed, second, end])

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


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
async def test_any_delivery_that_keeps_the_order_of_each_key_gives_the_same_rows(
    store: Store, database: Database, seed: int
) -> None:
    random = Random(seed)
    found = streams(random)
    await empty(database)
    await store.project([event for stream in found for event in stream])
    in_order = await everything(database, progress=False)

    await empty(database)
    for batch in delivered(found, random):
        await store.project(batch)

    assert await everything(database, progress=False) == in_order


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
async def test_a_finished_run_stays_as_it_is(store: Store, database: Database, end: str) -> None:
    run = Run()
    events = [run.requested(), run.queued(), run.started()]
    late = [run.started(), run.attempt_failed(), run.failed(), run.cancelled(), *run.succeeded()]
    run.version = 2
    ended = run.succeeded() if end == "succeeded" else [getattr(run, end)()]
    await store.project([*events, *ended])
    before = await execution(database, run.run_id)

    await store.project(late)

    after = await execution(database, run.run_id)
    assert (after["state"], after["finished_at"]) == (end, before["finished_at"])


async def test_the_greatest_tick_is_shown_whenever_it_comes(store: Store, database: Database) -> None:
    run = Run()
    await store.project([run.queued(), run.started()])
    for attempt, sequence in ((1, 1), (1, 3), (1, 2), (2, 1), (1, 9)):
        await store.project([run.progressed(attempt=attempt, sequence=sequence)])

    row = await execution(database, run.run_id)
    assert (row["progress"]["attempt"], row["progress"]["sequence"]) == (2, 1)
    assert row["state"] == "running"


async def test_a_tick_may_be_the_first_that_is_heard_of_a_run(store: Store, database: Database) -> None:
    run = Run()
    tick = run.progressed(attempt=1, sequence=1)

    await store.project([tick])

    row = await execution(database, run.run_id)
    assert (row["state"], row["progress"]["rows"]) == ("requested", 1)


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
async def test_a_tick_never_touches_a_finished_run(store: Store, database: Database, end: str) -> None:
    run = Run()
    ended = run.succeeded() if end == "succeeded" else [getattr(run, end)()]
    await store.project(ended)
    before = await everything(database)

    await store.project([run.progressed(attempt=9, sequence=9)])

    assert await everything(database) == before


async def test_a_deletion_may_be_heard_of_before_its_file(store: Store, database: Database) -> None:
    run = Run()
    *stored, end = run.succeeded()

    await store.project([run.deleted(1)])
    await store.project([run.requested(), *stored, end])

    by_number = {row["number"]: row["deleted_at"] for row in await store.list_artifacts("t1", 10, None, run.run_id)}
    assert by_number[1] is not None
    assert by_number[2] is None


async def test_a_batch_that_fails_leaves_nothing(store: Store, database: Database) -> None:
    run = Run()
    request = run.requested()
    too_large = run.started().model_copy(update={"version": 2**31})

    with pytest.raises(asyncpg.DataError):
        await store.project([request, too_large])

    assert not any((await everything(database)).values())


async def test_a_tenant_sees_its_own_rows_only_even_without_a_filter(store: Store, database: Database) -> None:
    for tenant in ("t1", "t2"):
        run, events = finished_run(tenant=tenant)
        await store.project([*events, run.deleted(1)])

    for table in ("events", "executions", "artifacts", "artifact_deletions"):
        for tenant, seen in (("t1", {"t1"}), ("t2", {"t2"}), ("t3", set()), ("", set())):
            async with database.tenant(tenant) as connection:
                assert {row["tenant"] for row in await connection.fetch(f"SELECT tenant FROM {table}")} == seen


async def test_a_tenants_edge_can_not_write(database: Database) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with database.tenant("t1") as connection:
            await connection.execute("UPDATE executions SET title = 'x'")
