"""What job_api knows of runs: a projection that ends the same in whatever order, and however often, it is told.

Of what is told about one run the greatest version counts: a command of ours, a slot that waits, one that will not
run, the request, then the exporter's own versions from 1 on. What ends a run is final.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from shared import slots
from shared.events import (
    RunAttemptFailed,
    RunCancelled,
    RunFailed,
    RunQueued,
    RunRequested,
    RunStarted,
    RunSucceeded,
    Slot,
    SlotMissed,
    SlotSkipped,
    SlotWaiting,
    Trigger,
)

COMMANDED_VERSION: Final = -3
WAITING_VERSION: Final = -2
SKIPPED_VERSION: Final = -1
REQUESTED_VERSION: Final = 0


class RunStatus(StrEnum):
    """Where a run is; `waiting` is before its request, and a `skipped` slot never becomes one."""

    WAITING = "waiting"
    REQUESTED = "requested"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self in ENDED


ENDED: Final = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.SKIPPED})

RunEventOfExporter = RunQueued | RunStarted | RunAttemptFailed | RunSucceeded | RunFailed | RunCancelled
SlotEvent = SlotWaiting | SlotSkipped | SlotMissed
STATUSES: Final = {
    RunQueued: RunStatus.QUEUED,
    RunStarted: RunStatus.RUNNING,
    RunAttemptFailed: RunStatus.QUEUED,
    RunSucceeded: RunStatus.SUCCEEDED,
    RunFailed: RunStatus.FAILED,
    RunCancelled: RunStatus.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one event tells of a run."""

    tenant: str
    job_id: UUID
    run_id: UUID
    status: RunStatus
    version: int
    seen_at: datetime
    requested_at: datetime | None = None
    started_at: datetime | None = None
    attempt: int = 0
    trigger: Trigger | None = None
    backfill_id: UUID | None = None
    interval_from: datetime | None = None
    interval_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run as far as it is known; the interval is when its request is."""

    run_id: UUID
    job_id: UUID
    status: RunStatus
    started_at: datetime | None
    percent: float | None
    remaining_seconds: float | None


def commanded(tenant: str, job_id: UUID, slot: Slot) -> Sighting:
    """The run that a command just made: in progress from the moment the command is accepted."""
    return _of_slot(tenant, job_id, slot, RunStatus.WAITING, COMMANDED_VERSION, slot.at)


def slot_sighting(event: SlotEvent) -> Sighting:
    """What the scheduler tells of a slot that is no run, or not yet."""
    waits = isinstance(event, SlotWaiting)
    status, version = (RunStatus.WAITING, WAITING_VERSION) if waits else (RunStatus.SKIPPED, SKIPPED_VERSION)
    return _of_slot(event.tenant, event.job_id, event.slot, status, version, event.occurred_at)


def request_sighting(event: RunRequested) -> Sighting:
    """What the request tells of its run."""
    return Sighting(
        tenant=event.tenant,
        job_id=event.job_id,
        run_id=event.run_id,
        status=RunStatus.REQUESTED,
        version=REQUESTED_VERSION,
        seen_at=event.occurred_at,
        requested_at=event.occurred_at,
        trigger=event.slot.trigger,
        backfill_id=slots.backfill_of(event.slot),
        interval_from=event.question.interval_from,
        interval_to=event.question.interval_to,
    )


def run_sighting(event: RunEventOfExporter) -> Sighting:
    """What the exporter tells of a run."""
    started = isinstance(event, RunStarted)
    return Sighting(
        tenant=event.tenant,
        job_id=event.job_id,
        run_id=event.run_id,
        status=STATUSES[type(event)],
        version=event.version,
        seen_at=event.occurred_at,
        started_at=event.occurred_at if started else None,
        attempt=event.attempt,
    )


def _of_slot(
    tenant: str, job_id: UUID, slot: Slot, status: RunStatus, version: int, seen_at: datetime
) -> Sighting:  # fmt: skip
    return Sighting(
        tenant=tenant,
        job_id=job_id,
        run_id=slots.run_id(job_id, slot.key),
        status=status,
        version=version,
        seen_at=seen_at,
        trigger=slot.trigger,
        backfill_id=slots.backfill_of(slot),
    )
