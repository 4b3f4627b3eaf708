"""The scheduler's clock: it sleeps until something is due, and is awake in time; an hour of it takes no time here."""

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, cast

import pytest

from services.scheduler.loops import CLAIMED_ELSEWHERE, LOOK_AGAIN, request_due_runs
from services.scheduler.store import Store
from shared.database import Database
from tests.scheduler.jobs import UNTIL_NOW, created, hours_ago
from tests.scheduler.world import published, words

PATIENCE = timedelta(seconds=60)


class LeapingSelector(selectors.SelectSelector):
    """Where a loop would wait, it lets time leap instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0
        return super().select(0)


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock is moved by waiting for it."""

    def __init__(self) -> None:
        self._leaping = LeapingSelector()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.now


class Schedules:
    """When schedules are due, in seconds; those `claimed` are held by another replica."""

    def __init__(self, *due: float, claimed: tuple[float, ...] = ()) -> None:
        self.changed = asyncio.Event()
        self.due, self.claimed = list(due), list(claimed)
        self.looks: list[float] = []
        self.requested: list[float] = []

    async def request_due_runs(self) -> int:
        now = asyncio.get_running_loop().time()
        self.looks.append(now)
        due = [at for at in self.due if at <= now]
        self.due = [at for at in self.due if at > now]
        self.requested += [now for _ in due]
        return len(due)

    async def next_due_in(self) -> timedelta | None:
        known = [*self.due, *self.claimed]
        return timedelta(seconds=min(known) - asyncio.get_running_loop().time()) if known else None


def live(schedules: Schedules, until: float, *events: Coroutine[Any, Any, None]) -> Schedules:
    """Run the loop for `until` seconds beside `events`."""

    async def life() -> None:
        tasks = [asyncio.create_task(event) for event in events]
        looking = asyncio.create_task(request_due_runs(cast(Store, schedules), PATIENCE))
        await asyncio.wait([looking], timeout=until)
        looking.cancel()
        await asyncio.gather(looking, *tasks, return_exceptions=True)

    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        runner.run(life())
    return schedules


def test_nothing_due_costs_one_look_every_five_seconds() -> None:
    assert timedelta(seconds=5) == LOOK_AGAIN
    assert live(Schedules(), until=3601).looks == [5.0 * n for n in range(721)]


def test_what_is_due_is_requested_when_it_is_due_and_not_looked_for_before() -> None:
    schedules = live(Schedules(1.25, 3.5, 3.5, 9), until=12)
    assert schedules.requested == [1.25, 3.5, 3.5, 9]
    # Each time one look more, which finds nothing left.
    assert schedules.looks == [0, 1.25, 1.25, 3.5, 3.5, 8.5, 9, 9]


def test_what_is_due_far_ahead_is_looked_for_every_five_seconds() -> None:
    schedules = live(Schedules(61), until=62)
    assert schedules.looks == [*(5.0 * n for n in range(13)), 61, 61]


def test_what_was_due_long_ago_is_requested_at_once() -> None:
    assert live(Schedules(-3600, -1), until=1).looks == [0, 0]


def test_a_change_wakes_the_sleeper_at_once() -> None:
    schedules = Schedules(4)

    async def change() -> None:
        await asyncio.sleep(1)
        schedules.due.append(1)
        schedules.changed.set()

    assert live(schedules, 4.5, change()).requested == [1, 4]


def test_a_change_during_a_look_is_not_slept_over() -> None:
    class Changing(Schedules):
        async def next_due_in(self) -> timedelta | None:
            left = await super().next_due_in()
            if len(self.looks) == 1:
                # Another task commits a schedule between our look and our sleep.
                self.due.append(0)
                self.changed.set()
            return left

    assert live(Changing(3), 1).requested == [0]


def test_what_another_replica_wrote_is_found_after_five_seconds_at_the_latest() -> None:
    schedules = Schedules()

    async def write() -> None:
        await asyncio.sleep(1)
        schedules.due.append(1.5)

    assert live(schedules, 6, write()).requested == [5]


def test_what_another_replica_holds_is_not_asked_for_without_a_pause() -> None:
    schedules = live(Schedules(claimed=(0,)), until=30)
    assert len(schedules.looks) <= 30 / CLAIMED_ELSEWHERE.total_seconds() + 1
    assert max(b - a for a, b in zip(schedules.looks, schedules.looks[1:], strict=False)) < 0.1


def test_an_outage_is_waited_out_and_any_other_fault_ends_the_loop() -> None:
    class Failing(Schedules):
        async def request_due_runs(self) -> int:
            await super().request_due_runs()
            raise ConnectionRefusedError if len(self.looks) < 4 else ZeroDivisionError

    schedules = Failing()
    assert live(schedules, 100).looks == pytest.approx([0, 0.1, 0.3, 0.7])


async def test_a_new_job_is_followed_at_once(database: Database, store: Store) -> None:
    looking = asyncio.create_task(request_due_runs(store, PATIENCE))
    try:
        async with asyncio.timeout(LOOK_AGAIN.total_seconds() - 1):
            await store.keep_schedule(created(hours_ago(1), **UNTIL_NOW))
            while len(events := await published(database)) < 3:
                await database.committed.wait()
                database.committed.clear()
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    assert [words(event).split()[0] for event in events] == ["next", "run", "next"]
