"""What the scheduler remembers: where a job's schedule stands, and what became of each slot."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from shared import slots
from shared.events import Question, ScheduleEvent, Slot
from shared.jobs import JobSettings


class Outcome(StrEnum):
    """What became of a slot; a waiting one is decided later, the others are final."""

    WAITING = "waiting"
    REQUESTED = "requested"
    SKIPPED = "skipped"
    MISSED = "missed"


class RunState(StrEnum):
    """How far the scheduler follows a run: it is open until its terminal event is applied."""

    OPEN = "open"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the ledger.

    `question` is known once the run is requested; earlier for retries and backfills, whose question can't change.
    """

    slot: Slot
    run_id: UUID
    outcome: Outcome
    job_version: int
    reason: str | None = None
    count: int = 1
    question: Question | None = None
    retry_of: UUID | None = None
    run_state: RunState | None = None
    cancelled_by: str | None = None

    @property
    def waiting(self) -> bool:
        """Whether it is still to be decided."""
        return self.outcome is Outcome.WAITING

    @property
    def open(self) -> bool:
        """Whether its run is under way."""
        return self.run_state is RunState.OPEN

    @property
    def backfill_id(self) -> UUID | None:
        """The backfill it belongs to."""
        return slots.backfill_of(self.slot)


@dataclass(frozen=True, slots=True)
class Plan:
    """A job as the scheduler knows it.

    `next_slot_at` is None when nothing is due any more. `held` are the entries that wait or run, in the order of their
    slots; backfills have a lane of their own and are not among them.
    """

    job_id: UUID
    tenant: str
    job_version: int
    settings: JobSettings
    active: bool = True
    deleted: bool = False
    next_slot_at: datetime | None = None
    failures: int = 0
    exported_to: datetime | None = None
    stopped_at: datetime | None = None
    held: tuple[Entry, ...] = ()

    @property
    def due_at(self) -> datetime | None:
        """When the next slot is acted on."""
        return self.next_slot_at and slots.due_at(self.job_id, self.settings, self.next_slot_at)


@dataclass(frozen=True, slots=True)
class Backfill:
    """A stretch of past data that was asked for; its slots run beside the schedule's, `max_parallel` at a time."""

    backfill_id: UUID
    max_parallel: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about a job: its plan from now on, the entries that are new or changed, and what to tell."""

    plan: Plan
    entries: Mapping[str, Entry] = field(default_factory=dict[str, Entry])
    events: tuple[ScheduleEvent, ...] = ()
