"""How far an attempt is, and how long the rest takes."""

from dataclasses import dataclass

from services.exporter.domain.runs import Claim
from shared.events import Progress


@dataclass(frozen=True, slots=True)
class Counts:
    """What an attempt had exported `at` some moment, in seconds of a clock that only runs forward."""

    rows: int
    bytes: int
    total: int | None
    """How many rows are expected; the planner's guess may be wrong."""
    at: float


def progress(claim: Claim, sequence: int, first: Counts, last: Counts) -> Progress:
    """How far the attempt is at `last`, when the first rows were there at `first`."""
    return Progress(
        attempt=claim.attempt,
        sequence=sequence,
        rows=last.rows,
        bytes=last.bytes,
        total=None if last.total is None else max(last.total, last.rows),
        percent=percent_done(last),
        remaining_seconds=remaining_seconds(first, last),
    )


def percent_done(counts: Counts) -> float | None:
    """The share of the rows that are expected; less than 100 as long as more may come, whatever was expected.

    >>> [percent_done(Counts(rows, 0, 1000, 0)) for rows in (0, 250, 1000, 1500)]
    [0.0, 25.0, 99.9, 99.9]
    """
    if counts.total is None or counts.rows == 0:
        return None if counts.total is None else 0.0
    return min(99.9, round(100 * counts.rows / max(counts.total, counts.rows), 1))


def remaining_seconds(first: Counts, last: Counts) -> float | None:
    """The time that the rest takes at the average rate since the first rows; unknown when more came than expected.

    Between two looks it rises at most by the share by which the time spent has grown (after 100 s, 1 % a second), and
    so much only where the rows have stopped. Weighting what was last more was worse in every way tried: where rates
    are noisy, come in bursts, change or stall, it rose by more and was further from the truth.

    >>> remaining_seconds(Counts(10, 0, 100, at=5.0), Counts(40, 0, 100, at=8.0))
    6.0
    """
    if last.total is None or last.rows > last.total or last.rows <= first.rows:
        return None
    return round((last.at - first.at) / (last.rows - first.rows) * (last.total - last.rows), 1)
