import itertools
from dataclasses import replace
from random import Random
from uuid import UUID

import pytest

from services.exporter.domain import (
    Claim,
    Counts,
    Lane,
    artifact_id,
    lanes_for,
    manifest_id,
    manifest_name,
    percent_done,
    progress,
    remaining_seconds,
    schema_id,
    schema_name,
)
from tests.exporter.runs import requested

RUN = UUID("9c5b94b1-35ad-49bb-b118-8e8fc24abf80")


@pytest.mark.parametrize(
    ("rows", "total", "at", "told", "percent", "remaining"),
    [
        (0, 100, 0, 100, 0.0, None),
        (10, 100, 10, 100, 10.0, None),  # the first rows: no rate yet
        (30, 100, 14, 100, 30.0, 14.0),  # 20 rows in 4 s, 70 to go
        (11, 30, 11, 30, 36.7, 19.0),
        (99_999, 100_000, 11, 100_000, 99.9, 0.0),  # rounded it would be 100
        (100, 100, 20, 100, 99.9, 0.0),
        (120, 100, 20, 120, 99.9, None),  # nobody knows any more
        (0, 0, 1, 0, 0.0, None),
        (50, None, 15, None, None, None),
    ],
)
def test_progress_is_a_share_of_what_is_expected_and_never_all_of_it(
    rows: int, total: int | None, at: float, told: int | None, percent: float | None, remaining: float | None
) -> None:
    claim = Claim(requested(), attempt=2, attempts_allowed=3)

    tick = progress(claim, 7, Counts(10, 1, total, at=10), Counts(rows, 2, total, at=at))

    assert (tick.attempt, tick.sequence, tick.rows, tick.bytes, tick.total) == (2, 7, rows, 2, told)
    assert (tick.percent, tick.remaining_seconds) == (percent, remaining)


def _counted(seed: int) -> list[Counts]:
    """What a run might have counted, a look about every second: rates that are noisy, change, come in bursts, stall."""
    chance = Random(seed)
    rate, kind = chance.choice((20, 2_000, 200_000)), chance.choice(("steady", "noisy", "change", "bursts", "stall"))
    total = int(rate * chance.uniform(20, 400))
    rows, at = 0, 0.0
    counts: list[Counts] = []
    while rows < total:
        step, share = chance.uniform(0.9, 1.3), rows / total
        factor = {
            "steady": 1.0,
            "noisy": chance.lognormvariate(0, 0.6),
            "change": 3.0 if share < 0.3 else 0.4 if share < 0.6 else 1.5,
            "bursts": 0.0 if int(at) % 10 < 3 else 1.4,
            "stall": 0.05 if 0.4 < share < 0.42 else 1.0,
        }[kind]
        at += step
        rows = min(total, rows + int(rate * factor * step))
        if rows:
            counts.append(Counts(rows, rows, total, at))
    return counts


@pytest.mark.parametrize("seed", range(100))
def test_remaining_time_falls_and_never_jumps_up(seed: int) -> None:
    first, *rest = _counted(seed)
    told = [(counts.at - first.at, remaining_seconds(first, counts)) for counts in rest]
    known = [(spent, left) for spent, left in told if left is not None]

    for (spent, left), (later, then) in itertools.pairwise(known):
        assert then <= left * later / spent + 0.1  # told in tenths of a second
    assert known[-1][1] == 0


def test_remaining_time_falls_with_the_clock_where_rows_come_evenly() -> None:
    first, *rest = (Counts(100 * second, 0, 10_000, at=second) for second in range(1, 101))

    assert [remaining_seconds(first, counts) for counts in rest] == [100.0 - counts.at for counts in rest]


@pytest.mark.parametrize("seed", range(20))
def test_percent_only_rises_whatever_the_planner_expected(seed: int) -> None:
    counted = [replace(counts, total=counts.total // 2) for counts in _counted(seed) if counts.total]

    told = [percent_done(counts) for counts in counted]

    assert told == sorted(told)
    assert told[-1] == 99.9


@pytest.mark.parametrize("slots", [1, 2, 3, 64])
def test_every_lane_gets_its_turn_and_one_slot_is_never_for_backfills(slots: int) -> None:
    preferred = [lanes_for(claims, backfills=0, slots=slots)[0] for claims in range(5)]
    assert sorted(preferred) == ["backfill", "manual", "manual", "scheduled", "scheduled"]

    for claims in range(10):
        free = lanes_for(claims, backfills=0, slots=slots)
        assert sorted(free) == sorted(Lane)  # nothing due is left while a slot is idle
        full = lanes_for(claims, backfills=max(1, slots - 1), slots=slots)
        assert (Lane.BACKFILL in full) is (slots == 1)


@pytest.mark.parametrize(
    ("attempt", "allowed", "is_last", "dead"),
    [(1, 3, False, []), (2, 3, False, [1]), (3, 3, True, [1, 2]), (1, 1, True, []), (2, 1, True, [1])],
)
def test_an_attempt_knows_its_place_and_where_the_dead_ones_wrote(
    attempt: int, allowed: int, is_last: bool, dead: list[int]
) -> None:
    claim = Claim(requested(), attempt, allowed)

    assert claim.is_last is is_last
    assert claim.prefix == f"{claim.run_id}/{attempt}"
    assert claim.dead_prefixes == [f"{claim.run_id}/{number}" for number in dead]


def test_ids_are_the_same_whenever_asked_and_differ_by_attempt_and_number() -> None:
    assert artifact_id(RUN, 1, 1) == artifact_id(RUN, 1, 1)
    parts = {artifact_id(RUN, 1, 1), artifact_id(RUN, 1, 2), artifact_id(RUN, 2, 1)}
    assert len(parts | {manifest_id(RUN), schema_id(RUN)}) == 5
    assert manifest_name(RUN) == f"export-{RUN}.manifest.json"
    assert schema_name(RUN) == f"export-{RUN}.schema.json"
