"""Slot arithmetic against tables with the sum beside them, and against oracles that share no code with it.

The oracles: dateutil.rrule for calendars, dateutil.relativedelta for intervals, croniter for cron, and a reading of
Debian's crontab(5) that looks at every minute. croniter knows only "and" and "or" between day of month and day of week;
which of the two holds is told by crontab(5): "and" as soon as one of the fields begins with a star, `*/2` included.
"""

import calendar
import doctest
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from uuid import UUID

import hypothesis
import pytest
from croniter import croniter
from dateutil.relativedelta import MO, relativedelta
from dateutil.rrule import DAILY, HOURLY, MONTHLY, WEEKLY, rrule
from hypothesis import HealthCheck, assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from shared import slots
from shared.events import Trigger
from shared.jobs import JobSettings, Schedule, Timeframe, Unit
from shared.slots import Answer, Piece, data_interval, first_slot, following_slot, next_boundary, pieces, slots_between

EVERY = (1, 2, 3, 4, 6, 8, 12, 24)
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
UNITS = {Unit.HOUR: "hours", Unit.DAY: "days", Unit.WEEK: "weeks", Unit.MONTH: "months"}
JOB = UUID("0b9c5a52-8f0e-4d7b-9a53-6f1f2f6f4a01")
TICK = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
LAST_HOUR = {"kind": "last", "unit": "hour"}
ALL = {"kind": "all"}

SCHEDULE = TypeAdapter[Schedule](Schedule)
TIMEFRAME = TypeAdapter[Timeframe](Timeframe)


