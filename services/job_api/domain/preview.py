"""What a job would do: its next slots and their data, in UTC and by the clocks of a place, and what to beware of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, pairwise
from typing import Final, Literal
from zoneinfo import ZoneInfo

from services.job_api.domain.errors import Fault, SettingsRefused
from shared import slots
from shared.clock import utc_text
from shared.events import Trigger
from shared.jobs import AllData, Fixed, JobSettings, Last, Once, SinceLastRun

SHOWN: Final = 10
CLOCK_CHANGE_AHEAD: Final = timedelta(days=396)
"""Thirteen months: whoever looks sees both changes of a year."""
_STEP: Final = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class ShownSlot:
    """A slot, by UTC and by the clocks of the zone, with the data it would export."""

    at: datetime
    local: datetime
    trigger: Trigger
    interval_from: datetime | None
    interval_to: datetime


@dataclass(frozen=True, slots=True)
class ClockChange:
    """The next change of the zone's offset, and what it does to the local times of slots."""

    at: datetime
    offset_before: timedelta
    offset_after: timedelta
    message: str


@dataclass(frozen=True, slots=True)
class Seam:
    """Data between two slots that neither exports, or that both do."""

    kind: Literal["gap", "overlap"]
    begin: datetime
    end: datetime
    before: datetime
    """The slot it comes after."""
    after: datetime
    """The slot it comes before."""


@dataclass(frozen=True, slots=True)
class Preview:
    """All that is told before saving."""

    slots: tuple[ShownSlot, ...]
    clock_change: ClockChange | None
    seams: tuple[Seam, ...]
    warnings: tuple[str, ...]


def zone_named(name: str) -> ZoneInfo:
    """The zone of an IANA name; raises SettingsRefused."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        # A folder of zones, such as Europe, is an OSError; a path out of the database is a ValueError.
        remedy = "Use an IANA name such as Europe/Berlin."
        raise SettingsRefused([Fault("/zone", "is not a time zone", remedy)]) from error


def preview(settings: JobSettings, zone: ZoneInfo, now: datetime, settle: timedelta) -> Preview:
    """The next slots as the scheduler will compute them."""
    shown = tuple(_shown(settings, zone, now, settle))
    scheduled = [slot for slot in shown if slot.trigger is Trigger.SCHEDULE]
    seams = tuple(_seams(scheduled)) if isinstance(settings.timeframe, Last) else ()
    change = clock_change(zone, now, scheduled)
    return Preview(shown, change, seams, tuple(_warnings(settings, shown, seams)))


def _shown(settings: JobSettings, zone: ZoneInfo, now: datetime, settle: timedelta) -> Iterator[ShownSlot]:
    exported_to: datetime | None = None
    for at, trigger in islice(_slots(settings, now), SHOWN):
        interval_from, interval_to = slots.data_interval(settings.timeframe, at, settle, exported_to)
        yield ShownSlot(at, at.astimezone(zone), trigger, interval_from, interval_to)
        exported_to = interval_to


def _slots(settings: JobSettings, now: datetime) -> Iterator[tuple[datetime, Trigger]]:
    if settings.immediately:
        yield now, Trigger.IMMEDIATE
    slot = slots.first_slot(settings, now)
    while slot is not None:
        yield slot, Trigger.SCHEDULE
        slot = slots.following_slot(settings, slot)


def _seams(shown: Sequence[ShownSlot]) -> Iterator[Seam]:
    for one, other in pairwise(shown):
        if other.interval_from is None or other.interval_from == one.interval_to:
            continue
        if other.interval_from > one.interval_to:
            yield Seam("gap", one.interval_to, other.interval_from, one.at, other.at)
        else:
            yield Seam("overlap", other.interval_from, min(one.interval_to, other.interval_to), one.at, other.at)


def clock_change(zone: ZoneInfo, now: datetime, shown: Sequence[ShownSlot]) -> ClockChange | None:
    """The next change of the zone's offset within thirteen months; none for a zone that keeps its own."""
    before = _offset(zone, now)
    early = now
    while early < now + CLOCK_CHANGE_AHEAD:
        late = early + _STEP
        if (after := _offset(zone, late)) != before:
            at = _changed_at(zone, early, late)
            return ClockChange(at, before, after, _told(zone, at, before, after, shown))
        early = late
    return None


def _changed_at(zone: ZoneInfo, early: datetime, late: datetime) -> datetime:
    """The minute at which the offset changes between two moments with different ones."""
    before = _offset(zone, early)
    minutes = (late - early) // timedelta(minutes=1)
    # Changes happen on whole minutes of UTC.
    start = early.replace(second=0, microsecond=0)
    low, high = 0, minutes + 1
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(zone, start + timedelta(minutes=middle)) == before:
            low = middle
        else:
            high = middle
    return start + timedelta(minutes=high)


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta(0)


def _told(
    zone: ZoneInfo, at: datetime, before: timedelta, after: timedelta, shown: Sequence[ShownSlot]
) -> str:  # fmt: skip
    moved = "earlier" if after < before else "later"
    by = abs(after - before)
    hours = f"{by // timedelta(hours=1)} h" if by % timedelta(hours=1) == timedelta(0) else f"{by.seconds // 60} min"
    text = f"Slots keep their UTC times: from {utc_text(at)} on they come {hours} {moved} by the clocks of {zone.key}"
    if not shown:
        return f"{text}."
    time = shown[0].at
    then, later = ((time + offset).strftime("%H:%M") for offset in (before, after))
    return f"{text}; the slot of {time:%H:%M} UTC is at {then} there before, and at {later} after."


def _warnings(settings: JobSettings, shown: Sequence[ShownSlot], seams: Sequence[Seam]) -> Iterator[str]:
    for kind, what in (("gap", "is exported by no run"), ("overlap", "is exported twice")):
        found = [seam for seam in seams if seam.kind == kind]
        if found:
            first = found[0]
            more = f", and so on: {len(found)} times in the slots shown" if len(found) > 1 else ""
            yield f"Data from {utc_text(first.begin)} to {utc_text(first.end)} {what}{more}."
    recurring = not isinstance(settings.schedule, Once)
    match settings.timeframe:
        case AllData() if recurring:
            yield "Each run exports everything up to its slot."
        case Fixed() if recurring:
            yield "Every run exports the same interval."
        case SinceLastRun():
            yield "Each run continues where the last successful one ended: no gap, no overlap."
        case _:
            pass
    if settings.jitter:
        yield (
            f"Runs start up to {_spoken(settings.jitter)} after their slot (jitter); the data intervals do not change."
        )
    if len(shown) < SHOWN and recurring:
        yield f"The schedule ends after {len(shown)} slots."


def _spoken(duration: timedelta) -> str:
    minutes, seconds = divmod(int(duration.total_seconds()), 60)
    parts = [f"{minutes} min"] if minutes else []
    return " ".join([*parts, f"{seconds} s"] if seconds or not parts else parts)
