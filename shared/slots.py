"""Slot arithmetic: when a job is due, which data a slot covers, and how slots and runs are named. Pure, UTC only.

The scheduler decides by it and `job_api` previews with it, so what is shown before saving is what happens.
"""

from bisect import bisect_right
from calendar import monthrange
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from hashlib import blake2b
from itertools import accumulate
from typing import Final, assert_never
from uuid import UUID, uuid5

from cronsim import CronSim

from shared.clock import floor_to, utc_text
from shared.events import Question, Reprocess, Slot, Trigger
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
    Unit,
    Weekday,
    Weekly,
)

UNIT_LENGTHS: Final = {Unit.HOUR: timedelta(hours=1), Unit.DAY: timedelta(days=1), Unit.WEEK: timedelta(weeks=1)}
TICK: Final = timedelta(microseconds=1)
"""The resolution of timestamps here and in PostgreSQL."""
_BEGINNING: Final = datetime.min.replace(tzinfo=UTC)
_DAY: Final = timedelta(days=1)
_WEEKDAYS: Final = tuple(Weekday)


# --- when a job is due --------------------------------------------------------------------------------------------


def first_slot(settings: JobSettings, now: datetime) -> datetime | None:
    """The first slot of a job created, edited or resumed at `now`."""
    return following_slot(settings, now)


def following_slot(settings: JobSettings, slot_at: datetime) -> datetime | None:
    """The slot after `slot_at`, whatever time it is now; `start` itself may be one, `ends_at` is none."""
    start = settings.start if isinstance(settings.start, datetime) else None
    if isinstance(settings.schedule, Once):
        return start if start is not None and start > slot_at else None
    # A slot at `start` itself counts, so the search begins just before it.
    after = slot_at if start is None or start <= slot_at else start - TICK
    boundary = next_boundary(settings.schedule, after)
    ended = boundary is None or (settings.ends_at is not None and boundary >= settings.ends_at)
    return None if ended else boundary


def slots_between(settings: JobSettings, after: datetime, until: datetime) -> Iterator[datetime]:
    """The slots later than `after` and not later than `until`, in order."""
    slot = first_slot(settings, after)
    while slot is not None and slot <= until:
        yield slot
        slot = following_slot(settings, slot)


def next_boundary(schedule: Schedule, after: datetime) -> datetime | None:
    """The first moment later than `after` at which `schedule` is due; None when there is none.

    >>> from datetime import UTC
    >>> monthly = Monthly(kind="monthly", day=31, at="06:00")
    >>> next_boundary(monthly, datetime(2027, 2, 1, tzinfo=UTC)).isoformat()
    '2027-02-28T06:00:00+00:00'
    >>> next_boundary(Cron(kind="cron", expression="0 0 29 2 *"), datetime(2096, 3, 1, tzinfo=UTC)).isoformat()
    '2104-02-29T00:00:00+00:00'
    """
    match schedule:
        case Once():
            return None
        case Hourly(every=every):
            step = timedelta(hours=every)
            return floor_to(after, step) + step
        case Daily(at=at):
            return _first_after(after, (_at(day, at) for day in _days_from(after)))
        case Weekly(days=days, at=at):
            wanted = {_WEEKDAYS.index(day) for day in days}
            return _first_after(after, (_at(day, at) for day in _days_from(after) if day.weekday() in wanted))
        case Monthly(day=day, at=at):
            return _first_after(after, (_at(_day_of_month(month, day), at) for month in _months_from(after)))
        case Cron(expression=expression):
            # StopIteration: a day that does not come again within fifty years.
            return next(CronSim(expression, after), None)
        case _:
            assert_never(schedule)


def _first_after(after: datetime, candidates: Iterator[datetime]) -> datetime:
    return next(candidate for candidate in candidates if candidate > after)


def _days_from(moment: datetime) -> Iterator[datetime]:
    midnight = floor_to(moment, _DAY)
    while True:
        yield midnight
        midnight += _DAY


def _months_from(moment: datetime) -> Iterator[datetime]:
    month = floor_to_unit(moment, Unit.MONTH)
    while True:
        yield month
        month = plus_months(month, 1)


