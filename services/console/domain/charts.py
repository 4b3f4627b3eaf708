"""Charts of days, as numbers that a template writes into an SVG."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

WIDTH: Final = 300.0
HEIGHT: Final = 80.0
_GAP: Final = 0.25
"""The part of a day's width that is left free beside its bar."""

_SEEN: Final = 2.0
"""The least height of what is not nothing: one failure among a thousand runs must not vanish."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A rectangle of a chart; `series` is what it stands for."""

    series: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    """A day of a chart: its values by series, and the rectangles that show them, lowest first."""

    day: date
    values: Mapping[str, float]
    pieces: tuple[Piece, ...]
    x: float
    width: float

    @property
    def total(self) -> float:
        """All of the day."""
        return sum(self.values.values())


@dataclass(frozen=True, slots=True)
class Chart:
    """Stacked bars, one a day; `top` is the value at full height."""

    bars: tuple[Bar, ...]
    top: float

    @property
    def total(self) -> float:
        """All of all days."""
        return sum(bar.total for bar in self.bars)


@dataclass(frozen=True, slots=True)
class Sums:
    """All days together; the rate leaves cancelled runs out and is None when none ended otherwise."""

    runs: int
    succeeded: int
    failed: int
    cancelled: int
    rows: int
    bytes: int

    @property
    def success_rate(self) -> float | None:
        """How many of the runs that were not cancelled succeeded, in percent."""
        ended = self.succeeded + self.failed
        return 100 * self.succeeded / ended if ended else None


def summed(items: Iterable[Mapping[str, Any]]) -> Sums:
    """The sum of several days."""
    found = list(items)
    names = ("runs", "succeeded", "failed", "cancelled", "rows", "bytes")
    return Sums(**{name: sum(item[name] for item in found) for name in names})


def by_day(items: Iterable[Mapping[str, Any]], first: date, last: date, series: Sequence[str]) -> Chart:
    """The days from `first` to `last`, both included, with what `items` say of them; the first series is lowest.

    >>> chart = by_day([{"day": "2026-03-02", "a": 1, "b": 3}], date(2026, 3, 1), date(2026, 3, 2), ["a", "b"])
    >>> [(piece.series, piece.y, piece.height) for piece in chart.bars[1].pieces]
    [('a', 60.0, 20.0), ('b', 0.0, 60.0)]
    """
    told = {date.fromisoformat(item["day"]): item for item in items}
    days = [first + timedelta(days=at) for at in range((last - first).days + 1)]
    values = [{name: float(told[day][name]) if day in told else 0.0 for name in series} for day in days]
    top = max((sum(each.values()) for each in values), default=0.0)
    step = WIDTH / max(len(days), 1)
    bars = (_bar(day, each, top, at * step, step) for at, (day, each) in enumerate(zip(days, values, strict=True)))
    return Chart(tuple(bars), top)


def _bar(day: date, values: Mapping[str, float], top: float, x: float, step: float) -> Bar:
    heights = {name: max(HEIGHT * value / top, _SEEN) for name, value in values.items() if value}
    if (excess := sum(heights.values()) - HEIGHT) > 0:
        heights[max(heights, key=lambda name: heights[name])] -= excess
    pieces: list[Piece] = []
    y = HEIGHT
    for name, height in heights.items():
        y -= height
        left, width = round(x + step * _GAP / 2, 2), round(step * (1 - _GAP), 2)
        pieces.append(Piece(name, left, round(y, 2), width, round(height, 2)))
    return Bar(day, values, tuple(pieces), round(x, 2), round(step, 2))
