"""When jobs are due and which data a slot covers, computed by other libraries than the scheduler's own arithmetic."""

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise

from croniter import croniter
from dateutil.relativedelta import MO, relativedelta
from dateutil.rrule import DAILY, HOURLY, MONTHLY, WEEKLY, rrule

from shared.jobs import (
    AllData,
    Cron,
    Daily,
    Fixed,
    Hourly,
    JobSettings,
    Last,
    Monthly,
    Once,
    Schedule,
    SinceLastRun,
    Timeframe,
    Weekly,
)

MONTHS_AHEAD = 9 * 12
"""29 February comes within eight years."""
TICK = timedelta(microseconds=1)
Interval = tuple[datetime | None, datetime]


def slots(settings: JobSettings, after: datetime, until: datetime) -> list[datetime]:
    """The slots of a job that are later than `after` and not later than `until`."""
    start = settings.start if isinstance(settings.start, datetime) else None
    if isinstance(settings.schedule, Once):
        return [start] if start is not None and after < start <= until else []
    after = after if start is None else max(after, start - TICK)
    until = until if settings.ends_at is None else min(until, settings.ends_at - TICK)
    found = [at for month in range(_month(after), _month(until) + 1) for at in _boundaries(settings.schedule, month)]
    return found[bisect_right(found, after) : bisect_right(found, until)]


def next_slot(settings: JobSettings, after: datetime) -> datetime | None:
    """The first slot later than `after`."""
    start = settings.start if isinstance(settings.start, datetime) else after
    if isinstance(settings.schedule, Once):
        return start if start > after else None
    after = max(after, start - TICK)
    for month in range(_month(after), _month(after) + MONTHS_AHEAD):
        for at in _boundaries(settings.schedule, month):
            if at > after:
                return at if settings.ends_at is None or at < settings.ends_at else None
    return None


def _month(moment: datetime) -> int:
    return moment.year * 12 + moment.month - 1


@lru_cache(maxsize=20_000)
def _boundaries(schedule: Schedule, month: int) -> tuple[datetime, ...]:
    """When `schedule` is due in a month, by `dateutil` and `croniter`."""
    begin = datetime(month // 12, month % 12 + 1, 1)  # noqa: DTZ001 - both libraries count without zones
    return tuple(at.replace(tzinfo=UTC) for at in _naive(schedule, begin, begin + relativedelta(months=1)))


def _naive(schedule: Schedule, begin: datetime, end: datetime) -> Iterator[datetime]:
    last = end - timedelta(seconds=1)
    match schedule:
        case Hourly(every=every):
            yield from rrule(HOURLY, begin, byhour=range(0, 24, every), byminute=0, bysecond=0, until=last)
        case Daily():
            yield from rrule(DAILY, begin, **_at(schedule.at), until=last)
        case Weekly(days=days):
            names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
            wanted = [names.index(day) for day in days]
            yield from rrule(WEEKLY, begin, byweekday=wanted, **_at(schedule.at), until=last)
        case Monthly(day="last"):
            yield from rrule(MONTHLY, begin, bymonthday=-1, **_at(schedule.at), until=last)
        case Monthly(day=day):
            # The wanted day or the last one, whichever is first.
            yield from rrule(MONTHLY, begin, bymonthday=(day, -1), bysetpos=1, **_at(schedule.at), until=last)
        case Cron(expression=expression):
            times = croniter(expression, begin - timedelta(seconds=1), ret_type=datetime, max_years_between_matches=9)
            while (at := next(times)) < end:
                yield at


def _at(text: str) -> dict[str, int]:
    hour, minute = text.split(":")
    return {"byhour": int(hour), "byminute": int(minute), "bysecond": 0}


def interval(timeframe: Timeframe, at: datetime, settle: timedelta, exported_to: datetime | None) -> Interval:
    """The data a slot covers; `exported_to` is where the newest data of succeeded runs ends."""
    match timeframe:
        case AllData():
            return None, at - settle
        case Fixed():
            return timeframe.from_, timeframe.to
        case SinceLastRun():
            begin = timeframe.from_ if exported_to is None else max(exported_to, timeframe.from_)
            return begin, at - settle
        case Last(count=count, unit=unit, align=align):
            whole: dict[str, relativedelta] = {
                "hour": relativedelta(minute=0, second=0, microsecond=0),
                "day": relativedelta(hour=0, minute=0, second=0, microsecond=0),
                "week": relativedelta(weekday=MO(-1), hour=0, minute=0, second=0, microsecond=0),
                "month": relativedelta(day=1, hour=0, minute=0, second=0, microsecond=0),
            }
            end = at + whole[unit] if align else at
            begin = end - relativedelta(**{f"{unit}s": count})
            unsettled = max(timedelta(0), end - (at - settle))
            return begin - unsettled, end - unsettled


def pieces(
    settings: JobSettings, begin: datetime, end: datetime, settle: timedelta, now: datetime
) -> dict[datetime, Interval]:
    """The slots and intervals that a backfill of [`begin`, `end`) asked for at `now` consists of."""
    timeless = settings.model_copy(update={"start": None, "ends_at": None})
    if isinstance(settings.schedule, Once):
        return {end: (begin, end)}
    if isinstance(settings.timeframe, Last):
        covered = {at: interval(settings.timeframe, at, settle, None) for at in slots(timeless, begin, now)}
        return {at: (since, to) for at, (since, to) in covered.items() if since and since < end and to > begin}
    cuts = [begin, *(at - settle for at in slots(timeless, begin + settle, end + settle - TICK)), end]
    return {to: (since, to) for since, to in pairwise(cuts)}
