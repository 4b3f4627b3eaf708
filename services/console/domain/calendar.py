"""A job's coverage as a month of days, each with what became of its data."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from shared import slots
from shared.jobs import Last

DAY: Final = timedelta(days=1)
STATES: Final = {
    "exported": "Exported",
    "overlapping": "Exported more than once",
    "in_progress": "On its way",
    "missing": "Missing",
    "pending": "Not due yet",
}
"""What became of a stretch of data; `pending` is what nobody misses yet."""
WIDTH: Final = 96
"""Of a day's bar: a quarter of an hour is one unit."""


@dataclass(frozen=True, slots=True)
class Month:
    """A month of the calendar."""

    year: int
    number: int

    @classmethod
    def read(cls, text: str, now: datetime) -> "Month":
        """The month in an address, as `2026-04`; the current one for anything else.

        >>> str(Month.read("2026-04", datetime(2026, 5, 1))), str(Month.read("soon", datetime(2026, 5, 1)))
        ('2026-04', '2026-05')
        """
        try:
            first = datetime.strptime(text, "%Y-%m")  # noqa: DTZ007 - only its year and month are used
        except ValueError:
            first = now
        return cls(min(max(first.year, 1970), 9000), first.month)

    def __str__(self) -> str:
        return f"{self.year:04}-{self.number:02}"

    @property
    def name(self) -> str:
        """As people write it."""
        return self.begin.strftime("%B %Y")

    @property
    def begin(self) -> datetime:
        """Its first moment, UTC."""
        return datetime(self.year, self.number, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """The first moment of the next one."""
        return self.following.begin

    @property
    def following(self) -> "Month":
        """The next one."""
        return Month(self.year + self.number // 12, self.number % 12 + 1)

    @property
    def previous(self) -> "Month":
        """The one before."""
        return Month(self.year - (self.number == 1), (self.number - 2) % 12 + 1)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a job's data."""

    begin: datetime
    end: datetime
    state: str
    runs: Sequence[str] = ()
    run_count: int = 0
    why: str | None = None
    slot_at: str | None = None

    @property
    def name(self) -> str:
        """What became of it, for people."""
        return STATES[self.state]

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.end - self.begin).total_seconds()


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch as far as it lies in one day: where its bar begins and how wide it is."""

    x: float
    width: float
    stretch: Stretch


@dataclass(slots=True)
class Day:
    """A day of the calendar; `inside` is whether it belongs to the month."""

    date: date
    inside: bool
    pieces: list[Piece] = field(default_factory=list[Piece])

    @property
    def summary(self) -> list[tuple[str, str]]:
        """The states of its data and how many hours are in each; without hours when all is in one."""
        hours: dict[str, float] = {}
        for piece in self.pieces:
            hours[piece.stretch.state] = hours.get(piece.stretch.state, 0.0) + piece.width * 24 / WIDTH
        shown = [state for state in STATES if state in hours]
        if len(shown) == 1:
            return [(shown[0], STATES[shown[0]])]
        return [(state, f"{STATES[state]} {max(hours[state], 0.1):.1f} h".replace(".0 h", " h")) for state in shown]


def expected_from(job: Mapping[str, Any] | None) -> datetime | None:
    """Where the data begins that the next slot of a job brings; None when none is due, so that nothing is on its way.

    >>> daily = {"timeframe": {"kind": "last", "unit": "day"}}
    >>> expected_from({"next_slot_at": "2026-04-25T02:30:00Z", "settings": daily})
    datetime.datetime(2026, 4, 24, 0, 0, tzinfo=datetime.timezone.utc)
    """
    if job is None or job["next_slot_at"] is None:
        return None
    match job["settings"]["timeframe"]:
        case {"kind": "last"} as frame:
            slot = datetime.fromisoformat(job["next_slot_at"])
            return slots.data_interval(Last.model_validate(frame), slot, timedelta(0))[0]
        case {"kind": "fixed"}:
            return None
        case _:
            return datetime.min.replace(tzinfo=UTC)


def stretches(segments: Iterable[Mapping[str, Any]], expected: datetime | None) -> list[Stretch]:
    """Segments as the service answers them; what is missing at their end for no reason, and will come with the next
    slot, is not due yet."""
    found = [
        Stretch(
            datetime.fromisoformat(segment["from"]), datetime.fromisoformat(segment["to"]), segment["state"],
            segment["runs"], segment["run_count"], segment["explanation"] or segment["reason"], segment["slot_at"],
        )
        for segment in segments
    ]  # fmt: skip
    if found and expected is not None and found[-1].state == "missing" and found[-1].why is None:
        last = found.pop()
        middle = min(max(last.begin, expected), last.end)
        if last.begin < middle:
            found.append(replace(last, end=middle))
        if middle < last.end:
            found.append(replace(last, begin=middle, state="pending"))
    return found


def weeks(month: Month, found: Iterable[Stretch]) -> list[list[Day]]:
    """The month's days in weeks that begin on Monday, with what became of their data."""
    first = month.begin.date() - timedelta(days=month.begin.weekday())
    last = month.end.date() + timedelta(days=-month.end.weekday() % 7)
    days = [
        Day(first + DAY * n, month.begin.date() <= first + DAY * n < month.end.date())
        for n in range((last - first).days)
    ]
    by_date = {day.date: day for day in days if day.inside}
    for stretch in found:
        midnight = datetime.combine(stretch.begin.date(), time(), UTC)
        while midnight < stretch.end:
            if day := by_date.get(midnight.date()):
                begin, end = max(stretch.begin, midnight), min(stretch.end, midnight + DAY)
                day.pieces.append(Piece(_units(begin - midnight), _units(end - begin), stretch))
            midnight += DAY
    return [days[n : n + 7] for n in range(0, len(days), 7)]


def _units(length: timedelta) -> float:
    return round(length / DAY * WIDTH, 2)
