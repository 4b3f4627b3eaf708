"""Who runs next: lanes, fairness between tenants, and limits of sources, on the real store."""

import asyncio
import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import count
from random import Random
from typing import Any
from uuid import UUID

import pytest

from services.exporter.domain import Claim, Failure, Lane, lanes_for
from services.exporter.store import Store
from shared.database import Database
from shared.events import RunRequested, Trigger
from tests.exporter.runs import LEASE, claimed, expire_lease, published, requested, run_row

DONE = Failure("source_refused", "There is no such table.", repeatable=False)
"""The cheapest way to end a run."""
TRIGGERS = {Lane.MANUAL: Trigger.RETRY, Lane.SCHEDULED: Trigger.SCHEDULE, Lane.BACKFILL: Trigger.BACKFILL}


def asked(lane: Lane = Lane.MANUAL, tenant: str = "t1", source: str = "ucs", **changes: Any) -> RunRequested:
    request = requested(tenant=tenant, source=source, **changes)
    return request.model_copy(update={"slot": request.slot.model_copy(update={"trigger": TRIGGERS[lane]})})


async def queue(store: Store, *requests: RunRequested) -> None:
    for request in requests:
        await store.queue_run(request)


async def next_runs(store: Store, count: int, **how: Any) -> list[UUID | None]:
    """The runs of the next claims, which all stay under way."""
    claims = [await store.claim_run("w", LEASE, **how) for _ in range(count)]
    return [claim and claim.run_id for claim in claims]


async def test_a_run_is_taken_from_the_first_lane_that_has_one(store: Store) -> None:
    manual, scheduled, backfill = requests = [asked(lane) for lane in Lane]
    await queue(store, *requests)

    order = (Lane.SCHEDULED, Lane.BACKFILL)

    assert await next_runs(store, 3, lanes=order) == [scheduled.run_id, backfill.run_id, None]
    assert await next_runs(store, 1) == [manual.run_id]


async def test_within_a_lane_the_tenant_with_the_fewest_runs_under_way_is_next(store: Store) -> None:
    flood = [asked(tenant="t1") for _ in range(4)]
    others = [asked(tenant="t2"), asked(tenant="t2"), asked(Lane.BACKFILL, tenant="t3"), asked(tenant="t3")]
    await queue(store, *flood, *others)

    taken = await next_runs(store, 6, lanes=[Lane.MANUAL])

    expected = [flood[0], others[0], others[3], flood[1], others[1], flood[2]]
    assert taken == [request.run_id for request in expected]


async def test_tenants_take_turns_also_where_only_one_run_is_under_way_at_a_time(store: Store) -> None:
    await queue(store, *(asked(tenant="flood") for _ in range(6)), asked(tenant="a"), asked(tenant="b"))
    taken: list[str] = []

    while claim := await store.claim_run("w", LEASE):
        taken.append(claim.request.tenant)
        await store.fail_attempt(claim, DONE)

    assert taken == ["flood", "a", "b"] + ["flood"] * 5


async def test_runs_of_a_source_at_its_limit_are_passed_over_until_one_has_ended(store: Store) -> None:
    slow = [asked(source="slow") for _ in range(3)]
    other = asked()
    await queue(store, *slow, other)
    first = await store.claim_run("w", LEASE, limits={"slow": 2})
    assert first is not None

    taken = await next_runs(store, 3, limits={"slow": 2})
    await store.fail_attempt(first, DONE)

    assert taken == [slow[1].run_id, other.run_id, None]
    assert await next_runs(store, 2, limits={"slow": 2}) == [slow[2].run_id, None]


async def test_a_lost_run_is_queued_again_and_neither_fills_its_source_nor_breaks_its_limit(
    store: Store, database: Database
) -> None:
    lost = await claimed(store, asked(source="slow"))
    await expire_lease(database, lost.run_id)
    await queue(store, asked(Lane.SCHEDULED, source="slow"))

    (taken,) = await next_runs(store, 1, lanes=[Lane.SCHEDULED, Lane.MANUAL], limits={"slow": 1})

    assert taken != lost.run_id
    assert (await run_row(database, lost.run_id))["state"] == "queued"
    assert await next_runs(store, 1, limits={"slow": 1}) == [None]


async def test_a_run_that_was_handed_over_keeps_its_place(store: Store) -> None:
    old = await claimed(store, asked())
    await queue(store, asked(), asked())

    await store.hand_over(old)

    assert await next_runs(store, 1) == [old.run_id]


async def test_claimers_at_the_same_time_never_exceed_a_limit(store: Store, database: Database) -> None:
    lanes, limits = list(Lane), {"slow": 3}
    await queue(store, *(asked(lanes[n % 3], source="slow", tenant=f"t{n % 5}") for n in range(60)))

    async def work(number: int) -> None:
        """Hold a run until the next one was asked for; a lane each, so that others look at other runs."""
        held: Claim | None = None
        while True:
            claim = await store.claim_run("w", LEASE, lanes=[lanes[number % 3]], limits=limits)
            if held is not None:
                await store.fail_attempt(held, DONE)
            held = claim
            if claim is None:
                return

    while await queued(database):
        await asyncio.gather(*(work(number) for number in range(8)))

    slow, most = 0, 0
    async with database.transaction() as connection:
        ids = {row["run_id"] for row in await connection.fetch("SELECT run_id FROM runs WHERE source = 'slow'")}
    for event in await published(database):  # in the order in which they were written
        if event.run_id in ids:
            slow += {"RunStarted": 1, "RunFailed": -1}.get(type(event).__name__, 0)
            most = max(most, slow)
    assert most == limits["slow"]


