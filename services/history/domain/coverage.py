"""A job's calendar: which data was exported, which twice, which is on its way, and which is missing, and why."""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final, TypeAlias
from uuid import UUID

from shared import slots
from shared.events import RunState
from shared.jobs import JobSettings, Last

CANCELLED: Final = "cancelled"
"""Why data is missing that a cancelled run should have brought."""
NAMED: Final = 10
"""A segment names no more runs than these, the newest; a job that exports everything every time has them all."""


class State(StrEnum):
    """What became of a stretch of data."""

    EXPORTED = "exported"
    OVERLAPPING = "overlapping"
    IN_PROGRESS = "in_progress"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Run:
    """A run and its data; `begin` is None where it is since the beginning."""

    requested_at: datetime
    run_id: UUID
    state: RunState
    begin: datetime | None
    end: datetime
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Unrun:
    """A slot that became no run, and the data it would have exported."""

    slot_at: datetime
    begin: datetime
    end: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of data, [`begin`, `end`).

    `runs` are the newest that made it what it is, of `run_count`: those that exported it, are about to, or should have.
    `reason` says why data is missing, where that is known; `slot_at` names the slot where no run was asked for it.
    """

    begin: datetime
    end: datetime
    state: State
    runs: tuple[UUID, ...] = ()
    run_count: int = 0
    reason: str | None = None
    slot_at: datetime | None = None


_Ranked: TypeAlias = list[tuple[Any, ...]]


@dataclass(slots=True)
class _Covering:
    """What covers the moment the sweep has come to, in ascending ranks."""

    exported: _Ranked = field(default_factory=list)
    open: _Ranked = field(default_factory=list)
    ended: _Ranked = field(default_factory=list)
    unrun: _Ranked = field(default_factory=list)

    def of(self, item: Run | Unrun) -> tuple[_Ranked, tuple[Any, ...]]:
        if isinstance(item, Unrun):
            return self.unrun, (item.slot_at, item.reason)
        ranked = (item.requested_at, item.run_id, CANCELLED if item.state is RunState.CANCELLED else item.reason)
        if item.state is RunState.SUCCEEDED:
            return self.exported, ranked
        return (self.ended if item.state.terminal else self.open), ranked

    def shown(self, begin: datetime, end: datetime) -> Segment:
        if self.exported:
            state = State.EXPORTED if len(self.exported) == 1 else State.OVERLAPPING
            return Segment(begin, end, state, _newest(self.exported), len(self.exported))
        if self.open:
            return Segment(begin, end, State.IN_PROGRESS, _newest(self.open), len(self.open))
        if self.ended:
            return Segment(begin, end, State.MISSING, _newest(self.ended), len(self.ended), self.ended[-1][2])
        if self.unrun:
            slot_at, reason = self.unrun[-1]
            return Segment(begin, end, State.MISSING, reason=reason, slot_at=slot_at)
        return Segment(begin, end, State.MISSING)


def _newest(ranked: _Ranked) -> tuple[UUID, ...]:
    return tuple(run_id for _, run_id, _ in reversed(ranked[-NAMED:]))


def coverage(runs: Iterable[Run], unrun: Iterable[Unrun], begin: datetime, end: datetime) -> list[Segment]:
    """The segments of [`begin`, `end`), in order and without holes; neighbours differ."""
    starting: defaultdict[datetime, list[Run | Unrun]] = defaultdict(list)
    ending: defaultdict[datetime, list[Run | Unrun]] = defaultdict(list)
    for item in (*runs, *unrun):
        first = begin if item.begin is None else max(item.begin, begin)
        last = min(item.end, end)
        if first < last:
            starting[first].append(item)
            ending[last].append(item)
    covering = _Covering()
    segments: list[Segment] = []
    for here, following in pairwise(sorted({begin, end, *starting, *ending})):
        for item in ending[here]:
            ranked, rank = covering.of(item)
            del ranked[bisect_left(ranked, rank)]
        for item in starting[here]:
            ranked, rank = covering.of(item)
            insort(ranked, rank)
        found = covering.shown(here, following)
        if segments and _alike(segments[-1], found):
            found = replace(segments.pop(), end=following)
        segments.append(found)
    return segments


def _alike(one: Segment, other: Segment) -> bool:
    return (one.state, one.runs, one.run_count, one.reason, one.slot_at) == (
        other.state, other.runs, other.run_count, other.reason, other.slot_at,
    )  # fmt: skip


def unrun_slots(settings: JobSettings, slot_at: datetime, count: int, reason: str) -> Iterator[Unrun]:
    """The slots that one entry of the ledger is about, with their data.

    Only jobs with a timeframe of their last hours or days leave data out with a slot; the next run of the others covers
    it. How long a source settles is not known here; where it does, the data of the slots began that much earlier.
    """
    if not isinstance(settings.timeframe, Last):
        return
    slot: datetime | None = slot_at
    for _ in range(count):
        if slot is None:
            return
        begin, end = slots.data_interval(settings.timeframe, slot, timedelta(0))
        assert begin is not None
        yield Unrun(slot, begin, end, reason)
        slot = slots.following_slot(settings, slot)
