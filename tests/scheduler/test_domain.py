"""Slot arithmetic against tables and against an oracle that counts hours one by one."""

import doctest
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler import domain
from shared.events import ScheduleCompleted, ScheduleComputed, Trigger
from shared.jobs import AllData, Fixed, Last, Timeframe, Unit
from tests.scheduler.jobs import settings

EVERY = (1, 2, 3, 4, 6, 8, 12, 24)
HOUR = timedelta(hours=1)
JOB = UUID("0b9c5a52-8f0e-4d7b-9a53-6f1f2f6f4a01")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def hourly(every: int, **changes: object) -> dict[str, object]:
    return {"schedule": {"kind": "hourly", "every": every}, **changes}


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(domain)
    assert (result.failed, result.attempted > 0) == (0, True)


@pytest.mark.parametrize(
    ("every", "now", "first"),
    [
        pytest.param(1, "2026-01-01T00:00", "2026-01-01T01:00", id="on a boundary the next one counts"),
        pytest.param(1, "2026-01-01T00:59:59.999999", "2026-01-01T01:00", id="a microsecond before"),
        pytest.param(4, "2026-01-01T03:59", "2026-01-01T04:00", id="every 4 h, just before"),
        pytest.param(4, "2026-01-01T04:00:00.000001", "2026-01-01T08:00", id="every 4 h, just after"),
        pytest.param(24, "2026-01-01T00:00", "2026-01-02T00:00", id="every 24 h means midnight"),
        pytest.param(12, "2026-12-31T12:00", "2027-01-01T00:00", id="over the end of a year"),
        pytest.param(8, "2026-04-30T17:00", "2026-05-01T00:00", id="over the end of a month"),
        pytest.param(24, "2028-02-28T13:00", "2028-02-29T00:00", id="into a leap day"),
        pytest.param(24, "2028-02-29T13:00", "2028-03-01T00:00", id="out of a leap day"),
        pytest.param(24, "2026-02-28T13:00", "2026-03-01T00:00", id="no leap day"),
        pytest.param(1, "2026-03-29T01:00", "2026-03-29T02:00", id="Berlin springs forward, UTC does not"),
        pytest.param(3, "2026-10-25T00:30", "2026-10-25T03:00", id="Berlin falls back, UTC does not"),
        pytest.param(6, "2026-03-08T06:30", "2026-03-08T12:00", id="New York springs forward, UTC does not"),
        pytest.param(2, "2026-11-01T05:59", "2026-11-01T06:00", id="New York falls back, UTC does not"),
    ],
)
def test_the_first_slot_is_the_next_boundary_after_now(every: int, now: str, first: str) -> None:
    assert domain.first_slot(settings(**hourly(every)), utc(now)) == utc(first)


@pytest.mark.parametrize(
    ("start", "first"),
    [
        pytest.param("2026-05-01T08:00:00Z", "2026-05-01T08:00", id="a start on a boundary is a slot"),
        pytest.param("2026-05-01T08:00:01Z", "2026-05-01T12:00", id="a start between boundaries waits for the next"),
        pytest.param("2026-05-01T10:00:00+02:00", "2026-05-01T08:00", id="a start with an offset is converted"),
        pytest.param("2026-04-01T08:00:00Z", "2026-05-01T04:00", id="a start in the past changes nothing"),
        pytest.param("immediately", "2026-05-01T04:00", id="the immediate run is beside the schedule's slots"),
        pytest.param(None, "2026-05-01T04:00", id="no start"),
    ],
)
def test_no_slot_lies_before_the_start(start: str | None, first: str) -> None:
    assert domain.first_slot(settings(**hourly(4, start=start)), utc("2026-05-01T00:30")) == utc(first)


def test_the_end_is_exclusive() -> None:
    ending = settings(**hourly(4, ends_at="2026-05-01T08:00:00Z"))
    assert domain.first_slot(ending, utc("2026-05-01T00:30")) == utc("2026-05-01T04:00")
    assert domain.following_slot(ending, utc("2026-05-01T00:00")) == utc("2026-05-01T04:00")
    assert domain.following_slot(ending, utc("2026-05-01T04:00")) is None
    assert domain.first_slot(ending, utc("2026-05-01T04:00")) is None


def test_a_one_time_job_has_one_slot() -> None:
    once = settings(schedule={"kind": "once"}, start="2026-05-01T08:17:00Z")
    assert domain.first_slot(once, utc("2026-05-01T00:00")) == utc("2026-05-01T08:17")
    assert domain.following_slot(once, utc("2026-05-01T08:17")) is None