async def queued(database: Database) -> int:
    async with database.transaction() as connection:
        return await connection.fetchval("SELECT count(*) FROM runs WHERE state = 'queued'")


# --- nobody starves -----------------------------------------------------------------------------------------------


@dataclass
class Process:
    """A worker process as the simulation sees it: how often it claimed, and what its slots are busy with."""

    slots: int
    claims: int = 0
    busy: list[Claim] = field(default_factory=list)

    @property
    def lanes(self) -> Sequence[Lane]:
        backfills = sum(claim.lane is Lane.BACKFILL for claim in self.busy)
        return lanes_for(self.claims, backfills=backfills, slots=self.slots)


SLOW_LIMIT = 2


@dataclass
class Start:
    """When a run was asked for and started, in virtual seconds, and how many others were started meanwhile."""

    request: RunRequested
    waited: int
    waited_for_source: int


async def simulate(store: Store, seed: int, flood: int) -> list[Start]:
    """All starts of a virtual day on which one tenant asks for `flood` runs at once and two others for a few."""
    chance = Random(seed)
    processes = [Process(slots) for slots in (1, 2, 3)]
    lanes = list(Lane)
    arrivals = [(0.0, asked(chance.choice(lanes), "flood", chance.choice(["ucs", "slow"]))) for _ in range(flood)]
    for tenant in ("calm", "quiet"):
        for lane in lanes:
            for source in ("ucs", "slow"):
                arrivals += [(chance.uniform(0, 20 * flood), asked(lane, tenant, source)) for _ in range(3)]
    arrivals.sort(key=lambda arrival: arrival[0])
    number = count()
    events = [(at, next(number), request) for at, request in arrivals]
    starts: list[Start] = []
    asked_at: dict[UUID, tuple[int, int]] = {}
    slow_starts = 0
    while events:
        now, _, event = heapq.heappop(events)
        if isinstance(event, RunRequested):
            await store.queue_run(event)
            asked_at[event.run_id] = (len(starts), slow_starts)
        else:
            process, claim = event
            process.busy.remove(claim)
            await store.fail_attempt(claim, DONE)
        if events and events[0][0] == now:
            continue
        # Slots that are free look in any order.
        looking = [process for process in processes for _ in range(process.slots - len(process.busy))]
        chance.shuffle(looking)
        for process in looking:
            claim = await store.claim_run("w", LEASE, lanes=process.lanes, limits={"slow": SLOW_LIMIT})
            if claim is None:
                continue
            process.claims += 1
            process.busy.append(claim)
            before, slow_before = asked_at[claim.run_id]
            starts.append(Start(claim.request, len(starts) - before, slow_starts - slow_before))
            slow_starts += claim.request.question.source == "slow"
            heapq.heappush(events, (now + chance.uniform(1, 300), next(number), (process, claim)))
            under_way = [claim for process in processes for claim in process.busy]
            assert sum(claim.request.question.source == "slow" for claim in under_way) <= SLOW_LIMIT
            for process in processes:
                backfills = sum(claim.lane is Lane.BACKFILL for claim in process.busy)
                assert process.slots == 1 or backfills < process.slots
    return starts


@pytest.mark.parametrize(("seed", "flood"), [(1, 500), (5, 150), (7, 150)])
async def test_a_flood_delays_nobody_elses_run_for_long(store: Store, seed: int, flood: int) -> None:
    starts = await simulate(store, seed, flood)

    assert Counter(start.request.tenant for start in starts) == {"flood": flood, "calm": 18, "quiet": 18}
    others = [start for start in starts if start.request.tenant != "flood"]
    free = [start.waited for start in others if start.request.question.source == "ucs"]
    limited = [start.waited_for_source for start in others if start.request.question.source == "slow"]
    # Three processes come round to a lane within five claims each, and to a tenant within three turns of the lane.
    assert max(free) <= 3 * 5 * 3
    # Three lanes take turns at the source, in each three tenants, of whose own runs at most two others are before.
    assert max(limited) <= 3 * 3 * 3


# --- runs that were there before ----------------------------------------------------------------------------------


@pytest.mark.parametrize("trigger", list(Trigger))
async def test_runs_from_before_get_the_lane_and_source_that_new_ones_get(database: Database, trigger: Trigger) -> None:
    request = requested(source="old")
    request = request.model_copy(update={"slot": request.slot.model_copy(update={"trigger": trigger})})
    migration = resources.files("services.exporter.migrations").joinpath("0003_lanes.sql").read_text()
    async with database.session() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute("SET LOCAL ROLE NONE")  # the login role owns the tables
            await connection.execute("DROP TABLE turns; ALTER TABLE runs DROP COLUMN lane, DROP COLUMN source")
            await connection.execute("CREATE INDEX runs_open ON runs (queued_at) WHERE state IN ('queued', 'running')")
            await connection.execute(
                """INSERT INTO runs (run_id, job_id, tenant, request, state, attempts_allowed)
                   VALUES ($1, $2, $3, $4, 'queued', 1)""",
                request.run_id, request.job_id, request.tenant, request.model_dump(mode="json"),
            )  # fmt: skip

            await connection.execute(migration)

            row = await connection.fetchrow("SELECT lane, source FROM runs")
            assert row is not None
            assert (row["lane"], row["source"]) == (Lane.of(trigger), "old")
        finally:
            await transaction.rollback()
