"""Decisions about jobs: `decide(facts, …) -> decision`, None when there is nothing to do, or the refusal raised."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from services.job_api.domain import settings as checks
from services.job_api.domain.certificates import Certificate, require_certificate
from services.job_api.domain.errors import JobInProgress, SettingsRefused, VersionMismatch
from services.job_api.domain.missed import refuse_too_many
from services.job_api.domain.settings import Surroundings
from services.job_api.domain.transitions import (
    STORED,
    Command,
    Standing,
    first_standing,
    following,
    standing,
)
from shared import slots
from shared.events import (
    Job,
    JobDeleted,
    JobEvent,
    JobResumed,
    JobState,
    JobSuspended,
    JobUpdated,
    Missed,
    ScheduleCompleted,
    SchedulePaused,
)
from shared.jobs import JobSettings
from shared.sources import Source

SCHEDULER: Final = "scheduler"
"""The actor of what the scheduler made of a job."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A job, read under its lock, and what decisions about it need besides."""

    tenant: str
    job: Job
    now: datetime
    stopped_at: datetime | None = None
    """Since when its slots are not requested; None while it is active."""
    certificates: Sequence[Certificate] = ()
    open_run: UUID | None = None
    """A run that has not ended, slots that wait and commands that nobody has answered yet included."""
    open_backfill: UUID | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """A change of a job: what becomes of it, and what is told of it."""

    command: Command
    event: JobEvent
    stopped_at: datetime | None
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def job(self) -> Job:
        """The job after the change."""
        return self.event.job


def new_job(
    settings: JobSettings, *, job_id: UUID, created_by: str, now: datetime,
    sources: Mapping[str, Source], certificates: Sequence[Certificate],
) -> Job:  # fmt: skip
    """The job as stored on submission; raises SettingsRefused or CertificateRequired."""
    _accept(settings, sources, certificates, now)
    state, reason = STORED[first_standing(settings)]
    return Job(
        id=job_id, version=1, state=state, suspended_reason=reason, created_at=now, updated_at=now,
        created_by=created_by, settings=settings,
    )  # fmt: skip


def next_slot(job: Job, now: datetime) -> datetime | None:
    """The first slot of a job that was written at `now`; the scheduler computes the same."""
    return slots.first_slot(job.settings, now) if job.state is JobState.ACTIVE else None


def check_version(job: Job, expected: frozenset[int] | None) -> None:
    """Raise VersionMismatch unless the caller is ready to change this version; None is ready for any."""
    if expected is not None and job.version not in expected:
        raise VersionMismatch(job.version)


def edit(
    facts: Facts, change: JobSettings | Callable[[JobSettings], JobSettings], *,
    actor: str, expected: frozenset[int] | None, sources: Mapping[str, Source],
) -> Decision | None:  # fmt: skip
    """Other settings, or a change of those it has; a schedule counts from now then.

    Raises SettingsRefused, SettingsMalformed and CertificateRequired besides.
    """
    then = _move(facts, Command.EDIT, expected)
    before = facts.job.settings
    settings = change if isinstance(change, JobSettings) else change(before)
    if then is None or settings == before:
        return None
    _accept(settings, sources, facts.certificates, facts.now, before)
    changed = [name for name in JobSettings.model_fields if getattr(settings, name) != getattr(before, name)]
    job = _changed(facts, then, settings=settings)
    event = JobUpdated(occurred_at=facts.now, tenant=facts.tenant, job_id=job.id, actor=actor, job=job)
    return Decision(Command.EDIT, event, facts.stopped_at, {"changed": changed})


def suspend(facts: Facts, *, actor: str, expected: frozenset[int] | None) -> Decision | None:
    """No more slots; runs in progress go on."""
    then = _move(facts, Command.SUSPEND, expected)
    return None if then is None else _stopped(facts, Command.SUSPEND, then, actor, facts.now)