def test_a_one_time_job_submitted_to_run_at_once_has_no_slot_of_the_schedule() -> None:
    once = settings(schedule={"kind": "once"}, start="immediately")
    assert domain.first_slot(once, utc("2026-05-01T00:00")) is None


def hours_after(moment: datetime) -> Iterator[datetime]:
    """Every whole hour after `moment`, found by counting from the year 2000."""
    hour = datetime(2000, 1, 1, tzinfo=UTC) + (moment - datetime(2000, 1, 1, tzinfo=UTC)) // HOUR * HOUR
    while True:
        hour += HOUR
        yield hour


years = st.timedeltas(timedelta(days=366), timedelta(days=36500))
moments = years.map(lambda since: datetime(2000, 1, 1, tzinfo=UTC) + since)


@given(every=st.sampled_from(EVERY), now=moments)
def test_slots_equal_those_of_an_oracle_that_looks_at_every_hour(every: int, now: datetime) -> None:
    expected = next(hour for hour in hours_after(now) if hour.hour % every == 0)
    assert domain.first_slot(settings(**hourly(every)), now) == expected


@given(every=st.sampled_from(EVERY), now=moments, start=moments, length=st.integers(1, 72))
def test_a_chain_of_slots_equals_the_oracles(every: int, now: datetime, start: datetime, length: int) -> None:
    start = now + (start - now) % timedelta(days=3)
    end = start + timedelta(hours=length)
    bounded = settings(**hourly(every, start=start, ends_at=end))
    chain: list[datetime] = []
    slot = domain.first_slot(bounded, now)
    while slot is not None:
        chain.append(slot)
        slot = domain.following_slot(bounded, slot)
    hours = hours_after(now - timedelta(microseconds=1) if start > now else now)
    expected: list[datetime] = []
    for hour in hours:
        if hour >= end:
            break
        if hour >= start and hour.hour % every == 0:
            expected.append(hour)
    assert chain == expected


@pytest.mark.parametrize(
    ("timeframe", "slot", "interval"),
    [
        pytest.param(
            Last(kind="last", unit=Unit.HOUR, count=4),
            "2026-03-29T04:00", ("2026-03-29T00:00", "2026-03-29T04:00"), id="four hours",
        ),
        pytest.param(
            Last(kind="last", unit=Unit.HOUR),
            "2026-03-29T04:17", ("2026-03-29T03:00", "2026-03-29T04:00"), id="aligned to the hour",
        ),
        pytest.param(
            Last(kind="last", unit=Unit.HOUR, align=False),
            "2026-03-29T04:17", ("2026-03-29T03:17", "2026-03-29T04:17"), id="not aligned",
        ),
        pytest.param(
            Last(kind="last", unit=Unit.DAY),
            "2026-01-01T08:00", ("2025-12-31T00:00", "2026-01-01T00:00"), id="the last day of a year",
        ),
        pytest.param(
            Last(kind="last", unit=Unit.WEEK),
            "2026-11-25T13:00", ("2026-11-16T00:00", "2026-11-23T00:00"), id="weeks start on Monday",
        ),
        pytest.param(
            Last(kind="last", unit=Unit.WEEK),
            "2026-11-23T00:00", ("2026-11-16T00:00", "2026-11-23T00:00"), id="on a Monday",
        ),
        pytest.param(
            Last(kind="last", unit=Unit.MONTH),
            "2028-03-01T00:00", ("2028-02-01T00:00", "2028-03-01T00:00"), id="a leap February",
        ),
        pytest.param(
            Last(kind="last", unit=Unit.MONTH, count=13),
            "2026-01-15T00:00", ("2024-12-01T00:00", "2026-01-01T00:00"), id="13 months over two new years",
        ),
        pytest.param(
            Last(kind="last", unit=Unit.MONTH, align=False),
            "2026-03-31T10:00", ("2026-02-28T10:00", "2026-03-31T10:00"), id="a month before 31 March",
        ),
        pytest.param(
            Last(kind="last", unit=Unit.MONTH, count=12, align=False),
            "2028-02-29T10:00", ("2027-02-28T10:00", "2028-02-29T10:00"), id="a year before a leap day",
        ),
        pytest.param(AllData(kind="all"), "2026-03-29T04:00", (None, "2026-03-29T04:00"), id="all"),
    ],
)  # fmt: skip
def test_the_data_interval_of_a_slot(timeframe: Timeframe, slot: str, interval: tuple[str | None, str]) -> None:
    from_, to = interval
    assert domain.data_interval(timeframe, utc(slot), timedelta(0)) == (utc(from_) if from_ else None, utc(to))


