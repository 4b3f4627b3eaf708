"""Slot arithmetic: when a job is due, which data a slot covers, and how slots and runs are named. Pure, UTC only."""

from calendar import monthrange
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, assert_never
from uuid import UUID, uuid5

from shared.clock import floor_to, utc_text
from shared.events import Question, RunRequested, ScheduleCompleted, ScheduleComputed, ScheduleEvent, Slot, Trigger
from shared.jobs import AllData, Fixed, Hourly, JobSettings, Last, Once, Timeframe, Unit

UNIT_LENGTHS: Final = {Unit.HOUR: timedelta(hours=1), Unit.DAY: timedelta(days=1), Unit.WEEK: timedelta(weeks=1)}


@dataclass(frozen=True, slots=True)
class Plan:
    """A job as the scheduler knows it; `next_slot_at` is None when nothing is due any more."""

    job_id: UUID
    tenant: str
    job_version: int
    settings: JobSettings
    next_slot_at: datetime | None


def first_slot(settings: JobSettings, now: datetime) -> datetime | None:
    """The first slot of a job created, edited or resumed at `now`."""
    match settings.schedule:
        case Once():
            return settings.start if isinstance(settings.start, datetime) else None
        case Hourly(every=every):
            start = settings.start if isinstance(settings.start, datetime) else None
            # A slot at `start` itself counts, so the search begins just before it.
            after = now if start is None or start <= now else start - timedelta(microseconds=1)
            return _before_end(settings, _next_boundary(after, every))
        case _:
            assert_never(settings.schedule)


def following_slot(settings: JobSettings, slot_at: datetime) -> datetime | None:
    """The slot after `slot_at`, whatever time it is now."""
    match settings.schedule:
        case Once():
            return None
        case Hourly(every=every):
            return _before_end(settings, _next_boundary(slot_at, every))
        case _:
            assert_never(settings.schedule)


def _next_boundary(after: datetime, hours: int) -> datetime:
    step = timedelta(hours=hours)
    return floor_to(after, step) + step


def _before_end(settings: JobSettings, slot_at: datetime) -> datetime | None:
    return slot_at if settings.ends_at is None or slot_at < settings.ends_at else None


def data_interval(timeframe: Timeframe, slot_at: datetime, settle: timedelta) -> tuple[datetime | None, datetime]:
    """The half-open interval a slot exports; relative ones end `settle` before the slot, so that late rows are in."""
    match timeframe:
        case AllData():
            return None, slot_at - settle
        case Fixed(from_=from_, to=to):
            return from_, to
        case Last(count=count, unit=unit, align=align):
            end = floor_to_unit(slot_at, unit) if align else slot_at
            return minus_units(end, count, unit) - settle, end - settle
        case _:
            assert_never(timeframe)


def floor_to_unit(moment: datetime, unit: Unit) -> datetime:
    """The start of the calendar unit that `moment` lies in.

    >>> from datetime import UTC
    >>> floor_to_unit(datetime(2026, 11, 25, 13, 5, tzinfo=UTC), Unit.WEEK).isoformat()  # a Wednesday
    '2026-11-23T00:00:00+00:00'
    """
    if unit is Unit.HOUR:
        return floor_to(moment, timedelta(hours=1))
    midnight = floor_to(moment, timedelta(days=1))
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
    if unit is not Unit.MONTH:
        return moment - count * UNIT_LENGTHS[unit]
    months = moment.year * 12 + moment.month - 1 - count
    year, month = divmod(months, 12)
    return moment.replace(year=year, month=month + 1, day=min(moment.day, monthrange(year, month + 1)[1]))


def scheduled_slot(slot_at: datetime) -> Slot:
    """The slot of a due boundary."""
    return Slot(key=f"schedule:{utc_text(slot_at)}", at=slot_at, trigger=Trigger.SCHEDULE)


def immediate_slot(command_id: UUID, at: datetime) -> Slot:
    """The slot of a job submitted to run at once; the submission is the command."""
    return Slot(key=f"immediate:{command_id}", at=at, trigger=Trigger.IMMEDIATE)


def run_id(job_id: UUID, slot_key: str) -> UUID:
    """The run of a slot: the same for everybody who asks."""
    return uuid5(job_id, slot_key)


def request(plan: Plan, slot: Slot, *, settle: timedelta, now: datetime) -> RunRequested:
    """The run of `slot`, with all of its question."""
    settings = plan.settings
    interval_from, interval_to = data_interval(settings.timeframe, slot.at, settle)
    return RunRequested(
        occurred_at=now,
        tenant=plan.tenant,
        job_id=plan.job_id,
        job_version=plan.job_version,
        run_id=run_id(plan.job_id, slot.key),
        slot=slot,
        title=settings.title,
        retry=settings.retry,
        question=Question(
            source=settings.source,
            type=settings.type,
            media_types=settings.media_types,
            interval_from=interval_from,
            interval_to=interval_to,
            split_bytes=settings.split_bytes,
            format=settings.format,
            encryption=settings.encryption,
            recipients=settings.recipients,
        ),
    )


def announcement(plan: Plan, now: datetime) -> ScheduleEvent:
    """What is told after a slot was requested or a schedule changed: the next slot, or that a one-time job is done."""
    about = {"occurred_at": now, "tenant": plan.tenant, "job_id": plan.job_id, "job_version": plan.job_version}
    if plan.next_slot_at is None and isinstance(plan.settings.schedule, Once):
        return ScheduleCompleted.model_validate(about)
    return ScheduleComputed.model_validate({**about, "next_slot_at": plan.next_slot_at})