def _day_of_month(month: datetime, day: int | str) -> datetime:
    last = monthrange(month.year, month.month)[1]
    return month.replace(day=last if isinstance(day, str) else min(day, last))


def _at(midnight: datetime, at: str) -> datetime:
    return datetime.combine(midnight, time.fromisoformat(at), midnight.tzinfo)


def due_at(job_id: UUID, settings: JobSettings, slot_at: datetime) -> datetime:
    """When a slot is acted on: itself plus its jitter, which is the same for everybody who asks.

    Whole milliseconds, spread evenly over [0, jitter).
    """
    milliseconds = settings.jitter // timedelta(milliseconds=1)
    if milliseconds == 0:
        return slot_at
    digest = blake2b(job_id.bytes + utc_text(slot_at).encode(), digest_size=8).digest()
    return slot_at + timedelta(milliseconds=int.from_bytes(digest, "big") % milliseconds)


# --- which data a slot covers -------------------------------------------------------------------------------------


def data_interval(
    timeframe: Timeframe, slot_at: datetime, settle: timedelta, exported_to: datetime | None = None
) -> tuple[datetime | None, datetime]:
    """The half-open interval a slot exports; relative ones end `settle` before the slot or earlier, so that late rows
    are in: whole calendar units where the slot is that much later, else all of it moved back as far as is needed.

    `exported_to` is where the job's last successful run ended; only `since_last_run` asks for it.
    """
    match timeframe:
        case AllData():
            return None, slot_at - settle
        case Fixed(from_=from_, to=to):
            return from_, to
        case Last(count=count, unit=unit, align=align):
            end = floor_to_unit(slot_at, unit) if align else slot_at
            moved = max(timedelta(0), settle - (slot_at - end))
            return minus_units(end, count, unit) - moved, end - moved
        case SinceLastRun(from_=from_):
            begin = max(from_, exported_to or from_)
            # A slot acted on late may be older than what was exported since; it has nothing left to export.
            return begin, max(begin, slot_at - settle)
        case _:
            assert_never(timeframe)


def question(settings: JobSettings, begin: datetime | None, end: datetime) -> Question:
    """All that a run about [`begin`, `end`) has to answer."""
    return Question(
        source=settings.source,
        type=settings.type,
        media_types=settings.media_types,
        interval_from=begin,
        interval_to=end,
        split_bytes=settings.split_bytes,
        format=settings.format,
        encryption=settings.encryption,
        recipients=settings.recipients,
        fields=settings.fields,
        masking=settings.masking or None,
        csv_profile=settings.csv_profile,
        attachments=settings.with_attachments,
    )


def floor_to_unit(moment: datetime, unit: Unit) -> datetime:
    """The start of the calendar unit that `moment` lies in.

    >>> from datetime import UTC
    >>> floor_to_unit(datetime(2026, 11, 25, 13, 5, tzinfo=UTC), Unit.WEEK).isoformat()  # a Wednesday
    '2026-11-23T00:00:00+00:00'
    """
    if unit is Unit.HOUR:
        return floor_to(moment, timedelta(hours=1))
    midnight = floor_to(moment, _DAY)
    match unit:
        case Unit.DAY:
            return midnight
        case Unit.WEEK:
            return midnight - timedelta(days=midnight.weekday())
        case Unit.MONTH:
            return midnight.replace(day=1)


def minus_units(moment: datetime, count: int, unit: Unit) -> datetime:
    """`count` units earlier; a month earlier than the 31st is the last day of a shorter month.

    >>> from datetime import UTC
    >>> minus_units(datetime(2026, 3, 31, tzinfo=UTC), 1, Unit.MONTH).date().isoformat()
    '2026-02-28'
    """
    return plus_months(moment, -count) if unit is Unit.MONTH else moment - count * UNIT_LENGTHS[unit]


