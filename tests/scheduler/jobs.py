"""Jobs and their events, as the scheduler hears of them."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from shared.events import (
    Job,
    JobCreated,
    JobDeleted,
    JobEvent,
    JobResumed,
    JobState,
    JobSuspended,
    JobUpdated,
    Missed,
    SuspendedReason,
)
from shared.jobs import JobSettings

THIS_HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


def hours_ago(hours: float) -> datetime:
    """So long before the hour the tests began in; slots are easy to count, and stay so when the clock strikes."""
    return THIS_HOUR - timedelta(hours=hours)


UNTIL_NOW: dict[str, Any] = {"ends_at": THIS_HOUR + timedelta(minutes=1)}
"""The slot of this hour is the last one."""


def settings(**changes: Any) -> JobSettings:
    plain: dict[str, Any] = {
        "title": "A job",
        "source": "ucs",
        "type": "interaction",
        "schedule": {"kind": "hourly", "every": 1},
        "timeframe": {"kind": "last", "unit": "hour"},
        "overlap": "allow_all",
    }
    return JobSettings.model_validate({**plain, **changes})


def job(written_at: datetime, version: int = 1, job_id: UUID | None = None, **changes: Any) -> Job:
    return Job(
        id=job_id or uuid4(), version=version, state=JobState.ACTIVE, created_at=written_at, updated_at=written_at,
        created_by="alice", settings=settings(**changes),
    )  # fmt: skip


def created(written_at: datetime, tenant: str = "acme", **changes: Any) -> JobCreated:
    new = job(written_at, **changes)
    return JobCreated(occurred_at=written_at, tenant=tenant, job_id=new.id, actor="alice", job=new)


def updated(before: JobEvent, written_at: datetime, **changes: Any) -> JobUpdated:
    new = job(written_at, before.job.version + 1, before.job_id, **changes)
    return JobUpdated(occurred_at=written_at, tenant=before.tenant, job_id=new.id, actor="alice", job=new)


def suspended(before: JobEvent, written_at: datetime) -> JobSuspended:
    changes = {
        "version": before.job.version + 1,
        "state": JobState.SUSPENDED,
        "suspended_reason": SuspendedReason.USER,
    }
    new = before.job.model_copy(update=changes)
    return JobSuspended(occurred_at=written_at, tenant=before.tenant, job_id=new.id, actor="alice", job=new)


def resumed(before: JobEvent, written_at: datetime, missed: Missed = "none") -> JobResumed:
    changes = {"version": before.job.version + 1, "state": JobState.ACTIVE, "suspended_reason": None}
    new = before.job.model_copy(update=changes)
    return JobResumed(
        occurred_at=written_at, tenant=before.tenant, job_id=new.id, actor="alice", job=new, missed=missed,
        missed_since=before.occurred_at,
    )  # fmt: skip


def deleted(before: JobEvent, written_at: datetime) -> JobDeleted:
    new = before.job.model_copy(update={"version": before.job.version + 1, "state": JobState.DELETED})
    return JobDeleted(occurred_at=written_at, tenant=before.tenant, job_id=new.id, actor="alice", job=new)