def examples(number: int) -> hypothesis.settings:
    """So many of them, however slow a busy machine is."""
    return hypothesis.settings(max_examples=number, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def settings(schedule: dict[str, Any], timeframe: dict[str, Any] = LAST_HOUR, **changes: Any) -> JobSettings:
    plain = {"title": "A job", "source": "ucs", "type": "interaction"}
    return JobSettings.model_validate({**plain, "schedule": schedule, "timeframe": timeframe, **changes})


def hourly(every: int) -> dict[str, Any]:
    return {"kind": "hourly", "every": every}


def daily(at: str) -> dict[str, Any]:
    return {"kind": "daily", "at": at}


def weekly(days: str, at: str) -> dict[str, Any]:
    return {"kind": "weekly", "days": days.split(), "at": at}


def monthly(day: int | str, at: str) -> dict[str, Any]:
    return {"kind": "monthly", "day": day, "at": at}


def cron(expression: str) -> dict[str, Any]:
    return {"kind": "cron", "expression": expression}


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(slots)
    assert (result.failed, result.attempted > 0) == (0, True)


@pytest.mark.parametrize(
    ("schedule", "after", "boundary"),
    [
        pytest.param(hourly(1), "2026-01-01T00:00", "2026-01-01T01:00", id="on a boundary the next one counts"),
        pytest.param(hourly(1), "2026-01-01T00:59:59.999999", "2026-01-01T01:00", id="a microsecond before 01:00"),
        pytest.param(hourly(4), "2026-01-01T04:00:00.000001", "2026-01-01T08:00", id="4 + 4 h, a microsecond late"),
        pytest.param(hourly(8), "2026-04-30T17:00", "2026-05-01T00:00", id="16 + 8 = 24 h, the next month"),
        pytest.param(hourly(12), "2026-12-31T12:00", "2027-01-01T00:00", id="12 + 12 = 24 h, the next year"),
        pytest.param(hourly(24), "2026-01-01T00:00", "2026-01-02T00:00", id="every 24 h is midnight"),
        pytest.param(hourly(24), "2028-02-28T13:00", "2028-02-29T00:00", id="into a leap day"),
        pytest.param(hourly(24), "2100-02-28T13:00", "2100-03-01T00:00", id="2100 has no leap day"),
        pytest.param(hourly(1), "2026-03-29T01:00", "2026-03-29T02:00", id="Berlin has no 02:00 that day, UTC has"),
        pytest.param(hourly(3), "2026-10-25T00:30", "2026-10-25T03:00", id="Berlin has 02:00 twice, UTC once"),
        pytest.param(hourly(6), "2026-03-08T06:30", "2026-03-08T12:00", id="New York springs forward, UTC does not"),
        pytest.param(hourly(2), "2026-11-01T05:59", "2026-11-01T06:00", id="New York falls back, UTC does not"),
        pytest.param(daily("06:30"), "2026-05-05T06:29:59.999999", "2026-05-05T06:30", id="today, a microsecond left"),
        pytest.param(daily("06:30"), "2026-05-05T06:30", "2026-05-06T06:30", id="today's is this moment"),
        pytest.param(daily("00:00"), "2026-12-31T00:00:00.000001", "2027-01-01T00:00", id="midnight of New Year"),
        pytest.param(daily("23:59"), "2028-02-28T23:59", "2028-02-29T23:59", id="a leap day has one too"),
        pytest.param(daily("23:59"), "2100-02-28T23:59", "2100-03-01T23:59", id="2100-02-28 is followed by March"),
        pytest.param(daily("02:30"), "2026-03-28T02:30", "2026-03-29T02:30", id="Berlin springs forward, still 24 h"),
        pytest.param(daily("02:30"), "2026-10-24T02:30", "2026-10-25T02:30", id="Berlin falls back, still 24 h"),
        pytest.param(daily("02:30"), "2026-03-07T02:30", "2026-03-08T02:30", id="New York springs forward"),
        # 2026-11-23 is a Monday.
        pytest.param(weekly("mon", "06:00"), "2026-11-23T05:59", "2026-11-23T06:00", id="Monday, a minute to go"),
        pytest.param(weekly("mon", "06:00"), "2026-11-23T06:00", "2026-11-30T06:00", id="23 + 7 = 30"),
        pytest.param(weekly("sun mon", "06:00"), "2026-11-23T06:00", "2026-11-29T06:00", id="Sunday ends the week"),
        pytest.param(weekly("fri tue", "06:00"), "2026-11-24T07:00", "2026-11-27T06:00", id="days in any order"),
        pytest.param(weekly("fri", "00:00"), "2026-12-25T00:00", "2027-01-01T00:00", id="25 + 7 = 32 December"),
        pytest.param(weekly("tue", "12:00"), "2028-02-22T12:00", "2028-02-29T12:00", id="a leap day is a Tuesday"),
        pytest.param(weekly("mon", "12:00"), "2100-02-22T12:00", "2100-03-01T12:00", id="22 + 7 = 29 = 1 March 2100"),
        pytest.param(monthly(1, "00:00"), "2026-12-01T00:00", "2027-01-01T00:00", id="the first, over New Year"),
        pytest.param(monthly(29, "06:00"), "2026-01-29T06:00", "2026-02-28T06:00", id="29 in a common February: 28"),
        pytest.param(monthly(29, "06:00"), "2028-01-29T06:00", "2028-02-29T06:00", id="29 in a leap February"),
        pytest.param(monthly(29, "06:00"), "2096-01-29T06:00", "2096-02-29T06:00", id="29 in February 2096"),
        pytest.param(monthly(29, "06:00"), "2100-01-29T06:00", "2100-02-28T06:00", id="29 in February 2100: 28"),
        pytest.param(monthly(29, "06:00"), "2104-01-29T06:00", "2104-02-29T06:00", id="29 in February 2104"),
        pytest.param(monthly(30, "06:00"), "2028-01-30T06:00", "2028-02-29T06:00", id="30 in a leap February: 29"),
        pytest.param(monthly(30, "06:00"), "2026-02-28T06:00", "2026-03-30T06:00", id="30 again after February"),
        pytest.param(monthly(31, "06:00"), "2026-03-31T06:00", "2026-04-30T06:00", id="31 in April: 30"),
        pytest.param(monthly(31, "06:00"), "2026-04-30T06:00", "2026-05-31T06:00", id="31 again in May"),
        pytest.param(monthly(31, "06:00"), "2026-04-30T05:59", "2026-04-30T06:00", id="31 in April, a minute to go"),
        pytest.param(monthly("last", "23:59"), "2026-12-31T23:59", "2027-01-31T23:59", id="last, over New Year"),
        pytest.param(monthly("last", "00:00"), "2028-02-01T00:00", "2028-02-29T00:00", id="last of a leap February"),
        pytest.param(monthly("last", "00:00"), "2100-02-01T00:00", "2100-02-28T00:00", id="last of February 2100"),
        pytest.param(cron("*/15 * * * *"), "2026-01-01T00:45", "2026-01-01T01:00", id="45 + 15 = 60 minutes"),
        pytest.param(cron("*/7 * * * *"), "2026-01-01T00:56", "2026-01-01T01:00", id="steps begin anew each hour"),
        pytest.param(cron("0 6 * * *"), "2026-01-01T05:59:59.999999", "2026-01-01T06:00", id="cron, a microsecond"),
        pytest.param(cron("0 6 * * *"), "2026-01-01T06:00", "2026-01-02T06:00", id="cron, on a boundary"),
        pytest.param(cron("30 2 * * *"), "2026-03-28T02:30", "2026-03-29T02:30", id="cron, Berlin springs forward"),
        pytest.param(cron("30 2 * * *"), "2026-10-24T02:30", "2026-10-25T02:30", id="cron, Berlin falls back"),
        pytest.param(cron("0 0 29 2 *"), "2026-01-01T00:00", "2028-02-29T00:00", id="the next leap day"),
        pytest.param(cron("0 0 29 2 *"), "2096-02-29T00:00", "2104-02-29T00:00", id="2100 has no leap day, 8 years"),
        # A leap day falls on the same weekday every 28 years, over 2100 after 12 or 40: 2072-02-29 is a Monday.
        pytest.param(cron("0 0 29 2 */7"), "2088-03-01T00:00", "2128-02-29T00:00", id="a Sunday leap day, 40 years"),
        pytest.param(cron("0 0 13 * fri"), "2026-11-13T00:00", "2026-11-20T00:00", id="the 13th or a Friday"),
        pytest.param(cron("0 0 */13 * 5"), "2026-01-01T00:00", "2026-02-27T00:00", id="1, 14 or 27 and a Friday"),
        pytest.param(cron("0 0 13 * */5"), "2026-01-01T00:00", "2026-02-13T00:00", id="the 13th and Sunday or Friday"),
        pytest.param(cron("0 0 * * 7"), "2026-11-23T00:00", "2026-11-29T00:00", id="7 is Sunday"),
        pytest.param(cron("0 0 * * Sun"), "2026-11-23T00:00", "2026-11-29T00:00", id="names in any case"),
        pytest.param(cron("5/20 * * * *"), "2026-11-23T00:05", "2026-11-23T00:25", id="5/20 is 5-59/20"),
        pytest.param(cron("0 0 L * *"), "2026-02-01T00:00", "2026-02-28T00:00", id="L is the last of the month"),
        pytest.param(cron("0 0 * * 5#2"), "2026-11-01T00:00", "2026-11-13T00:00", id="the second Friday, 6 + 7"),
        pytest.param(cron("0 0 * * 5L"), "2026-11-01T00:00", "2026-11-27T00:00", id="the last Friday, 6 + 21"),
        pytest.param({"kind": "once"}, "2026-01-01T00:00", None, id="once has no boundaries"),
    ],
)
def test_the_next_boundary(schedule: dict[str, Any], after: str, boundary: str | None) -> None:
    found = next_boundary(SCHEDULE.validate_python(schedule), utc(after))
    assert found == (utc(boundary) if boundary else None)


@pytest.mark.parametrize(
    ("schedule", "start", "first"),
    [
        pytest.param(hourly(4), "2026-05-01T08:00:00Z", "2026-05-01T08:00", id="a start on a boundary is a slot"),
        pytest.param(hourly(4), "2026-05-01T08:00:00.000001Z", "2026-05-01T12:00", id="a microsecond later is not"),
        pytest.param(hourly(4), "2026-05-01T10:00:00+02:00", "2026-05-01T08:00", id="10:00 - 2 h = 08:00 UTC"),
        pytest.param(hourly(4), "2026-04-01T08:00:00Z", "2026-05-01T04:00", id="a start in the past changes nothing"),
        pytest.param(hourly(4), "2026-05-01T00:30:00Z", "2026-05-01T04:00", id="a start now"),
        pytest.param(hourly(4), "immediately", "2026-05-01T04:00", id="the immediate run is beside the slots"),
        pytest.param(hourly(4), None, "2026-05-01T04:00", id="no start"),
        pytest.param(daily("08:00"), "2026-05-03T08:00:00Z", "2026-05-03T08:00", id="daily"),
        pytest.param(weekly("sun", "08:00"), "2026-05-03T08:00:00Z", "2026-05-03T08:00", id="weekly, a Sunday"),
        pytest.param(monthly("last", "08:00"), "2026-06-30T08:00:00Z", "2026-06-30T08:00", id="monthly"),
        pytest.param(cron("0 8 * * *"), "2026-05-03T08:00:00Z", "2026-05-03T08:00", id="cron"),
        pytest.param(cron("0 8 * * *"), "2026-05-03T08:00:00.000001Z", "2026-05-04T08:00", id="cron, a microsecond"),
        pytest.param({"kind": "once"}, "2026-05-03T08:17:00Z", "2026-05-03T08:17", id="once"),
        pytest.param({"kind": "once"}, "2026-05-01T00:30:00Z", None, id="once, but now is too late"),
        pytest.param({"kind": "once"}, "immediately", None, id="once and immediately is no slot of a schedule"),
    ],
)
def test_no_slot_lies_before_the_start(schedule: dict[str, Any], start: str | None, first: str | None) -> None:
    now = utc("2026-05-01T00:30")
    job = settings(schedule, start=start)
    expected = utc(first) if first else None
    assert first_slot(job, now) == following_slot(job, now) == expected
    assert list(islice(slots_between(job, now, utc("2027-01-01T00:00")), 1)) == ([expected] if expected else [])


def test_the_end_is_exclusive() -> None:
    ending = settings(hourly(4), ends_at="2026-05-01T08:00:00Z")
    assert first_slot(ending, utc("2026-05-01T00:30")) == utc("2026-05-01T04:00")
    assert following_slot(ending, utc("2026-05-01T04:00")) is None
    assert first_slot(ending, utc("2026-05-01T04:00")) is None
    later = settings(hourly(4), ends_at="2026-05-01T08:00:00.000001Z")
    assert following_slot(later, utc("2026-05-01T04:00")) == utc("2026-05-01T08:00")


def test_a_start_and_an_end_may_have_no_boundary_between_them() -> None:
    never = settings(daily("06:00"), start="2026-05-01T06:00:00.000001Z", ends_at="2026-05-02T06:00:00Z")
    assert first_slot(never, utc("2026-04-01T00:00")) is None
    assert list(slots_between(never, utc("2026-04-01T00:00"), utc("2027-01-01T00:00"))) == []


def test_a_one_time_job_has_one_slot() -> None:
    once = settings({"kind": "once"}, start="2026-05-01T08:17:00Z")
    assert following_slot(once, utc("2026-05-01T08:17")) is None
    assert list(slots_between(once, utc("2026-05-01T00:00"), utc("2026-05-01T08:17"))) == [utc("2026-05-01T08:17")]


@pytest.mark.parametrize("year", [2026, 2028, 2096, 2100, 2104])
def test_a_monthly_job_has_a_slot_in_each_month_whatever_its_day(year: int) -> None:
    for day in (*range(1, 32), "last"):
        found = slots_between(settings(monthly(day, "06:00")), utc(f"{year}-01-01T00:00"), utc(f"{year}-12-31T23:59"))
        assert [slot.month for slot in found] == list(range(1, 13))


# Half of the moments lie on a round time or a microsecond beside it, where mistakes live.
anywhere = st.datetimes(datetime(1901, 1, 1), datetime(2900, 12, 31)).map(lambda moment: moment.replace(tzinfo=UTC))  # noqa: DTZ001
beside = st.sampled_from((timedelta(0), TICK, -TICK, MINUTE, -MINUTE))
hours = anywhere.map(lambda moment: moment.replace(minute=0, second=0, microsecond=0))
months_ends = hours.map(lambda moment: moment.replace(day=1, hour=0) - DAY)
moments = st.one_of(anywhere, st.builds(lambda moment, by: moment + by, st.one_of(hours, months_ends), beside))

times = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
hourlies = st.sampled_from(EVERY).map(hourly)
dailies = times.map(daily)
weeklies = st.builds(weekly, st.lists(st.sampled_from(DAYS), min_size=1, unique=True).map(" ".join), times)
monthlies = st.builds(monthly, st.one_of(st.integers(1, 31), st.sampled_from((29, 30, 31, "last"))), times)
calendars = st.one_of(hourlies, dailies, weeklies, monthlies)


def calendar_of(schedule: dict[str, Any], moment: datetime) -> rrule:
    """The boundaries of a schedule from the month before `moment` on, by the rules of RFC 5545."""
    begin = datetime(moment.year, moment.month, 1, tzinfo=UTC) - relativedelta(months=1)
    if schedule["kind"] == "hourly":
        return rrule(HOURLY, begin, byhour=range(0, 24, schedule["every"]), byminute=0, bysecond=0)
    hour, minute = map(int, schedule["at"].split(":"))
    at = {"byhour": hour, "byminute": minute, "bysecond": 0}
    match schedule:
        case {"kind": "daily"}:
            return rrule(DAILY, begin, **at)
        case {"kind": "weekly", "days": days}:
            return rrule(WEEKLY, begin, byweekday=[DAYS.index(day) for day in days], **at)
        case {"day": "last"}:
            return rrule(MONTHLY, begin, bymonthday=-1, **at)
        case {"day": day}:
            # Of the days 28 to `day` that a month has, the last one.
            return rrule(MONTHLY, begin, bymonthday=range(min(day, 28), day + 1), bysetpos=-1, **at)
    raise AssertionError(schedule)


@examples(400)
@given(schedule=calendars, moment=moments)
def test_boundaries_are_those_of_the_calendar(schedule: dict[str, Any], moment: datetime) -> None:
    expected = list(calendar_of(schedule, moment).xafter(moment, count=4))
    found = moment
    for boundary in expected:
        found = next_boundary(SCHEDULE.validate_python(schedule), found)
        assert found == boundary
        assert found.tzinfo is UTC


@examples(150)
@given(
    schedule=calendars, after=moments, length=st.timedeltas(timedelta(0), timedelta(days=100)),
    start=st.none() | st.timedeltas(-DAY, timedelta(days=40)), end=st.none() | st.timedeltas(DAY, timedelta(days=90)),
)  # fmt: skip
def test_slots_are_the_boundaries_from_the_start_to_before_the_end(
    schedule: dict[str, Any], after: datetime, length: timedelta, start: timedelta | None, end: timedelta | None
) -> None:
    begins = None if start is None else after + start
    ends = None if end is None else (begins or after) + end
    expected = [
        boundary
        for boundary in calendar_of(schedule, after).between(after, after + length, inc=True)
        if boundary > after and (begins is None or boundary >= begins) and (ends is None or boundary < ends)
    ]
    job = settings(schedule, start=begins, ends_at=ends)
    assert list(slots_between(job, after, after + length)) == expected


MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
FIELDS = (range(60), range(24), range(1, 32), range(1, 13), range(8))
NAMES: tuple[dict[str, int], ...] = (
    {}, {}, {},
    {name: number for number, name in enumerate(MONTHS, 1)},
    {name: (number + 1) % 7 for number, name in enumerate(DAYS)},
)  # fmt: skip


def terms(values: range, names: dict[str, int]) -> st.SearchStrategy[str]:
    number = st.integers(values[0], values[-1])
    pairs = st.tuples(number, number).filter(lambda pair: pair[0] < pair[1])
    ranges = pairs.map(lambda pair: f"{pair[0]}-{pair[1]}")
    steps = st.integers(1, len(values))
    written = st.sampled_from(sorted(names)).map(str.title) | number.map(str) if names else number.map(str)
    return st.one_of(written, written, ranges, st.builds("{}/{}".format, ranges | st.just("*"), steps))


def fields(values: range, names: dict[str, int]) -> st.SearchStrategy[str]:
    return st.just("*") | st.lists(terms(values, names), min_size=1, max_size=3).map(",".join)


all_expressions = st.tuples(*(fields(values, names) for values, names in zip(FIELDS, NAMES, strict=True))).map(" ".join)


class Crontab:
    """A reading of crontab(5), as Debian has it, by sets of numbers."""

    def __init__(self, expression: str) -> None:
        written = expression.lower().split()
        self.minutes, self.hours, self.days, self.months, weekdays = (
            {number for term in field.split(",") for number in self._numbers(term, values, names)}
            for field, values, names in zip(written, FIELDS, NAMES, strict=True)
        )
        self.weekdays = {number % 7 for number in weekdays}
        self.both = written[2].startswith("*") or written[4].startswith("*")

    @staticmethod
    def _numbers(term: str, values: range, names: dict[str, int]) -> range:
        stretch, _, step = term.partition("/")
        if stretch == "*":
            return values[:: int(step or 1)]
        first, _, last = stretch.partition("-")
        begin, end = (names[text] if text in names else int(text) for text in (first, last or first))
        return range(begin, end + 1, int(step or 1))

    def has_day(self, day: datetime) -> bool:
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return day.month in self.months and (of_month and of_week if self.both else of_month or of_week)

    def has(self, minute: datetime) -> bool:
        return minute.minute in self.minutes and minute.hour in self.hours and self.has_day(minute)

    def comes(self) -> bool:
        """Every date that the leap years have falls on every weekday some time."""
        longest = {month: calendar.monthrange(2000, month)[1] for month in self.months}
        return not self.both or any(day <= last for last in longest.values() for day in self.days)

    def after(self, moment: datetime) -> datetime:
        """The first minute later than `moment`, looking at every day and at every minute of the first that counts."""
        day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        while True:
            if self.has_day(day):
                minutes = (day + number * MINUTE for number in range(24 * 60))
                found = next((minute for minute in minutes if minute > moment and self.has(minute)), None)
                if found is not None:
                    return found
            day += DAY


expressions = all_expressions.filter(lambda expression: Crontab(expression).comes())


@examples(300)
@given(expression=all_expressions)
def test_a_cron_expression_is_refused_just_when_its_day_never_comes(expression: str) -> None:
    if Crontab(expression).comes():
        SCHEDULE.validate_python(cron(expression))
    else:
        with pytest.raises(ValueError, match=r"is not a cron expression|never comes"):
            SCHEDULE.validate_python(cron(expression))


@examples(300)
@given(expression=expressions, moment=moments)
def test_cron_is_due_at_the_minute_that_crontab_5_says(expression: str, moment: datetime) -> None:
    found = next_boundary(SCHEDULE.validate_python(cron(expression)), moment)
    assert found == Crontab(expression).after(moment)
    assert found.tzinfo is UTC


@examples(60)
@given(expression=expressions, moment=moments, minutes=st.integers(1, 2000))
def test_cron_slots_are_all_the_minutes_that_match(expression: str, moment: datetime, minutes: int) -> None:
    first = moment.replace(second=0, microsecond=0)
    rule = Crontab(expression)
    each = (first + number * MINUTE for number in range(minutes))
    expected = [minute for minute in each if minute > moment and rule.has(minute)]
    until = first + (minutes - 1) * MINUTE
    assert list(slots_between(settings(cron(expression)), moment, until)) == expected


@examples(150)
@given(expression=expressions, moment=moments)
def test_cron_agrees_with_croniter(expression: str, moment: datetime) -> None:
    rule = Crontab(expression)
    # croniter takes `0-6` for a star, crontab(5) goes by what is written.
    assume(rule.both or (len(rule.days) < 31 and len(rule.weekdays) < 7))
    # croniter counts in floating-point seconds, which round a microsecond away.
    moment = moment.replace(microsecond=0)
    oracle = croniter(expression, moment, ret_type=datetime, day_or=not rule.both)
    found = moment
    for _ in range(3):
        found = next_boundary(SCHEDULE.validate_python(cron(expression)), found)
        assert found == oracle.get_next()


schedules = st.one_of(calendars, expressions.map(cron))


@examples(150)
@given(schedule=schedules, moment=moments, where=st.floats(0, 1, exclude_max=True))
def test_slots_only_go_forward_and_none_is_skipped(schedule: dict[str, Any], moment: datetime, where: float) -> None:
    form = SCHEDULE.validate_python(schedule)
    for _ in range(3):
        found = next_boundary(form, moment)
        assert found is not None
        assert found > moment
        between = moment + timedelta(microseconds=(found - moment) // TICK * where)
        assert next_boundary(form, min(between, found - TICK)) == next_boundary(form, found - TICK) == found
        moment = found


@pytest.mark.parametrize(
    ("timeframe", "slot", "interval"),
    [
        pytest.param(
            {"unit": "hour", "count": 4}, "2026-03-29T04:00", ("2026-03-29T00:00", "2026-03-29T04:00"), id="4 - 4 = 0 h"
        ),
        pytest.param(
            {"unit": "hour"}, "2026-03-29T04:17", ("2026-03-29T03:00", "2026-03-29T04:00"), id="aligned to the hour"
        ),
        pytest.param(
            {"unit": "hour", "align": False}, "2026-03-29T04:17", ("2026-03-29T03:17", "2026-03-29T04:17"),
            id="not aligned",
        ),
        pytest.param(
            {"unit": "day"}, "2026-01-01T08:00", ("2025-12-31T00:00", "2026-01-01T00:00"), id="the last of a year"
        ),
        pytest.param(
            {"unit": "day"}, "2026-03-30T00:00", ("2026-03-29T00:00", "2026-03-30T00:00"),
            id="Berlin's day of 23 hours has 24 here",
        ),
        pytest.param(
            {"unit": "day"}, "2100-03-01T06:00", ("2100-02-28T00:00", "2100-03-01T00:00"), id="no leap day in 2100"
        ),
        pytest.param(
            {"unit": "week"}, "2026-11-25T13:00", ("2026-11-16T00:00", "2026-11-23T00:00"), id="weeks start on Monday"
        ),
        pytest.param(
            {"unit": "week"}, "2026-11-23T00:00", ("2026-11-16T00:00", "2026-11-23T00:00"), id="on a Monday, 23 - 7"
        ),
        pytest.param(
            {"unit": "week"}, "2026-11-22T23:59:59.999999", ("2026-11-09T00:00", "2026-11-16T00:00"),
            id="a microsecond before Monday",
        ),
        pytest.param(
            {"unit": "month"}, "2028-03-01T00:00", ("2028-02-01T00:00", "2028-03-01T00:00"), id="a leap February"
        ),
        pytest.param(
            {"unit": "month", "count": 13}, "2026-01-15T00:00", ("2024-12-01T00:00", "2026-01-01T00:00"),
            id="13 months over two New Years",
        ),
        pytest.param(
            {"unit": "month", "align": False}, "2026-03-31T10:00", ("2026-02-28T10:00", "2026-03-31T10:00"),
            id="a month before 31 March is the last of February",
        ),
        pytest.param(
            {"unit": "month", "count": 12, "align": False}, "2028-02-29T10:00",
            ("2027-02-28T10:00", "2028-02-29T10:00"), id="a year before a leap day",
        ),
    ],
)  # fmt: skip
def test_the_last_units_before_a_slot(timeframe: dict[str, Any], slot: str, interval: tuple[str, str]) -> None:
    last = TIMEFRAME.validate_python({"kind": "last", **timeframe})
    begin, end = map(utc, interval)
    assert data_interval(last, utc(slot), timedelta(0)) == (begin, end)
    # Units that were over an hour before the slot are settled; others are moved back until they are.
    moved = max(timedelta(0), HOUR - (utc(slot) - end))
    assert data_interval(last, utc(slot), HOUR) == (begin - moved, end - moved)


@pytest.mark.parametrize(
    ("timeframe", "exported_to", "interval"),
    [
        pytest.param(ALL, None, (None, "2026-03-29T03:50"), id="all: 04:00 - 10 min"),
        pytest.param(
            {"kind": "fixed", "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}, None,
            ("2026-01-01T00:00", "2026-02-01T00:00"), id="fixed is what is written",
        ),
        pytest.param(
            {"kind": "since_last_run", "from": "2026-01-01T00:00:00Z"}, None,
            ("2026-01-01T00:00", "2026-03-29T03:50"), id="since the beginning",
        ),
        pytest.param(
            {"kind": "since_last_run", "from": "2026-01-01T00:00:00Z"}, "2026-03-28T03:50",
            ("2026-03-28T03:50", "2026-03-29T03:50"), id="since the last run",
        ),
        pytest.param(
            {"kind": "since_last_run", "from": "2026-03-29T00:00:00Z"}, "2026-03-28T03:50",
            ("2026-03-29T00:00", "2026-03-29T03:50"), id="`from` was moved forward by an edit",
        ),
        pytest.param(
            {"kind": "since_last_run", "from": "2026-01-01T00:00:00Z"}, "2026-03-29T03:55",
            ("2026-03-29T03:55", "2026-03-29T03:55"), id="nothing is left, and the interval is not turned round",
        ),
        pytest.param(
            {"kind": "since_last_run", "from": "2027-01-01T00:00:00Z"}, None,
            ("2027-01-01T00:00", "2027-01-01T00:00"), id="`from` is still to come",
        ),
    ],
)  # fmt: skip
def test_the_other_intervals_of_a_slot_when_ten_minutes_settle(
    timeframe: dict[str, Any], exported_to: str | None, interval: tuple[str | None, str]
) -> None:
    exported = utc(exported_to) if exported_to else None
    found = data_interval(
        TIMEFRAME.validate_python(timeframe), utc("2026-03-29T04:00"), timedelta(minutes=10), exported
    )
    assert found == (utc(interval[0]) if interval[0] else None, utc(interval[1]))


def start_of(unit: Unit, moment: datetime) -> datetime:
    """The same as the function under test promises, by another library."""
    day = {"hour": 0, "minute": 0, "second": 0, "microsecond": 0}
    match unit:
        case Unit.HOUR:
            return moment + relativedelta(minute=0, second=0, microsecond=0)
        case Unit.DAY:
            return moment + relativedelta(**day)
        case Unit.WEEK:
            return moment + relativedelta(weekday=MO(-1), **day)
        case Unit.MONTH:
            return moment + relativedelta(day=1, **day)


settling = st.one_of(st.just(timedelta(0)), st.timedeltas(timedelta(0), timedelta(hours=50)))


@examples(300)
@given(slot=moments, unit=st.sampled_from(Unit), count=st.integers(1, 1000), align=st.booleans(), settle=settling)
def test_the_last_units_are_those_of_the_calendar(
    slot: datetime, unit: Unit, count: int, align: bool, settle: timedelta
) -> None:
    end = start_of(unit, slot) if align else slot
    begin = end - relativedelta(**{UNITS[unit]: count})
    last = TIMEFRAME.validate_python({"kind": "last", "unit": unit, "count": count, "align": align})
    moved = max(timedelta(0), settle - (slot - end))
    assert data_interval(last, slot, settle) == (begin - moved, end - moved)
    assert slot - data_interval(last, slot, settle)[1] >= settle
    assert slots.floor_to_unit(slot, unit) == start_of(unit, slot)


whole = st.one_of(
    st.sampled_from(EVERY).map(lambda every: (hourly(every), {"unit": "hour", "count": every})),
    st.tuples(dailies, st.just({"unit": "day"})),
    st.tuples(st.builds(weekly, st.sampled_from(DAYS), times), st.just({"unit": "week"})),
    st.tuples(monthlies, st.just({"unit": "month"})),
    st.tuples(dailies, st.just({"unit": "day", "align": False})),
    st.tuples(st.builds(weekly, st.sampled_from(DAYS), times), st.just({"unit": "week", "align": False})),
)


@examples(200)
@given(pair=whole, now=moments, settle=settling)
def test_intervals_as_long_as_the_schedule_leave_no_gap_and_no_overlap(
    pair: tuple[dict[str, Any], dict[str, Any]], now: datetime, settle: timedelta
) -> None:
    job = settings(pair[0], {"kind": "last", **pair[1]})
    chain = islice(slots_between(job, now, now + timedelta(days=200)), 5)
    intervals = [data_interval(job.timeframe, slot, settle) for slot in chain]
    assert len(intervals) == 5
    assert all(before[1] == after[0] for before, after in pairwise(intervals))


@examples(100)
@given(schedule=calendars, now=moments, settle=settling, failures=st.sets(st.integers(0, 7)))
def test_since_last_run_leaves_no_gap_and_no_overlap_whichever_runs_fail(
    schedule: dict[str, Any], now: datetime, settle: timedelta, failures: set[int]
) -> None:
    begin = now - timedelta(days=2)
    job = settings(schedule, {"kind": "since_last_run", "from": begin.isoformat()})
    reached: datetime | None = None
    for number, slot in enumerate(islice(slots_between(job, now, now + timedelta(days=400)), 8)):
        from_, to = data_interval(job.timeframe, slot, settle, reached)
        assert from_ == (reached or begin)
        assert to == max(from_, slot - settle)
        reached = reached if number in failures else to


@pytest.mark.parametrize(
    ("job", "jitter", "seconds"),
    [
        # Computed once: every replica and every later release must find the same.
        pytest.param(JOB, "PT5M", 9.986, id="five minutes"),
        pytest.param(JOB, "P1D", 84909.986, id="a day"),
        pytest.param(UUID(int=1), "PT5M", 126.528, id="another job"),
        pytest.param(JOB, "PT0.001S", 0, id="one millisecond has room for one moment"),
        pytest.param(JOB, "PT0S", 0, id="none"),
    ],
)
def test_a_slot_is_acted_on_at_a_moment_that_everybody_finds(job: UUID, jitter: str, seconds: float) -> None:
    slot = utc("2026-03-29T04:00")
    assert slots.due_at(job, settings(hourly(4), jitter=jitter), slot) == slot + timedelta(seconds=seconds)


def test_jitter_is_spread_evenly_and_stays_below_its_bound() -> None:
    jittered = settings(hourly(1), jitter="PT1000S")
    begin = utc("2026-01-01T00:00")
    delays = [slots.due_at(JOB, jittered, begin + hour * HOUR) - begin - hour * HOUR for hour in range(10_000)]
    assert all(timedelta(0) <= delay < timedelta(seconds=1000) for delay in delays)
    tenths = [sum(delay // timedelta(seconds=100) == tenth for delay in delays) for tenth in range(10)]
    # 1000 are expected in each, with a standard deviation of sqrt(10000 · 0.1 · 0.9) = 30; the inputs never change.
    assert all(abs(number - 1000) < 5 * 30 for number in tenths)


@examples(100)
@given(slot=moments, job=st.uuids(), jitter=st.timedeltas(timedelta(0), DAY))
def test_jitter_delays_by_less_than_its_bound(slot: datetime, job: UUID, jitter: timedelta) -> None:
    delay = slots.due_at(job, settings(hourly(1), jitter=jitter), slot) - slot
    assert timedelta(0) <= delay < max(jitter, TICK)


@pytest.mark.parametrize(
    ("job", "settle", "expected"),
    [
        pytest.param(
            settings(daily("06:00"), ALL), "PT0S",
            [("05-01T00:00", "05-01T06:00"), ("05-01T06:00", "05-02T06:00"), ("05-02T06:00", "05-03T00:00")],
            id="a stretch between boundaries each, the outer ones cut",
        ),
        pytest.param(
            settings(daily("00:30"), {"kind": "since_last_run", "from": "2026-01-01T00:00:00Z"}), "PT30M",
            [("05-01T00:00", "05-02T00:00"), ("05-02T00:00", "05-03T00:00")],
            id="cut where the job's own runs ended, 00:30 - 30 min",
        ),
        pytest.param(
            settings(hourly(24), {"kind": "last", "unit": "day"}), "PT10M",
            [("04-30T23:50", "05-01T23:50"), ("05-01T23:50", "05-02T23:50"), ("05-02T23:50", "05-03T23:50")],
            id="a `last` job's own intervals, the outer ones whole",
        ),
        pytest.param(
            settings({"kind": "once"}, ALL, start="immediately"), "PT10M", [("05-01T00:00", "05-03T00:00")],
            id="a one-time job is asked once",
        ),
    ],
)  # fmt: skip
def test_a_backfill_of_two_days_is_divided(job: JobSettings, settle: str, expected: list[tuple[str, str]]) -> None:
    settled = TypeAdapter(timedelta).validate_python(settle)
    found = pieces(job, utc("2026-05-01T00:00"), utc("2026-05-03T00:00"), settled, utc("2026-06-01T00:00"))
    intervals = [(piece.interval_from, piece.interval_to) for piece in found]
    assert intervals == [(utc(f"2026-{begin}"), utc(f"2026-{end}")) for begin, end in expected]


def test_an_interval_that_ends_where_the_wanted_begins_is_left_out_and_a_slot_due_now_is_not() -> None:
    """An hour settles: the slots 01:00, 02:00 and 03:00 export the hours from 23:00, 00:00 and 01:00."""
    wanted = pieces(
        settings(hourly(1)), utc("2026-05-01T00:00"), utc("2026-05-01T02:00"), HOUR, utc("2026-05-01T03:00")
    )
    assert [piece.at for piece in wanted] == [utc("2026-05-01T02:00"), utc("2026-05-01T03:00")]
    early = pieces(settings(hourly(1)), utc("2026-05-01T00:00"), utc("2026-05-01T02:00"), HOUR, utc("2026-05-01T02:59"))
    assert [piece.at for piece in early] == [utc("2026-05-01T02:00")]


def test_a_month_before_a_later_slot_may_begin_earlier() -> None:
    """Hourly slots of the last month, and the first hour of 28 February is wanted.

    The slots from its end to 28 March 00:00, 28 · 24 = 672 of them, begin before 01:00. The next 23 begin later, and
    then so do all but the midnights of 29, 30 and 31 March: February has no such days, so they begin on its 28th too.
    """
    job = settings(hourly(1), {"kind": "last", "unit": "month", "align": False})
    end = utc("2026-02-28T01:00")
    found = [piece.at for piece in pieces(job, end - HOUR, end, timedelta(0), utc("2026-05-01T00:00"))]
    assert found[:-3] == [end + number * HOUR for number in range(672)]
    assert found[-3:] == [utc(f"2026-03-{day}T00:00") for day in (29, 30, 31)]


sparse = st.sampled_from(
    ("0 */5 * * *", "30 6 * * 1-5", "0 0 1,15 * *", "15 12 13 * fri", "0 0 */9 * 2", "0 0 31 * *")
).map(cron)
lasts = st.fixed_dictionaries(
    {"kind": st.just("last"), "unit": st.sampled_from(Unit), "count": st.integers(1, 3), "align": st.booleans()}
)
others = st.one_of(
    st.just(ALL),
    st.just({"kind": "since_last_run", "from": "1900-01-01T00:00:00Z"}),
    st.just({"kind": "fixed", "from": "1900-01-01T00:00:00Z", "to": "1900-02-01T00:00:00Z"}),
)
stretches = st.timedeltas(TICK, timedelta(days=20))


@examples(150)
@given(schedule=calendars | sparse, timeframe=others, begin=moments, length=stretches, settle=settling)
def test_pieces_tile_what_is_wanted_and_are_cut_where_runs_end(
    schedule: dict[str, Any], timeframe: dict[str, Any], begin: datetime, length: timedelta, settle: timedelta
) -> None:
    end = begin + length
    job = settings(schedule, timeframe)
    found = list(pieces(job, begin, end, settle, now=end + DAY))
    assert (found[0].interval_from, found[-1].interval_to) == (begin, end)
    assert all(before.interval_to == after.interval_from for before, after in pairwise(found))
    assert all(piece.at == piece.interval_to > piece.interval_from for piece in found)
    ends = [slot - settle for slot in slots_between(settings(schedule), begin + settle, end + settle)]
    assert [piece.interval_to for piece in found[:-1]] == [moment for moment in ends if moment < end]


@examples(150)
@given(
    schedule=calendars | sparse, timeframe=lasts, begin=moments, length=stretches, settle=settling,
    since=st.timedeltas(timedelta(0), timedelta(days=110)),
)  # fmt: skip
def test_pieces_of_a_last_job_are_all_its_intervals_that_touch_what_is_wanted(
    schedule: dict[str, Any], timeframe: dict[str, Any], begin: datetime, length: timedelta, settle: timedelta,
    since: timedelta,
) -> None:  # fmt: skip
    end, now = begin + length, begin + since
    job = settings(schedule, timeframe)
    # Three months, a week of alignment and the settling at most lie between an interval's begin and its slot.
    every = slots_between(settings(schedule), begin - timedelta(days=10), now)
    touching = [
        Piece(slot, from_, to)
        for slot, (from_, to) in ((slot, data_interval(job.timeframe, slot, settle)) for slot in every)
        if from_ is not None and from_ < end and to > begin
    ]
    assert list(pieces(job, begin, end, settle, now)) == touching


@examples(50)
@given(begin=moments, length=stretches, settle=settling)
def test_a_one_time_job_is_asked_for_everything_at_once(begin: datetime, length: timedelta, settle: timedelta) -> None:
    once = settings({"kind": "once"}, start="immediately")
    assert list(pieces(once, begin, begin + length, settle, begin)) == [Piece(begin + length, begin, begin + length)]


NOON = utc("2026-05-05T12:00")


def at(hour: int) -> datetime:
    return NOON + hour * HOUR


bounds = st.tuples(st.integers(0, 12), st.integers(0, 12)).filter(lambda pair: pair[0] < pair[1])
wanted_pieces = st.lists(bounds.map(lambda pair: Piece(at(pair[1]), at(pair[0]), at(pair[1]))), max_size=6)
answers_given = st.lists(
    st.builds(
        lambda pair, everything, failed: Answer(None if everything else at(pair[0]), at(pair[1]), failed),
        bounds, st.booleans(), st.booleans(),
    ),
    max_size=6,
)  # fmt: skip


def hours_of(begin: datetime | None, end: datetime) -> set[int]:
    return {hour for hour in range(-1, 13) if (begin is None or at(hour) >= begin) and at(hour) < end}


@examples(300)
@given(wanted=wanted_pieces, answers=answers_given)
def test_what_is_outstanding_has_no_answer_that_counts(wanted: list[Piece], answers: list[Answer]) -> None:
    def unanswered(counting: list[Answer]) -> list[Piece]:
        held = [hours_of(answer.interval_from, answer.interval_to) for answer in counting]
        return [
            piece for piece in wanted if not any(hours_of(piece.interval_from, piece.interval_to) <= h for h in held)
        ]

    assert list(slots.outstanding(wanted, answers, "missing")) == unanswered(answers)
    succeeded = [answer for answer in answers if not answer.failed]
    assert list(slots.outstanding(wanted, answers, "missing_and_failed")) == unanswered(succeeded)
    assert list(slots.outstanding(wanted, answers, "all")) == wanted


@examples(100)
@given(
    schedule=calendars | sparse, timeframe=st.one_of(lasts, others), begin=moments, length=stretches, settle=settling
)
def test_nothing_is_missing_once_everything_was_asked_for(
    schedule: dict[str, Any], timeframe: dict[str, Any], begin: datetime, length: timedelta, settle: timedelta
) -> None:
    end = begin + length
    wanted = list(pieces(settings(schedule, timeframe), begin, end, settle, now=end + DAY))
    failed = [Answer(piece.interval_from, piece.interval_to, failed=True) for piece in wanted]
    assert list(slots.outstanding(wanted, failed, "missing")) == []
    assert list(slots.outstanding(wanted, failed, "missing_and_failed")) == wanted
    done = [Answer(piece.interval_from, piece.interval_to, failed=False) for piece in wanted]
    assert list(slots.outstanding(wanted, failed + done, "missing_and_failed")) == []


@examples(100)
@given(schedule=calendars, begin=moments, length=stretches, settle=settling)
def test_what_a_since_last_run_job_exported_by_its_schedule_is_not_missing(
    schedule: dict[str, Any], begin: datetime, length: timedelta, settle: timedelta
) -> None:
    job = settings(schedule, {"kind": "since_last_run", "from": "1900-01-01T00:00:00Z"})
    answers: list[Answer] = []
    reached = begin - timedelta(days=40)
    for slot in slots_between(job, begin - timedelta(days=35), begin + length + timedelta(days=40)):
        from_, to = data_interval(job.timeframe, slot, settle, reached)
        answers.append(Answer(from_, to, failed=False))
        reached = to
    wanted = pieces(job, begin, begin + length, settle, now=begin + length + DAY)
    assert list(slots.outstanding(wanted, answers, "missing")) == []


def test_a_run_is_named_by_its_job_and_slot_and_nothing_else() -> None:
    slot = slots.scheduled_slot(utc("2026-03-29T04:00"))
    assert (slot.key, slot.at, slot.trigger) == ("schedule:2026-03-29T04:00:00Z", utc("2026-03-29T04:00"), "schedule")
    # The UUIDv5 of this job and slot key, computed once; it must never change.
    assert slots.run_id(JOB, slot.key) == UUID("6690a1d5-d24d-57e7-b3ee-8251506c6d34")
    assert slots.run_id(JOB, "schedule:2026-03-29T05:00:00Z") != slots.run_id(JOB, slot.key)
    assert slots.run_id(UUID(int=1), slot.key) != slots.run_id(JOB, slot.key)


@pytest.mark.parametrize("trigger", [Trigger.IMMEDIATE, Trigger.MANUAL, Trigger.RETRY])
def test_a_commanded_slot_is_named_by_its_command(trigger: Trigger) -> None:
    slot = slots.commanded_slot(trigger, JOB, utc("2026-03-29T04:00"))
    assert (slot.key, slot.trigger) == (f"{trigger.value}:{JOB}", trigger)
    assert slots.backfill_of(slot) is None


def test_a_slot_of_a_backfill_knows_it() -> None:
    slot = slots.backfilled_slot(JOB, utc("2026-03-29T04:00:00.5"))
    assert slot.key == f"backfill:{JOB}:2026-03-29T04:00:00.500000Z"
    assert slots.backfill_of(slot) == JOB
    assert slots.backfill_of(slots.scheduled_slot(utc("2026-03-29T04:00"))) is None