def plus_months(moment: datetime, count: int) -> datetime:
    """`count` months later, on the last day of a month that is too short."""
    year, month = divmod(moment.year * 12 + moment.month - 1 + count, 12)
    return moment.replace(year=year, month=month + 1, day=min(moment.day, monthrange(year, month + 1)[1]))


# --- backfills ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Piece:
    """One slot of a backfill: `at` names it, and it exports [`interval_from`, `interval_to`)."""

    at: datetime
    interval_from: datetime
    interval_to: datetime


@dataclass(frozen=True, slots=True)
class Answer:
    """A data interval that a run of the job was asked for; `failed` when nothing came of it."""

    interval_from: datetime | None
    interval_to: datetime
    failed: bool


def pieces(settings: JobSettings, begin: datetime, end: datetime, settle: timedelta, now: datetime) -> Iterator[Piece]:
    """How a backfill of [`begin`, `end`) that is asked for at `now` is divided.

    A `last` job is asked for its own intervals, all that touch what is wanted and whose slot has passed; any other one
    for the stretches between the ends of its own intervals, `settle` before each boundary, cut to what is wanted. A
    one-time job is asked once.
    """
    timeframe = settings.timeframe
    if isinstance(settings.schedule, Once):
        yield Piece(end, begin, end)
    elif isinstance(timeframe, Last):
        # Intervals end at their slot or before it, so no earlier slot touches what is wanted.
        slot = next_boundary(settings.schedule, begin)
        while slot is not None and slot <= now:
            interval_from, interval_to = data_interval(timeframe, slot, settle)
            # A later slot may begin earlier, by less than a day: a month before 28 March 23:00 is 28 February 23:00, a
            # month before 29 March 00:00 is 28 February 00:00.
            if interval_from is None or interval_from >= end + _DAY:
                return
            if interval_to > begin and interval_from < end:
                yield Piece(slot, interval_from, interval_to)
            slot = next_boundary(settings.schedule, slot)
    else:
        cut = begin
        while cut < end:
            boundary = next_boundary(settings.schedule, cut + settle)
            until = end if boundary is None else min(boundary - settle, end)
            yield Piece(until, cut, until)
            cut = until


def outstanding(wanted: Iterable[Piece], answers: Iterable[Answer], reprocess: Reprocess) -> Iterator[Piece]:
    """The pieces to ask for again.

    `missing`: those of which not all was ever asked for at once; `missing_and_failed`: also those where nothing came of
    it; `all`: every one.
    """
    counted = [a for a in answers if reprocess == "missing" or (reprocess == "missing_and_failed" and not a.failed)]
    by_begin = sorted((answer.interval_from or _BEGINNING, answer.interval_to) for answer in counted)
    begins = [begin for begin, _ in by_begin]
    furthest = list(accumulate((end for _, end in by_begin), max))
    for piece in wanted:
        earlier = bisect_right(begins, piece.interval_from)
        if earlier == 0 or furthest[earlier - 1] < piece.interval_to:
            yield piece


# --- names --------------------------------------------------------------------------------------------------------


def scheduled_slot(slot_at: datetime) -> Slot:
    """The slot of a due boundary."""
    return Slot(key=f"schedule:{utc_text(slot_at)}", at=slot_at, trigger=Trigger.SCHEDULE)


def commanded_slot(trigger: Trigger, command_id: UUID, at: datetime) -> Slot:
    """The slot that a command makes: immediate (the submission is the command), manual or retry."""
    return Slot(key=f"{trigger}:{command_id}", at=at, trigger=trigger)


def backfilled_slot(backfill_id: UUID, at: datetime) -> Slot:
    """One slot of a backfill."""
    return Slot(key=f"{Trigger.BACKFILL}:{backfill_id}:{utc_text(at)}", at=at, trigger=Trigger.BACKFILL)


def backfill_of(slot: Slot) -> UUID | None:
    """The backfill that a slot belongs to."""
    return UUID(slot.key.split(":", 2)[1]) if slot.trigger is Trigger.BACKFILL else None


def run_id(job_id: UUID, slot_key: str) -> UUID:
    """The run of a slot: the same for everybody who asks."""
    return uuid5(job_id, slot_key)
