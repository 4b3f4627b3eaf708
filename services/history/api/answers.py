"""What callers get."""

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from services.history.domain import coverage
from services.history.domain.attempts import TOLD_BY, attempts
from services.history.domain.coverage import Segment, State
from services.history.domain.listing import SlotOutcome
from shared import reasons
from shared.clock import UtcDatetime
from shared.events import Progress, Question, RunState, Trigger

# --- executions ---------------------------------------------------------------------------------------------------


class ErrorAnswer(BaseModel):
    """Why a run, or its last attempt, failed, and what to do about it."""

    reason: str
    message: str | None
    remedy: str


class ExecutionAnswer(BaseModel):
    """A run as history saw it."""

    run_id: UUID
    job_id: UUID
    job_version: int
    title: str
    source: str
    type: str
    trigger: Trigger
    slot_key: str
    slot_at: UtcDatetime
    interval_from: UtcDatetime | None
    interval_to: UtcDatetime
    question: Question
    retry_of: UUID | None
    requested_at: UtcDatetime
    state: RunState
    attempt: int
    worker: str | None
    started_at: UtcDatetime | None
    finished_at: UtcDatetime | None
    duration_seconds: float | None
    rows: int | None
    bytes: int | None
    parts: int | None
    snapshot: str | None
    manifest_id: UUID | None
    manifest_sha256: str | None
    schema_id: UUID | None
    reason: str | None
    message: str | None
    error: ErrorAnswer | None
    cancelled_by: str | None
    progress: Progress | None

    @classmethod
    def of(cls, row: Any) -> "ExecutionAnswer":
        """An execution as it is answered."""
        return cls.model_validate(_execution(row))


def _execution(row: Any) -> dict[str, Any]:
    found = dict(row)
    if found["state"] == RunState.SUCCEEDED:
        # What an earlier attempt failed of is among the attempts.
        found["reason"] = found["message"] = None
    reason, message = found["reason"], found["message"]
    error = None if reason is None else {"reason": reason, "message": message, "remedy": reasons.remedy(reason)}
    return {**found, "error": error}


class ExecutionsAnswer(BaseModel):
    """A page of executions; `next` is the `after` of the following page, `total` is counted when it is asked for."""

    items: list[ExecutionAnswer]
    next: str | None
    total: int | None = None
    total_is_estimate: bool | None = None


class AttemptAnswer(BaseModel):
    """One try of a worker; `reason` and `message` say why it came to nothing."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    worker: str | None
    started_at: UtcDatetime | None
    ended_at: UtcDatetime | None
    reason: str | None
    message: str | None


class ArtifactAnswer(BaseModel):
    """A stored file; download it from `/api/v1/files/{artifact_id}`."""

    artifact_id: UUID
    run_id: UUID
    job_id: UUID
    title: str | None
    source: str | None
    type: str | None
    number: int
    entity: str | None
    file_name: str
    size_bytes: int
    rows: int
    sha256: str
    stored_at: UtcDatetime
    expires_at: UtcDatetime
    remaining_days: int
    deleted_at: UtcDatetime | None
    deletion_reason: str | None
    deleted_by: str | None


class ArtifactsAnswer(BaseModel):
    """A page of artifacts; `next` is the `after` of the following page."""

    items: list[ArtifactAnswer]
    next: str | None = Field(description="In the order of arrival there always is one, to be kept until there is more.")


class ExecutionDetails(ExecutionAnswer):
    """A run with the settings its job had, its attempts and its files."""

    settings: dict[str, Any] | None
    attempts: list[AttemptAnswer]
    artifacts: list[ArtifactAnswer]

    @classmethod
    def whole(
        cls,
        row: Any,
        settings: Mapping[str, Any] | None,
        events: Iterable[Any],
        artifacts: Iterable[Any],
    ) -> "ExecutionDetails":
        """An execution with all that belongs to it, as it is answered."""
        told = [TOLD_BY[event["type"]].model_validate(event["body"]) for event in events]
        return cls.model_validate(
            {
                **_execution(row), "settings": settings, "artifacts": [dict(artifact) for artifact in artifacts],
                "attempts": attempts(told),
            }
        )  # fmt: skip


class EventAnswer(BaseModel):
    """Something that happened, as its owner told it in `body`."""

    event_id: UUID
    type: str
    occurred_at: UtcDatetime
    job_id: UUID | None
    run_id: UUID | None
    actor: str | None
    body: dict[str, Any]


class EventsAnswer(BaseModel):
    """A page of a timeline, oldest first; `next` is the `after` of the following page."""

    items: list[EventAnswer]
    next: str | None


# --- slots and coverage -------------------------------------------------------------------------------------------


class SlotAnswer(BaseModel):
    """What became of a slot; `count` slots from this one on where they are told of together."""

    job_id: UUID
    job_version: int
    slot_key: str
    slot_at: UtcDatetime
    trigger: Trigger
    outcome: SlotOutcome
    decided_at: UtcDatetime
    reason: str | None
    explanation: str | None
    count: int
    run_id: UUID | None

    @classmethod
    def of(cls, row: Any) -> "SlotAnswer":
        """A slot as it is answered."""
        return cls.model_validate({**row, "explanation": _explanation(row["reason"])})


def _explanation(reason: str | None) -> str | None:
    return None if reason is None else reasons.SLOTS.get(reason)


class SlotsAnswer(BaseModel):
    """A page of slots, what was decided last first; `next` is the `after` of the following page."""

    items: list[SlotAnswer]
    next: str | None


class SegmentAnswer(BaseModel):
    """A stretch of a job's data: exported, exported more than once, on its way, or missing.

    `runs` are the newest of `run_count` that exported it, are about to, or should have; `reason` says why it is
    missing, where that is known, and `slot_at` which slot should have asked for it.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    from_: UtcDatetime = Field(serialization_alias="from")
    to: UtcDatetime
    state: State
    runs: list[UUID]
    run_count: int
    reason: str | None
    explanation: str | None = Field(description="The reason in plain words, or what to do about it.")
    slot_at: UtcDatetime | None

    @classmethod
    def of(cls, segment: Segment) -> "SegmentAnswer":
        """A segment as it is answered."""
        return cls(
            from_=segment.begin, to=segment.end, state=segment.state, runs=list(segment.runs),
            run_count=segment.run_count, reason=segment.reason, explanation=_why_missing(segment),
            slot_at=segment.slot_at,
        )  # fmt: skip