def test_relative_intervals_end_earlier_by_what_the_source_needs_to_settle_and_fixed_ones_do_not() -> None:
    settle = timedelta(minutes=10)
    slot = utc("2026-03-29T04:00")
    last = Last(kind="last", unit=Unit.HOUR)
    fixed = Fixed.model_validate({"kind": "fixed", "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"})
    assert domain.data_interval(last, slot, settle) == (utc("2026-03-29T02:50"), utc("2026-03-29T03:50"))
    assert domain.data_interval(AllData(kind="all"), slot, settle) == (None, utc("2026-03-29T03:50"))
    assert domain.data_interval(fixed, slot, settle) == (utc("2026-01-01T00:00"), utc("2026-02-01T00:00"))


@given(every=st.sampled_from(EVERY), now=moments, settle=st.timedeltas(timedelta(0), timedelta(hours=5)))
def test_intervals_as_long_as_the_schedule_leave_no_gap_and_no_overlap(
    every: int, now: datetime, settle: timedelta
) -> None:
    following = settings(**hourly(every, timeframe={"kind": "last", "count": every, "unit": "hour"}))
    slot = domain.first_slot(following, now)
    assert slot
    for _ in range(5):
        after = domain.following_slot(following, slot)
        assert after
        first = domain.data_interval(following.timeframe, slot, settle)
        second = domain.data_interval(following.timeframe, after, settle)
        assert first[1] == second[0]
        slot = after


@given(moment=moments, count=st.integers(1, 1000), unit=st.sampled_from(Unit))
def test_a_unit_begins_at_or_before_the_moment_and_earlier_is_earlier(moment: datetime, count: int, unit: Unit) -> None:
    start = domain.floor_to_unit(moment, unit)
    assert start <= moment
    assert domain.floor_to_unit(start, unit) == start
    assert domain.minus_units(start, count, unit) < start
    assert domain.floor_to_unit(domain.minus_units(start, count, unit), unit) == domain.minus_units(start, count, unit)


def test_a_run_is_named_by_its_job_and_slot_and_nothing_else() -> None:
    slot = domain.scheduled_slot(utc("2026-03-29T04:00"))
    assert (slot.key, slot.trigger) == ("schedule:2026-03-29T04:00:00Z", Trigger.SCHEDULE)
    # uuid5 of this job and slot key, computed once; it must never change.
    assert domain.run_id(JOB, slot.key) == UUID("6690a1d5-d24d-57e7-b3ee-8251506c6d34")
    assert domain.run_id(JOB, "schedule:2026-03-29T05:00:00Z") != domain.run_id(JOB, slot.key)


def plan(**changes: object) -> domain.Plan:
    return domain.Plan(JOB, "acme", 3, settings(**changes), None)


def test_the_request_carries_the_whole_question() -> None:
    slot = domain.scheduled_slot(utc("2026-03-29T04:00"))
    asked = plan(media_types=["voice"], split_bytes=65536, recipients=["f"], retry={"attempts": 7})
    run = domain.request(asked, slot, settle=timedelta(minutes=1), now=utc("2026-03-29T04:00:01"))
    assert run.run_id == domain.run_id(JOB, slot.key)
    assert (run.job_version, run.retry.attempts, run.title) == (3, 7, "A job")
    assert run.question.model_dump() == {
        "source": "ucs", "type": "interaction", "media_types": ("voice",),
        "interval_from": utc("2026-03-29T02:59"), "interval_to": utc("2026-03-29T03:59"),
        "split_bytes": 65536, "format": "jsonl", "encryption": "gcm", "recipients": ("f",),
        "fields": None, "masking": None,
    }  # fmt: skip


def test_a_one_time_job_without_a_next_slot_is_complete_and_a_recurring_one_is_not() -> None:
    now = utc("2026-03-29T04:00")
    once = plan(schedule={"kind": "once"}, start="2026-03-29T04:00:00Z")
    assert isinstance(domain.announcement(once, now), ScheduleCompleted)
    over = domain.announcement(plan(), now)
    assert isinstance(over, ScheduleComputed)
    assert over.next_slot_at is None
