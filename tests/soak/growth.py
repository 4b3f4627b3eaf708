"""Whether a series of measurements is flat: robust slopes of its halves, held against what it may do."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from statistics import median

Point = tuple[float, float]
"""Seconds since the beginning, and a value."""

FEWEST_POINTS = 8
"""In a half; with fewer nothing is said."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a series may grow in the second half: so much of its size, or so much at all; whichever is more.

    One that is `kept` holds what no retention of the soak reaches. It may grow, but not faster and faster: by half as
    much again as in the first half.
    """

    share: float
    least: float
    why: str
    kept: bool = False


class Judgement(StrEnum):
    """What a series does."""

    FLAT = "flat"
    STEADY = "grows steadily"
    GROWS = "grows"
    UNKNOWN = "too short"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was made of a series: its size, and by how much it grew in each half."""

    name: str
    size: float
    first: float
    second: float
    allowed: float
    judgement: Judgement


def slope(points: Sequence[Point]) -> float:
    """The median of the slopes of all pairs (Theil and Sen): a few outliers, such as restarts, do not move it.

    >>> slope([(0, 1.0), (1, 3.0), (2, 500.0), (3, 7.0), (4, 9.0)])
    2.0
    """
    return median((b - a) / (t - s) for (s, a), (t, b) in combinations(points, 2) if t > s)


def judge(name: str, points: Sequence[Point], tolerance: Tolerance) -> Verdict:
    """Hold the growth in the second half of a series against its tolerance."""
    begin, end = points[0][0], points[-1][0]
    middle = (begin + end) / 2
    halves = [[p for p in points if p[0] <= middle], [p for p in points if p[0] >= middle]]
    if min(map(len, halves)) < FEWEST_POINTS:
        return Verdict(name, points[-1][1], 0, 0, 0, Judgement.UNKNOWN)
    first, second = (slope(half) * (end - middle) for half in halves)
    size = median(value for _, value in halves[1])
    allowed = max(tolerance.least, tolerance.share * size)
    if second <= allowed:
        judgement = Judgement.FLAT
    elif tolerance.kept and second <= 1.5 * max(first, 0) + allowed:
        judgement = Judgement.STEADY
    else:
        judgement = Judgement.GROWS
    return Verdict(name, size, first, second, allowed, judgement)
