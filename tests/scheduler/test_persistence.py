"""What was decided is what the next one loads, whatever it is."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import hypothesis
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from services.scheduler.domain import Decision, Entry, Outcome, Plan, RunState
from services.scheduler.store import reading
from services.scheduler.store.writing import save
from shared import reasons, slots
from shared.database import Connection
from shared.events import Trigger
from shared.jobs import JobSettings
from tests.scheduler.jobs import settings
from tests.scheduler.world import World, backfill, save_and_find

moments = st.datetimes(datetime(1900, 1, 1), datetime(2999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
words = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=20)
lines = words.map(str.strip).filter(lambda line: line and min(line) > "\x1f")
slugs = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
times = st.times().map(lambda time: f"{time:%H:%M}")


def durations(greatest: timedelta) -> st.SearchStrategy[str]:
    return st.integers(0, int(greatest.total_seconds())).map(lambda seconds: f"PT{seconds}S")


def shapes(*kinds: tuple[str, dict[str, st.SearchStrategy[Any]]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(*(st.fixed_dictionaries({"kind": st.just(kind), **fields}) for kind, fields in kinds))


forwards = st.lists(moments, min_size=2, max_size=2, unique=True).map(sorted)
schedules = shapes(
    ("hourly", {"every": st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24])}),
    ("daily", {"at": times}),
    ("weekly", {"days": st.lists(st.sampled_from(["mon", "wed", "sun"]), min_size=1, unique=True), "at": times}),
    ("monthly", {"day": st.one_of(st.integers(1, 31), st.just("last")), "at": times}),
    ("cron", {"expression": st.sampled_from(["*/7 * * * *", "0 0 29 2 *", "30 6 * * mon#1"])}),
)
timeframes = st.one_of(
    shapes(
        ("all", {}),
        ("last", {"count": st.integers(1, 1000), "unit": st.sampled_from(["hour", "month"]), "align": st.booleans()}),
        ("since_last_run", {"from": moments}),
    ),
    forwards.map(lambda ends: {"kind": "fixed", "from": ends[0], "to": ends[1]}),
)
written = st.fixed_dictionaries(
    {"title": lines, "source": slugs, "type": slugs, "schedule": schedules, "timeframe": timeframes},
    optional={
        "key": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
        "description": words,
        "media_types": st.lists(slugs, min_size=1, max_size=3, unique=True).map(tuple),
        "split_bytes": st.integers(64 * 1024, 1024**3),
        "format": st.sampled_from(["jsonl", "csv"]),
        "masking": st.dictionaries(lines, st.sampled_from(["hash", "redact"]), max_size=3),
        "encryption": st.sampled_from(["gcm", "smime", "none"]),
        "overlap": st.sampled_from(["skip", "buffer_one", "buffer_all", "cancel_other"]),
        "catchup": st.fixed_dictionaries(
            {"mode": st.sampled_from(["latest", "all", "none"]), "window": durations(timedelta(weeks=52))}
        ),
        "jitter": durations(timedelta(days=1)),
        "retry": st.fixed_dictionaries({"attempts": st.integers(1, 10), "backoff": durations(timedelta(days=1))}),
        "pause_after_failures": st.integers(1, 1000),
        "labels": st.dictionaries(slugs, lines, max_size=3),
    },
)


@st.composite
def entries(draw: st.DrawFn, plan: Plan) -> Entry:
    trigger = draw(st.sampled_from([trigger for trigger in Trigger if trigger is not Trigger.BACKFILL]))
    at = draw(moments)
    slot = slots.scheduled_slot(at)
    if trigger is not Trigger.SCHEDULE:
        slot = slots.commanded_slot(trigger, draw(st.uuids()), at)
    entry = Entry(
        slot, slots.run_id(plan.job_id, slot.key), draw(st.sampled_from(Outcome)), draw(st.integers(1, 10**6)),
        retry_of=draw(st.none() | st.uuids()) if trigger is Trigger.RETRY else None,
    )  # fmt: skip
    asked = slots.question(plan.settings, draw(st.none() | moments), draw(moments))
    match entry.outcome:
        case Outcome.WAITING:
            return replace(entry, question=draw(st.none() | st.just(asked)))
        case Outcome.REQUESTED:
            state, by = draw(st.sampled_from(RunState)), draw(st.none() | words)
            return replace(entry, question=asked, run_state=state, cancelled_by=by)
        case Outcome.SKIPPED | Outcome.MISSED:
            reason = draw(st.sampled_from(sorted(reasons.SLOTS)))
            return replace(entry, reason=reason, count=draw(st.integers(1, 10**4)))


@st.composite
def decisions(draw: st.DrawFn) -> Decision:
    active = draw(st.booleans())
    plan = Plan(
        draw(st.uuids()), draw(words), draw(st.integers(1, 10**6)), JobSettings.model_validate(draw(written)),
        active=active, deleted=not active and draw(st.booleans()),
        next_slot_at=draw(st.none() | moments) if active else None, failures=draw(st.integers(0, 1000)),
        exported_to=draw(st.none() | moments), stopped_at=draw(st.none() | moments),
    )  # fmt: skip
    decided = {entry.slot.key: entry for entry in draw(st.lists(entries(plan), max_size=4))}
    held = sorted((e for e in decided.values() if e.waiting or e.open), key=lambda e: (e.slot.at, e.slot.key))
    return Decision(replace(plan, held=tuple(held)), decided)


@asynccontextmanager
async def rolled_back(world: World) -> AsyncGenerator[Connection]:
    """A transaction that leaves nothing behind for the next example."""
    async with world.database.session() as connection:
        attempt = connection.transaction()
        await attempt.start()
        try:
            yield connection
        finally:
            await attempt.rollback()


@hypothesis.settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(decided=st.lists(decisions(), min_size=1, max_size=4, unique_by=lambda decision: decision.plan.job_id))
async def test_any_decisions_that_were_written_together_are_found_as_they_were(
    world: World, decided: list[Decision]
) -> None:
    async with rolled_back(world) as connection:
        for _ in range(2):  # a second writing changes nothing
            await save_and_find(connection, decided)


async def test_what_is_final_in_the_ledger_stays_whatever_is_written(world: World) -> None:
    plan = Plan(UUID(int=1), "acme", 1, settings())
    at = datetime(2026, 5, 4, 12, tzinfo=UTC)
    slot = slots.scheduled_slot(at)
    new = Entry(slot, slots.run_id(plan.job_id, slot.key), Outcome.WAITING, 1)
    asked = replace(
        new, outcome=Outcome.REQUESTED, question=slots.question(plan.settings, None, at), run_state=RunState.OPEN
    )
    finals = [
        *(replace(asked, run_state=state) for state in RunState if state is not RunState.OPEN),
        replace(new, outcome=Outcome.SKIPPED, reason="overlap"),
        replace(new, outcome=Outcome.MISSED, reason="coalesced"),
    ]
    for final in finals:
        for other in (new, asked, *finals):
            async with rolled_back(world) as connection:
                for entry in (new, final, other):
                    await save(connection, [Decision(plan, {slot.key: entry})])
                assert await reading.entry_of(connection, plan.job_id, new.run_id) == final


async def test_a_backfills_slots_know_it_and_are_not_among_those_of_the_schedule(world: World) -> None:
    plan = Plan(UUID(int=1), "acme", 1, settings())
    at = datetime(2026, 5, 4, 12, tzinfo=UTC)
    async with world.database.transaction() as connection:
        await save_and_find(connection, [Decision(plan)])
    command = backfill(plan.job_id, at - timedelta(hours=3), at, at, max_parallel=2)
    world.now = at
    await world.hear(command)
    async with world.database.transaction() as connection:
        found = await reading.lock_plan(connection, plan.job_id)
        assert found == plan
        pieces = await reading.backfilled(connection, plan.job_id, command.event_id)
    assert [piece.backfill_id for piece in pieces] == [command.event_id] * 3
    assert [piece.open for piece in pieces] == [True, True, False]
