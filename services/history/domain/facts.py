"""How events become rows: what each says about its run or file, free of order and duplicates.

A row is filled by two owners: the scheduler's request (title, slot, question) and the exporter's progress through the
states. Among the exporter's events the greater run version says the state, and a terminal one is never left. Everything
else is said by one event only, or the greatest attempt or version of those that say it counts. The store merges these
rows with the stored ones by the same rules.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from shared.events import (
    ArtifactDeleted,
    ArtifactStored,
    Event,
    RunAttemptFailed,
    RunCancelled,
    RunEvent,
    RunFailed,
    RunQueued,
    RunRequested,
    RunStarted,
    RunState,
    RunSucceeded,
)

STATES: Final[Mapping[type[Event], RunState]] = {
    RunQueued: RunState.QUEUED,
    RunStarted: RunState.RUNNING,
    RunAttemptFailed: RunState.QUEUED,
    RunSucceeded: RunState.SUCCEEDED,
    RunFailed: RunState.FAILED,
    RunCancelled: RunState.CANCELLED,
}
"""The state a run is in after each event that changes it."""

ENDS: Final = tuple(event for event, state in STATES.items() if state.terminal)


@dataclass(slots=True)
class Execution:
    """What is known about a run; None where nothing was said."""

    requested_at: datetime
    run_id: UUID
    tenant: str
    job_id: UUID
    job_version: int | None = None
    title: str | None = None
    title_folded: str | None = None
    source: str | None = None
    type: str | None = None
    trigger: str | None = None
    slot_key: str | None = None
    slot_at: datetime | None = None
    interval_from: datetime | None = None
    interval_to: datetime | None = None
    question: str | None = None
    retry_of: UUID | None = None
    state: RunState = RunState.REQUESTED
    version: int = 0
    attempt: int = 0
    worker: str | None = None
    worker_attempt: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    rows: int | None = None
    bytes: int | None = None
    parts: int | None = None
    snapshot: str | None = None
    manifest_id: UUID | None = None
    manifest_sha256: str | None = None
    schema_id: UUID | None = None
    reason: str | None = None
    message: str | None = None
    reason_version: int = 0
    cancelled_by: str | None = None


@dataclass(slots=True)
class File:
    """What is known about a stored file; None where nothing was said."""

    requested_at: datetime
    artifact_id: UUID
    tenant: str
    run_id: UUID
    job_id: UUID | None = None
    title: str | None = None
    title_folded: str | None = None
    source: str | None = None
    type: str | None = None
    number: int | None = None
    entity: str | None = None
    file_name: str | None = None
    size_bytes: int | None = None
    rows: int | None = None
    sha256: str | None = None
    stored_at: datetime | None = None
    expires_at: datetime | None = None
    deleted_at: datetime | None = None
    deletion_reason: str | None = None
    deleted_by: str | None = None


def _request(known: Execution, event: RunRequested) -> None:
    question, slot = event.question, event.slot
    known.job_version, known.title, known.title_folded = event.job_version, event.title, event.title.casefold()
    known.source, known.type = question.source, question.type
    known.trigger, known.slot_key, known.slot_at = slot.trigger, slot.key, slot.at
    known.interval_from, known.interval_to = question.interval_from, question.interval_to
    known.question, known.retry_of = question.model_dump_json(), event.retry_of


def _state(known: Execution, event: RunEvent) -> None:
    state = STATES[type(event)]
    if known.finished_at is None and (state.terminal or event.version > known.version):
        known.state = state
        if state.terminal:
            known.finished_at = event.occurred_at
    known.version = max(known.version, event.version)
    known.attempt = max(known.attempt, event.attempt)


def _start(known: Execution, event: RunStarted) -> None:
    _state(known, event)
    if event.attempt > known.worker_attempt:
        known.worker, known.worker_attempt = event.worker, event.attempt
    if known.started_at is None or event.occurred_at < known.started_at:
        known.started_at = event.occurred_at


def _success(known: Execution, event: RunSucceeded) -> None:
    _state(known, event)
    known.rows, known.bytes, known.parts, known.snapshot = event.rows, event.bytes, event.parts, event.snapshot
    known.manifest_id, known.manifest_sha256 = event.manifest_id, event.manifest_sha256
    known.schema_id = event.schema_id


def _failure(known: Execution, event: RunAttemptFailed | RunFailed) -> None:
    _state(known, event)
    if event.version > known.reason_version:
        known.reason, known.message, known.reason_version = event.reason, event.message, event.version


def _cancellation(known: Execution, event: RunCancelled) -> None:
    _state(known, event)
    known.cancelled_by = event.actor


SAYINGS: Final[Mapping[type[Event], Callable[[Execution, Any], None]]] = {
    RunRequested: _request,
    RunQueued: _state,
    RunStarted: _start,
    RunAttemptFailed: _failure,
    RunSucceeded: _success,
    RunFailed: _failure,
    RunCancelled: _cancellation,
}
"""How each event about a run is noted in what is known of the run."""


def stored(known: File, event: ArtifactStored) -> None:
    """Note that the file was stored."""
    part = event.part
    known.job_id, known.source, known.type = event.job_id, event.source, event.type
    known.title, known.title_folded = event.title, event.title and event.title.casefold()
    known.number, known.entity, known.file_name = part.number, part.entity, part.file_name
    known.size_bytes, known.rows, known.sha256 = part.size_bytes, part.rows, part.sha256
    known.stored_at, known.expires_at = event.occurred_at, event.expires_at


def deleted(known: File, event: ArtifactDeleted) -> None:
    """Note that its bytes are gone."""
    known.deleted_at, known.deletion_reason, known.deleted_by = event.occurred_at, event.reason, event.actor