def _why_missing(segment: Segment) -> str | None:
    if segment.reason is None:
        return None
    if segment.slot_at is not None:
        return _explanation(segment.reason)
    return "Somebody cancelled the run." if segment.reason == coverage.CANCELLED else reasons.remedy(segment.reason)


class CoverageAnswer(BaseModel):
    """A job's calendar: segments in order and without holes."""

    model_config = ConfigDict(serialize_by_alias=True)

    job_id: UUID
    from_: UtcDatetime = Field(serialization_alias="from")
    to: UtcDatetime
    segments: list[SegmentAnswer]


# --- statistics and audit -----------------------------------------------------------------------------------------


class SumAnswer(BaseModel):
    """Runs that ended; `day`, `source` and `type` are null where they are summed up over.

    `success_rate` leaves the cancelled ones out, and durations are those of the runs that succeeded.
    """

    day: date | None
    source: str | None
    type: str | None
    runs: int
    succeeded: int
    failed: int
    cancelled: int
    success_rate: float | None
    rows: int
    bytes: int
    mean_duration_seconds: float | None
    longest_duration_seconds: float | None

    @classmethod
    def of(cls, row: Any) -> "SumAnswer":
        """A sum as it is answered."""
        succeeded, failed, cancelled = row["succeeded"], row["failed"], row["cancelled"]
        ended = succeeded + failed
        return cls.model_validate(
            {**row, "runs": ended + cancelled, "success_rate": succeeded / ended if ended else None}
        )


class StatisticsAnswer(BaseModel):
    """Sums over the runs that ended on the days from `from` to `to`, both included."""

    model_config = ConfigDict(serialize_by_alias=True)

    from_: date = Field(serialization_alias="from")
    to: date
    items: list[SumAnswer]


class DeedAnswer(BaseModel):
    """Something that somebody did."""

    event_id: UUID
    occurred_at: UtcDatetime
    actor: str
    action: str
    job_id: UUID | None
    run_id: UUID | None
    artifact_id: UUID | None
    details: dict[str, Any]

    @classmethod
    def of(cls, row: Any) -> "DeedAnswer":
        """A deed as it is answered."""
        body: dict[str, Any] = row["body"]
        return cls.model_validate(
            {**row, "action": row["type"], "artifact_id": body.get("artifact_id"), "details": body}
        )


class AuditAnswer(BaseModel):
    """A page of what people did, newest first; `next` is the `after` of the following page."""

    items: list[DeedAnswer]
    next: str | None
