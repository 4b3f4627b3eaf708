"""A hundred virtual years hold, the real store comes to the same ledger, and a wrong scheduler does not get through."""

from datetime import timedelta
from typing import get_args

import pytest

from shared.events import ScheduleEvent
from tests.conftest import DatabaseOf
from tests.simulation.checks import Wrong, check
from tests.simulation.kernels import Memory, Postgres
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.record import Record
from tests.simulation.world import Size, live

MONTH = Size(jobs=4, length=timedelta(days=30), acts=4)
TRIES = 60
"""So many worlds at most until a wrong scheduler is found out."""


@pytest.mark.parametrize("first", range(1, 101, 10))
async def test_every_slot_of_a_virtual_year_is_accounted_for_whatever_happens(first: int) -> None:
    for seed in range(first, first + 10):
        check(await live(seed, Memory()))


async def test_a_few_worlds_see_everything_that_the_scheduler_can_tell() -> None:
    told: set[tuple[str, str | None]] = set()
    for seed in range(1, 6):
        for happenings in (await live(seed, Memory())).happenings.values():
            told |= {(type(e).__name__, getattr(e, "reason", None)) for h in happenings for e in h.events}
    for event in ScheduleEvent.__subclasses__():
        reasons = getattr(event.model_fields.get("reason"), "annotation", None)
        assert {(event.__name__, reason) for reason in get_args(reasons) or [None]} <= told


@pytest.mark.parametrize("seed", range(1, 6))
async def test_the_real_store_comes_to_the_same_ledger_as_the_rules_in_memory(
    seed: int, database_of: DatabaseOf
) -> None:
    real = await live(seed, Postgres(await database_of("scheduler")), MONTH)
    check(real)
    rules = await live(seed, Memory(), MONTH)
    assert real.ledger == rules.ledger
    assert real.standings == rules.standings
    assert as_text(real) == as_text(rules)


def as_text(record: Record) -> list[str]:
    return [str(happening) for happenings in record.happenings.values() for happening in happenings]


async def test_a_seed_is_the_same_world_every_time() -> None:
    first, second = [await live(7, Memory(), MONTH) for _ in range(2)]
    assert first.written == second.written
    assert first.ledger == second.ledger


def complaints_of(record: Record) -> str:
    try:
        check(record)
    except Wrong as wrong:
        return str(wrong)
    return ""


@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_wrong_scheduler_is_found_out_within_a_few_worlds(mutant: type[Mutant]) -> None:
    for seed in range(1, TRIES + 1):
        kernel = mutant()
        with kernel.spell():
            record = await live(seed, kernel)
        if complaints := complaints_of(record):
            assert f"make simulate SEED={seed}" in complaints
            assert " → " in complaints  # what happened before
            return
    pytest.fail(f"{mutant.__name__} got through")