def resume(facts: Facts, missed: Missed, *, actor: str, expected: frozenset[int] | None) -> Decision | None:
    """Slots again, from now on; `missed` says what becomes of those since it stopped."""
    then = _move(facts, Command.RESUME, expected)
    if then is None:
        return None
    require_certificate(facts.job.settings, facts.certificates, facts.now)
    if missed == "all":
        refuse_too_many(facts.job.settings, facts.stopped_at or facts.now, facts.now)
    job = _changed(facts, then)
    event = JobResumed(
        occurred_at=facts.now, tenant=facts.tenant, job_id=job.id, actor=actor, job=job,
        missed=missed, missed_since=facts.stopped_at,
    )  # fmt: skip
    return Decision(Command.RESUME, event, None, {"missed": missed})


def missed_since(facts: Facts, expected: frozenset[int] | None) -> datetime:
    """Since when a job that is about to be resumed has missed its slots; now, when it has missed none.

    Raises what a resume would.
    """
    then = _move(facts, Command.RESUME, expected)
    if then is None:
        return facts.now
    require_certificate(facts.job.settings, facts.certificates, facts.now)
    return facts.stopped_at or facts.now


def delete(facts: Facts, *, actor: str, expected: frozenset[int] | None) -> Decision | None:
    """The job is gone, its history stays; raises JobInProgress while anything of it is."""
    then = _move(facts, Command.DELETE, expected)
    if then is None:
        return None
    if facts.open_run is not None or facts.open_backfill is not None:
        raise JobInProgress(run_id=facts.open_run, backfill_id=facts.open_backfill)
    job = _changed(facts, then)
    event = JobDeleted(occurred_at=facts.now, tenant=facts.tenant, job_id=job.id, actor=actor, job=job)
    return Decision(Command.DELETE, event, facts.stopped_at)


def complete(facts: Facts, _: ScheduleCompleted) -> Decision | None:
    """The only slot of a one-time job was requested."""
    then = _move(facts, Command.COMPLETE, None)
    return None if then is None else _stopped(facts, Command.COMPLETE, then, SCHEDULER, facts.now)


def pause(facts: Facts, event: SchedulePaused) -> Decision | None:
    """Too many runs failed in a row; what was said of an older version of the job is no longer true."""
    then = _move(facts, Command.PAUSE, None)
    if then is None or event.job_version != facts.job.version:
        return None
    return _stopped(facts, Command.PAUSE, then, SCHEDULER, event.occurred_at, {"failures": event.failures})


def _move(facts: Facts, command: Command, expected: frozenset[int] | None) -> Standing | None:
    now = standing(facts.job)
    if now is not Standing.DELETED:
        # What is gone is not found, whatever version was expected.
        check_version(facts.job, expected)
    return following(now, command)


def _stopped(
    facts: Facts, command: Command, then: Standing, actor: str, stopped_at: datetime,
    detail: Mapping[str, Any] | None = None,
) -> Decision:  # fmt: skip
    job = _changed(facts, then)
    event = JobSuspended(occurred_at=facts.now, tenant=facts.tenant, job_id=job.id, actor=actor, job=job)
    return Decision(command, event, stopped_at, detail or {})


def _changed(facts: Facts, then: Standing, **more: Any) -> Job:
    state, reason = STORED[then]
    update = {
        "version": facts.job.version + 1, "state": state, "suspended_reason": reason, "updated_at": facts.now, **more,
    }  # fmt: skip
    return facts.job.model_copy(update=update)


def check_draft(
    settings: JobSettings, sources: Mapping[str, Source], certificates: Sequence[Certificate], now: datetime
) -> bool:
    """Raise SettingsRefused as a submission would; whether a certificate is missing to submit."""
    valid = [certificate for certificate in certificates if certificate.valid_at(now)]
    around = Surroundings(now, sources, [certificate.fingerprint for certificate in valid])
    if found := checks.faults(settings, around):
        raise SettingsRefused(replace(fault, pointer=f"/settings{fault.pointer}") for fault in found)
    return settings.encryption != "none" and not valid


def _accept(
    settings: JobSettings, sources: Mapping[str, Source], certificates: Iterable[Certificate], now: datetime,
    before: JobSettings | None = None,
) -> None:  # fmt: skip
    valid = [certificate for certificate in certificates if certificate.valid_at(now)]
    around = Surroundings(now, sources, [certificate.fingerprint for certificate in valid])
    if found := checks.faults(settings, around, before):
        raise SettingsRefused(found)
    require_certificate(settings, valid, now)
