"""What happened in a world: every commit of the scheduler per job, and what the others had written by the end."""

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from shared.clock import utc_text
from shared.events import (
    BackfillStarted,
    Event,
    JobCreated,
    JobEvent,
    JobResumed,
    JobUpdated,
    RunCancelOrdered,
    RunRequested,
    ScheduleComputed,
    ScheduleEvent,
    SlotMissed,
    SlotSkipped,
    SlotWaiting,
)

_PLAIN = {"title", "type", "encryption"}
TRACED, AFTERWARDS = 40, 4
"""So many happenings of a job are shown, and so many of them after what was wrong."""


class Complaint(NamedTuple):
    """Something that is not as it should be, and since when."""

    at: datetime
    what: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the ledger, as both kernels show it."""

    outcome: str
    reason: str | None
    count: int
    job_version: int
    run_id: UUID
    interval: tuple[datetime | None, datetime] | None
    run_state: str | None
    cancelled_by: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a job's schedule stands."""

    job_version: int
    active: bool
    next_slot_at: datetime | None
    due_at: datetime | None


Ledger = dict[tuple[UUID, str], Row]


@dataclass(frozen=True, slots=True)
class Happening:
    """One commit about one job: what made it (None is the clock) and what was told in it.

    A record that could not be applied is dead-lettered.
    """

    at: datetime
    cause: Event | None
    events: tuple[ScheduleEvent, ...] = ()
    dead: bool = False

    def __str__(self) -> str:
        said = "dead-lettered" if self.dead else ", ".join(map(words, self.events)) or "nothing new"
        return f"{utc_text(self.at)}  {words(self.cause) if self.cause else 'clock'} → {said}"


@dataclass(slots=True)
class Record:
    """All that a check needs to know."""

    seed: int
    end: datetime
    written: dict[UUID, list[Event]] = field(default_factory=dict[UUID, list[Event]])
    """What job_api wrote about each job, in order."""
    happenings: dict[UUID, list[Happening]] = field(default_factory=lambda: defaultdict(list))
    ledger: Ledger = field(default_factory=dict)
    standings: dict[UUID, Standing] = field(default_factory=dict)
    rewritten: list[tuple[UUID, str]] = field(default_factory=list)
    """What was final and changed all the same."""

    def trace(self, job_id: UUID, around: datetime) -> str:
        """What happened to a job up to a moment and right after it, without the repeats that changed nothing."""
        heard: set[UUID] = set()
        told: list[Happening] = []
        for happening in self.happenings[job_id]:
            if happening.events or happening.cause is None or happening.cause.event_id not in heard:
                told.append(happening)
            if happening.cause is not None:
                heard.add(happening.cause.event_id)
        after = bisect_right(told, around, key=lambda happening: happening.at)
        begin = max(0, after - TRACED + AFTERWARDS)
        return "\n".join([f"job {job_id}", *map(str, told[begin : after + AFTERWARDS])])


def words(event: Event) -> str:
    """An event in few words."""
    name = type(event).__name__
    match event:
        case JobEvent():
            missed = f", missed {event.missed}" if isinstance(event, JobResumed) else ""
            brief = event.job.settings.model_dump_json(exclude=_PLAIN, exclude_defaults=True)
            told = f" {brief}" if isinstance(event, JobCreated | JobUpdated) else ""
            return f"{name} v{event.job.version} of {utc_text(event.occurred_at)}{missed}{told}"
        case SlotSkipped() | SlotMissed():
            return f"{name} {event.slot.key} {event.reason} ×{getattr(event, 'count', 1)}"
        case RunRequested() | SlotWaiting():
            return f"{name} {event.slot.key}"
        case ScheduleComputed():
            return f"{name} {event.next_slot_at and utc_text(event.next_slot_at)}"
        case RunCancelOrdered():
            return f"{name} {event.run_id} by {event.actor}"
        case BackfillStarted():
            return f"{name} of {event.slots} slots"
        case _:
            return f"{name} {getattr(event, 'run_id', '')}".rstrip()
