"""Runs and their attempts: which one is next, what a claim is, and how one ends without result."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final, assert_never
from uuid import UUID

from shared.events import RunRequested, Trigger


class Lane(StrEnum):
    """Why a run was asked for, as far as it decides who runs next."""

    MANUAL = "manual"
    SCHEDULED = "scheduled"
    BACKFILL = "backfill"

    @classmethod
    def of(cls, trigger: Trigger) -> "Lane":
        """The lane of a run: somebody waits for what was asked for by hand, nobody for a backfill.

        >>> [Lane.of(Trigger.IMMEDIATE).value, Lane.of(Trigger.RETRY).value]
        ['scheduled', 'manual']
        """
        match trigger:
            case Trigger.MANUAL | Trigger.RETRY:
                return cls.MANUAL
            case Trigger.SCHEDULE | Trigger.IMMEDIATE:
                return cls.SCHEDULED
            case Trigger.BACKFILL:
                return cls.BACKFILL
            case _:
                assert_never(trigger)


CYCLE: Final = (Lane.MANUAL, Lane.SCHEDULED, Lane.MANUAL, Lane.SCHEDULED, Lane.BACKFILL)
"""The lanes that a process's claims prefer, one after the other: each gets its share, whatever fills the others."""


def lanes_for(claims: int, *, backfills: int, slots: int) -> list[Lane]:
    """The lanes that a process takes its next run from, best first, after so many claims.

    A process with several slots never fills all of them with backfills: nothing else would start until one ends.

    >>> [lane.value for lane in lanes_for(4, backfills=0, slots=2)]
    ['backfill', 'manual', 'scheduled']
    >>> [lane.value for lane in lanes_for(4, backfills=1, slots=2)]
    ['manual', 'scheduled']
    """
    preferred = CYCLE[claims % len(CYCLE)]
    lanes = sorted(Lane, key=lambda lane: lane is not preferred)
    may_backfill = slots == 1 or backfills < slots - 1
    return [lane for lane in lanes if lane is not Lane.BACKFILL or may_backfill]


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt of a run, held under a lease; `attempt` is the fencing token of everything it writes."""

    request: RunRequested
    attempt: int
    attempts_allowed: int
    trace: str | None = None
    """The context that the run was requested in."""

    @property
    def run_id(self) -> UUID:
        """The run that is attempted."""
        return self.request.run_id

    @property
    def lane(self) -> Lane:
        """Which runs it competes with."""
        return Lane.of(self.request.slot.trigger)

    @property
    def prefix(self) -> str:
        """Where the attempt's bytes go in the object store; no other attempt writes there."""
        return f"{self.run_id}/{self.attempt}"

    @property
    def dead_prefixes(self) -> list[str]:
        """Where earlier attempts may have left bytes."""
        return [f"{self.run_id}/{attempt}" for attempt in range(1, self.attempt)]

    @property
    def is_last(self) -> bool:
        """Whether no attempt follows when this one fails."""
        return self.attempt >= self.attempts_allowed


@dataclass(frozen=True, slots=True)
class OpenRuns:
    """The runs of a lane that are queued or running; `oldest` is how long one has waited, or not ended, at most."""

    count: int = 0
    oldest: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt ended without result; `reason` is a slug, `message` a sentence for people."""

    reason: str
    message: str
    repeatable: bool
