"""Cancelling: every moment an order can come in, and everything that can happen beside it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from services.exporter import consumers
from services.exporter.domain import Claim, Failure
from services.exporter.store import CancelOrdered, Fenced, Store
from shared.database import Database
from shared.events import Event, RunRequested, RunState
from tests.exporter.runs import (
    LEASE,
    TERMINAL,
    cancel_order,
    claimed,
    everything,
    expire_lease,
    names,
    outcome,
    published,
    requested,
    run_row,
    seal,
)

REPEATABLE = Failure("export_failed", "The source went away.", repeatable=True)
HOPELESS = Failure("source_refused", "There is no such table.", repeatable=False)


async def test_a_queued_run_is_cancelled_at_once_in_the_name_of_who_ordered_it(
    store: Store, database: Database
) -> None:
    request = requested()
    await store.queue_run(request)

    await store.order_cancel(cancel_order(request, actor="mary"))

    run = await run_row(database, request.run_id)
    assert (run["state"], run["version"], run["cancel_ordered_by"]) == ("cancelled", 2, "mary")
    assert run["finished_at"] is not None
    _, event = await published(database)
    assert (type(event).__name__, event.actor, event.version, event.attempt) == ("RunCancelled", "mary", 2, 0)
    assert await store.claim_run("w1", LEASE) is None


async def test_a_run_that_waits_for_its_next_attempt_is_cancelled_at_once(store: Store, database: Database) -> None:
    claim = await claimed(store, requested(backoff=timedelta(minutes=5)))
    await store.fail_attempt(claim, REPEATABLE)

    await store.order_cancel(cancel_order(claim.request))

    *_, event = await published(database)
    assert (type(event).__name__, event.attempt, event.version) == ("RunCancelled", 1, 4)


async def test_a_running_run_is_only_marked_and_its_worker_ends_it(store: Store, database: Database) -> None:
    claim = await claimed(store, requested())
    assert not await store.cancel_ordered(claim)
    before = await published(database)

    await store.order_cancel(cancel_order(claim.request, actor="mary"))

    assert await store.cancel_ordered(claim)
    assert await published(database) == before
    run = await run_row(database, claim.run_id)
    assert (run["state"], run["version"]) == ("running", 2)
    await store.beat(claim, LEASE)
    await store.cancel(claim)
    *_, event = await published(database)
    assert (type(event).__name__, event.actor, event.version, event.attempt) == ("RunCancelled", "mary", 3, 1)
    assert not await store.cancel_ordered(claim)


async def test_nobody_cancels_a_run_without_an_order(store: Store, database: Database) -> None:
    claim = await claimed(store, requested())
    before = await everything(database)

    with pytest.raises(Fenced):
        await store.cancel(claim)

    assert await everything(database) == before


async def test_an_order_that_comes_before_its_run_ends_it_as_soon_as_it_comes(store: Store, database: Database) -> None:
    request, other = requested(), requested()
    for _ in range(2):
        await store.order_cancel(cancel_order(request, actor="mary"))
    assert await published(database) == []

    assert await store.queue_run(request)
    assert await store.queue_run(other)
    assert not await store.queue_run(request)

    events = await published(database, request.run_id)
    assert names(events) == ["RunQueued", "RunCancelled"]
    assert [event.version for event in events] == [1, 2]
    assert events[1].actor == "mary"
    claim = await store.claim_run("w1", LEASE)
    assert claim is not None
    assert claim.request == other


async def test_an_order_and_its_run_that_come_together_never_miss_each_other(store: Store, database: Database) -> None:
    requests = [requested() for _ in range(40)]

    both = [(store.queue_run(request), store.order_cancel(cancel_order(request))) for request in requests]
    await asyncio.gather(*(step for pair in both for step in pair))

    for request in requests:
        assert names(await published(database, request.run_id)) == ["RunQueued", "RunCancelled"]
    assert await store.claim_run("w1", LEASE) is None


async def _stays_queued(store: Store, request: RunRequested) -> None:
    await store.queue_run(request)


async def _runs(store: Store, request: RunRequested) -> None:
    await claimed(store, request)


async def _is_unknown(store: Store, request: RunRequested) -> None:
    pass


@pytest.mark.parametrize("becomes", [_stays_queued, _runs, _is_unknown])
async def test_a_redelivered_or_repeated_order_changes_nothing(
    store: Store, database: Database, becomes: Callable[[Store, RunRequested], Awaitable[None]]
) -> None:
    request = requested()
    await becomes(store, request)
    order = cancel_order(request, actor="mary")
    await store.order_cancel(order)
    before = await everything(database)

    await asyncio.gather(*(store.order_cancel(order) for _ in range(5)))
    await store.order_cancel(cancel_order(request, actor="paul"))

    assert await everything(database) == before


async def test_a_failed_attempt_of_a_run_that_shall_end_is_not_repeated(store: Store, database: Database) -> None:
    claim = await claimed(store, requested(attempts=3))
    await store.order_cancel(cancel_order(claim.request))

    assert await store.fail_attempt(claim, REPEATABLE) is RunState.CANCELLED

    assert names(await published(database))[2:] == ["RunCancelled"]
    assert await store.claim_run("w1", LEASE) is None


async def test_a_run_that_fails_for_good_says_so_whatever_was_ordered(store: Store, database: Database) -> None:
    claim = await claimed(store, requested(attempts=3))
    await store.order_cancel(cancel_order(claim.request))

    assert await store.fail_attempt(claim, HOPELESS) is RunState.FAILED

    assert names(await published(database))[2:] == ["RunFailed"]


async def test_a_stopping_worker_does_not_hand_over_a_run_that_shall_end(store: Store, database: Database) -> None:
    claim = await claimed(store, requested())
    await store.order_cancel(cancel_order(claim.request))

    await store.hand_over(claim)

    assert names(await published(database))[2:] == ["RunCancelled"]


@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_run_that_shall_end_and_has_lost_its_worker_is_cancelled_once_instead_of_tried_again(
    store: Store, database: Database, attempts: int
) -> None:
    lost = await claimed(store, requested(attempts=attempts))
    await store.order_cancel(cancel_order(lost.request, actor="mary"))
    assert await store.claim_run("second", LEASE) is None  # the worker may still be alive
    other = requested()
    await store.queue_run(other)
    await expire_lease(database, lost.run_id)
    abandoned: list[Claim] = []

    claims = await asyncio.gather(*(store.claim_run(f"w{n}", LEASE, abandoned) for n in range(4)))

    assert [claim.request for claim in claims if claim] == [other]
    assert abandoned == [lost]
    events = await published(database, lost.run_id)
    assert names(events) == ["RunQueued", "RunStarted", "RunCancelled"]
    assert (events[-1].actor, events[-1].attempt) == ("mary", 1)
    with pytest.raises(Fenced):
        await store.succeed(lost, outcome(lost), seal)


async def test_of_success_and_an_order_the_one_that_commits_first_wins(store: Store, database: Database) -> None:
    early, late = await claimed(store, requested()), await claimed(store, requested())
    await store.order_cancel(cancel_order(early.request))
    with pytest.raises(CancelOrdered):
        await store.succeed(early, outcome(early), seal)
    await store.cancel(early)

    await store.succeed(late, outcome(late), seal)
    await store.order_cancel(cancel_order(late.request))
    with pytest.raises(Fenced):
        await store.cancel(late)
    ends = [name for name in names(await published(database)) if name in TERMINAL]
    assert ends == ["RunCancelled", "RunSucceeded"]


async def test_cancel_and_success_and_failure_at_the_same_time_have_one_winner(
    store: Store, database: Database
) -> None:
    async def finish(ending: Awaitable[object]) -> None:
        try:
            await ending
        except (Fenced, CancelOrdered):
            return

    async def cancel(claim: Claim) -> None:
        await store.order_cancel(cancel_order(claim.request))
        await store.cancel(claim)

    for round_ in range(30):
        claim = await claimed(store, requested())
        racers = [
            finish(cancel(claim)),
            finish(store.succeed(claim, outcome(claim), seal)),
            finish(store.fail_attempt(claim, REPEATABLE)),
        ]
        await asyncio.gather(*racers[round_ % 3 :], *racers[: round_ % 3])

        (ended,) = [event for event in await published(database, claim.run_id) if type(event).__name__ in TERMINAL]
        run = await run_row(database, claim.run_id)
        assert type(ended).__name__ == f"Run{run['state'].title()}"
        assert run["version"] == ended.version
        async with database.transaction() as connection:
            files = await connection.fetchval("SELECT count(*) FROM artifacts WHERE run_id = $1", claim.run_id)
        assert files == (2 if run["state"] == "succeeded" else 0)


async def test_an_order_that_meets_a_claim_is_never_lost(store: Store, database: Database) -> None:
    for round_ in range(30):
        request = requested()
        await store.queue_run(request)
        steps = [store.order_cancel(cancel_order(request)), store.claim_run("w1", LEASE)]
        await asyncio.gather(*(steps if round_ % 2 else reversed(steps)))

        run = await run_row(database, request.run_id)
        if run["state"] == "running":
            assert run["cancel_ordered_by"] == "operator"
            claim = Claim(request, run["attempt"], run["attempts_allowed"])
            await store.cancel(claim)
        assert (await run_row(database, request.run_id))["state"] == "cancelled"


class Handlers:
    """Takes the inbox's place: keeps the handlers, and calls the one for an event."""

    def __init__(self) -> None:
        self.by_type: dict[type[Event], Callable[[Any], Awaitable[None]]] = {}

    def on(self, *types: type[Event]) -> Callable[[Any], Any]:
        def keep(handle: Any) -> Any:
            self.by_type.update(dict.fromkeys(types, handle))
            return handle

        return keep


async def test_requests_and_orders_are_followed_as_they_come_from_the_scheduler(
    store: Store, database: Database
) -> None:
    inbox: Any = Handlers()
    consumers.register(inbox, store)
    request = requested()

    for event in (request, cancel_order(request), request, cancel_order(request)):
        await inbox.by_type[type(event)](event)

    assert names(await published(database)) == ["RunQueued", "RunCancelled"]
