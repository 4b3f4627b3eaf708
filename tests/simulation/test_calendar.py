"""The independent calendar itself, on days that a person can count."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.jobs import Last
from tests.scheduler.jobs import settings
from tests.simulation import calendar

MINUTE = timedelta(minutes=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "after", "following"),
    [
        ({"kind": "hourly", "every": 8}, "2028-02-28 16:00", ["2028-02-29 00:00", "2028-02-29 08:00"]),
        ({"kind": "daily", "at": "06:30"}, "2027-12-31 06:30", ["2028-01-01 06:30", "2028-01-02 06:30"]),
        ({"kind": "weekly", "days": ["mon", "sun"], "at": "00:00"}, "2027-02-25", ["2027-02-28", "2027-03-01"]),
        ({"kind": "monthly", "day": 31, "at": "06:00"}, "2027-02-01", ["2027-02-28 06:00", "2027-03-31 06:00"]),
        ({"kind": "monthly", "day": 29, "at": "00:00"}, "2028-02-01", ["2028-02-29", "2028-03-29"]),
        ({"kind": "monthly", "day": "last", "at": "00:00"}, "2027-04-01", ["2027-04-30", "2027-05-31"]),
        ({"kind": "cron", "expression": "0 12 29 2 *"}, "2024-03-01", ["2028-02-29 12:00", "2032-02-29 12:00"]),
        # Day of month or day of week, as Debian's cron reads it: 13 February 2026 is a Friday, too.
        ({"kind": "cron", "expression": "30 2 13 * 5"}, "2026-02-06 03:00", ["2026-02-13 02:30", "2026-02-20 02:30"]),
    ],
    ids=str,
)
def test_the_slots_that_follow(schedule: dict[str, Any], after: str, following: list[str]) -> None:
    job = settings(schedule=schedule)
    first = calendar.next_slot(job, at(after))
    assert first == at(following[0])
    assert calendar.next_slot(job, first) == at(following[1])
    assert calendar.slots(job, at(after), at(following[1])) == [at(text) for text in following]


def test_a_start_is_a_slot_and_an_end_is_none() -> None:
    job = settings(start=at("2027-03-01 02:00"), ends_at=at("2027-03-01 04:00"))
    expected = [at("2027-03-01 02:00"), at("2027-03-01 03:00")]
    assert calendar.slots(job, at("2027-02-27"), at("2027-03-02")) == expected
    assert calendar.next_slot(job, expected[1]) is None
    once = settings(schedule={"kind": "once"}, start=at("2027-03-01 02:17"))
    assert calendar.next_slot(once, at("2027-01-01")) == at("2027-03-01 02:17")
    assert calendar.slots(once, at("2027-03-01 02:17"), at("2027-04-01")) == []


@pytest.mark.parametrize(
    ("timeframe", "begin", "end"),
    [
        ({"unit": "hour", "count": 2}, "2028-03-01 11:00", "2028-03-01 13:00"),
        ({"unit": "day"}, "2028-02-29", "2028-03-01"),
        ({"unit": "week"}, "2028-02-21", "2028-02-28"),
        ({"unit": "month"}, "2028-02-01", "2028-03-01"),
        ({"unit": "month", "align": False}, "2028-02-01 13:05", "2028-03-01 13:05"),
    ],
    ids=str,
)
def test_the_last_units_before_a_slot(timeframe: dict[str, Any], begin: str, end: str) -> None:
    job = settings(timeframe={"kind": "last", **timeframe})
    assert isinstance(job.timeframe, Last)
    asked = calendar.interval(job.timeframe, at("2028-03-01 13:05"), MINUTE, None)  # a Wednesday
    # Whole units were over five minutes before; only what ends at the slot is moved back to let late rows in.
    moved = timedelta(0) if job.timeframe.align else MINUTE
    assert asked == (at(begin) - moved, at(end) - moved)


def test_a_backfill_consists_of_the_jobs_own_intervals_or_of_its_boundaries() -> None:
    whole = at("2027-05-04 00:00"), at("2027-05-04 03:00")
    own = calendar.pieces(settings(), *whole, MINUTE, at("2027-05-05"))
    assert [*own] == [at(f"2027-05-04 0{hour}:00") for hour in (1, 2, 3, 4)]
    assert own[at("2027-05-04 04:00")] == (at("2027-05-04 02:59"), at("2027-05-04 03:59"))
    cut = calendar.pieces(settings(timeframe={"kind": "all"}), whole[0] + MINUTE, whole[1], MINUTE, at("2027-05-05"))
    assert next(iter(cut.values())) == (whole[0] + MINUTE, at("2027-05-04 00:59"))
    assert [*cut] == [*(at(f"2027-05-04 0{hour}:59") for hour in (0, 1, 2)), whole[1]]
