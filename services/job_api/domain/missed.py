"""The slots a suspended job missed, and which of them a resume would request."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from services.job_api.domain.errors import Fault, SettingsRefused
from shared import slots
from shared.events import Missed
from shared.jobs import JobSettings, SinceLastRun

MAX_MISSED: Final = 1000
"""As many as `missed: all` requests at once; more are asked for by a backfill, which has its own lane."""


@dataclass(frozen=True, slots=True)
class DatedSlot:
    """A slot with the data it would export."""

    at: datetime
    interval_from: datetime | None
    interval_to: datetime


@dataclass(frozen=True, slots=True)
class MissedSlots:
    """What a resume finds: the oldest missed slots, whether there are more, and those that would be requested."""

    since: datetime
    slots: tuple[DatedSlot, ...]
    more: bool
    requested: tuple[DatedSlot, ...]


def refuse_too_many(settings: JobSettings, since: datetime, now: datetime) -> None:
    """Raise SettingsRefused when `missed: all` would request more than `MAX_MISSED` runs."""
    if isinstance(settings.timeframe, SinceLastRun):
        return  # One run covers them all.
    if next(islice(slots.slots_between(settings, since, now), MAX_MISSED, None), None) is not None:
        remedy = 'Use "latest", or "none" and then a backfill.'
        raise SettingsRefused([Fault("/missed", f"more than {MAX_MISSED:,} slots were missed", remedy)])


def missed_slots(
    settings: JobSettings, missed: Missed, since: datetime, now: datetime, settle: timedelta,
    exported_to: datetime | None,
) -> MissedSlots:  # fmt: skip
    """What was missed later than `since`, and what `missed` makes of it; raises SettingsRefused for too many."""
    if missed == "all":
        refuse_too_many(settings, since, now)
    found = list(islice(slots.slots_between(settings, since, now), MAX_MISSED + 1))
    together = isinstance(settings.timeframe, SinceLastRun)
    wanted: list[datetime] = []
    if missed == "all" and not together:
        wanted = found
    elif missed != "none":
        wanted = list(latest(settings, since, now))

    def dated(moments: list[datetime]) -> tuple[DatedSlot, ...]:
        return tuple(DatedSlot(at, *slots.data_interval(settings.timeframe, at, settle, exported_to)) for at in moments)

    return MissedSlots(since, dated(found[:MAX_MISSED]), len(found) > MAX_MISSED, dated(wanted))


def latest(settings: JobSettings, after: datetime, until: datetime) -> Iterator[datetime]:
    """The last slot later than `after` and not later than `until`, if there is one.

    Looks back over an hour, two hours, four …, because a schedule can only be followed forwards.
    """
    span = timedelta(hours=1)
    while True:
        begin = max(after, until - span)
        found = None
        for found in slots.slots_between(settings, begin, until):  # noqa: B007 - the last one is wanted
            pass
        if found is not None:
            yield found
            return
        if begin == after:
            return
        span *= 2
