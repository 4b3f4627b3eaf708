"""What callers send and get."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field

from services.job_api.domain import certificates
from services.job_api.domain.certificates import Certificate
from services.job_api.domain.commands import Backfill, BackfillState, Wanted
from services.job_api.domain.missed import DatedSlot, MissedSlots
from services.job_api.domain.preview import ClockChange, Preview, Seam, ShownSlot
from services.job_api.store import JobRow
from shared.clock import UtcDatetime
from shared.events import JobState, Missed, Reprocess, SuspendedReason, Trigger
from shared.jobs import JobSettings, Moment, Settings
from shared.slots import Piece

LatestStatus = Literal["waiting", "requested", "queued", "running", "succeeded", "failed", "cancelled"]

EXAMPLES: dict[str, dict[str, Any]] = {
    "every four hours": {
        "title": "Voice, every four hours", "source": "ucs", "type": "interaction", "media_types": ["voice"],
        "schedule": {"kind": "hourly", "every": 4}, "timeframe": {"kind": "last", "count": 4, "unit": "hour"},
    },
    "every night": {
        "key": "nightly", "title": "What changed since the last night", "source": "contact_history", "type": "contact",
        "schedule": {"kind": "daily", "at": "02:30"},
        "timeframe": {"kind": "since_last_run", "from": "2026-01-01T00:00:00Z"},
        "pause_after_failures": 3, "labels": {"team": "analytics"},
    },
    "once": {
        "title": "The first quarter", "source": "ucs", "type": "interaction", "schedule": {"kind": "once"},
        "start": "immediately",
        "timeframe": {"kind": "fixed", "from": "2026-01-01T00:00:00Z", "to": "2026-04-01T00:00:00Z"},
    },
}  # fmt: skip
"""Settings as people write them, for the API document."""


class Interval(BaseModel):
    """Data of [`from`, `to`); without `from`, everything before `to`."""

    model_config = ConfigDict(serialize_by_alias=True)

    from_: UtcDatetime | None = Field(serialization_alias="from")
    to: UtcDatetime


class SlotAnswer(BaseModel):
    """A slot and the data it exports."""

    at: UtcDatetime
    interval: Interval

    @classmethod
    def of(cls, slot: DatedSlot | Piece) -> "SlotAnswer":
        """A slot as it is answered."""
        return cls(at=slot.at, interval=Interval(from_=slot.interval_from, to=slot.interval_to))


# --- jobs ---------------------------------------------------------------------------------------------------------


class LatestRunAnswer(BaseModel):
    """How the latest run of a job goes; a waiting one is a slot that has not become a run yet."""

    id: UUID
    state: LatestStatus
    started_at: UtcDatetime | None
    percent: float | None
    remaining_seconds: float | None


class JobAnswer(BaseModel):
    """A job; `settings` is what is written, the rest is read-only."""

    id: UUID
    version: int
    state: JobState
    suspended_reason: SuspendedReason | None
    created_at: UtcDatetime
    updated_at: UtcDatetime
    created_by: str
    next_slot_at: UtcDatetime | None
    latest_run: LatestRunAnswer | None
    settings: JobSettings

    @classmethod
    def of(cls, row: JobRow) -> "JobAnswer":
        """A job as it is answered."""
        run = row.latest_run
        latest = None
        if run is not None:
            latest = LatestRunAnswer.model_validate(
                {
                    "id": run.run_id, "state": run.status.value, "started_at": run.started_at,
                    "percent": run.percent, "remaining_seconds": run.remaining_seconds,
                }
            )  # fmt: skip
        return cls(
            **row.job.model_dump(exclude={"settings"}), settings=row.job.settings, next_slot_at=row.next_slot_at,
            latest_run=latest,
        )  # fmt: skip


class JobsAnswer(BaseModel):
    """A page of jobs; `next` is the `after` of the following page."""

    items: list[JobAnswer]
    next: str | None


class DraftAnswer(BaseModel):
    """Settings of a job that nobody has submitted yet."""

    settings: JobSettings


class ResumeBody(Settings):
    """What a resume does about the slots that were missed."""

    missed: Missed = Field(default="none", description="Which of the missed slots are requested.")
    dry_run: bool = Field(default=False, strict=True, description="Only list the missed slots.")


class MissedAnswer(BaseModel):
    """A dry run of a resume: at most the 1,000 oldest missed slots, and those that would be requested."""

    missed_since: UtcDatetime
    slots: list[SlotAnswer]
    more: bool
    requested: list[SlotAnswer]

    @classmethod
    def of(cls, found: MissedSlots) -> "MissedAnswer":
        """What was missed as it is answered."""
        return cls(
            missed_since=found.since, slots=[SlotAnswer.of(slot) for slot in found.slots], more=found.more,
            requested=[SlotAnswer.of(slot) for slot in found.requested],
        )  # fmt: skip


# --- runs and backfills -------------------------------------------------------------------------------------------


class RunOrderAnswer(BaseModel):
    """An accepted command: the run it makes or is about, and its job."""

    run_id: UUID
    job_id: UUID


class BackfillBody(Settings):
    """Past data intervals to export."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        json_schema_extra={"examples": [{"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}]},
    )

    from_: Moment = Field(alias="from")
    to: Moment
    reprocess: Reprocess = Field(default="missing", description="Which intervals are exported again.")
    max_parallel: Annotated[int, Field(strict=True, ge=1, le=16, description="As many runs at a time.")] = 1
    dry_run: bool = Field(default=False, strict=True, description="Only list the slots that would be requested.")

    def wanted(self) -> Wanted:
        """What is asked for."""
        return Wanted(self.from_, self.to, self.reprocess, self.max_parallel)


class BackfillAnswer(BaseModel):
    """A backfill and how far it is; `slots` and `open` are not known before the scheduler has divided it."""

    model_config = ConfigDict(serialize_by_alias=True)

    id: UUID
    job_id: UUID
    from_: UtcDatetime = Field(serialization_alias="from")
    to: UtcDatetime
    reprocess: Reprocess
    max_parallel: int
    requested_at: UtcDatetime
    requested_by: str
    state: BackfillState
    slots: int | None
    done: int
    failed: int
    cancelled: int
    open: int | None
    cancelled_at: UtcDatetime | None

    @classmethod
    def of(cls, backfill: Backfill) -> "BackfillAnswer":
        """A backfill as it is answered."""
        wanted = backfill.wanted
        return cls(
            id=backfill.backfill_id, job_id=backfill.job_id, from_=wanted.begin, to=wanted.end,
            reprocess=wanted.reprocess, max_parallel=wanted.max_parallel, requested_at=backfill.requested_at,
            requested_by=backfill.requested_by, state=backfill.state, slots=backfill.slots, done=backfill.succeeded,
            failed=backfill.failed, cancelled=backfill.cancelled,
            open=None if backfill.slots is None else max(0, backfill.slots - backfill.ended),
            cancelled_at=backfill.cancelled_at,
        )  # fmt: skip


class BackfillsAnswer(BaseModel):
    """A page of backfills, newest first; `next` is the `after` of the following page."""

    items: list[BackfillAnswer]
    next: str | None


class PlannedAnswer(BaseModel):
    """A dry run of a backfill: the slots it would request."""

    slots: list[SlotAnswer]


# --- preview ------------------------------------------------------------------------------------------------------


class PreviewBody(Settings):
    """Settings to look at before they are saved."""

    settings: JobSettings
    zone: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_+/-]+$")] = Field(
        default="UTC", description="IANA name of the time zone to show, such as Europe/Berlin."
    )


class PreviewSlotAnswer(BaseModel):
    """A slot in UTC and by the clocks of the zone."""

    at: UtcDatetime
    local: str = Field(description="RFC 3339 with the zone's offset.")
    trigger: Trigger
    interval: Interval

    @classmethod
    def of(cls, slot: ShownSlot) -> "PreviewSlotAnswer":
        """A slot as it is answered."""
        return cls(
            at=slot.at, local=slot.local.isoformat(), trigger=slot.trigger,
            interval=Interval(from_=slot.interval_from, to=slot.interval_to),
        )  # fmt: skip


class ClockChangeAnswer(BaseModel):
    """The next change of the zone's offset, and what it does to local times."""

    at: UtcDatetime
    offset_before: str
    offset_after: str
    message: str

    @classmethod
    def of(cls, change: ClockChange) -> "ClockChangeAnswer":
        """A change as it is answered."""
        before, after = (_offset(offset) for offset in (change.offset_before, change.offset_after))
        return cls(at=change.at, offset_before=before, offset_after=after, message=change.message)


def _offset(offset: timedelta) -> str:
    minutes = offset // timedelta(minutes=1)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


class SeamAnswer(BaseModel):
    """Data between two neighbouring slots that neither exports (`gap`), or both do (`overlap`)."""

    model_config = ConfigDict(serialize_by_alias=True)

    kind: Literal["gap", "overlap"]
    from_: UtcDatetime = Field(serialization_alias="from")
    to: UtcDatetime
    after_slot: UtcDatetime
    before_slot: UtcDatetime

    @classmethod
    def of(cls, seam: Seam) -> "SeamAnswer":
        """A seam as it is answered."""
        return cls(kind=seam.kind, from_=seam.begin, to=seam.end, after_slot=seam.before, before_slot=seam.after)


class PreviewAnswer(BaseModel):
    """What a job would do."""

    zone: str
    slots: list[PreviewSlotAnswer]
    certificate_required: bool = Field(description="Whether a valid certificate has to be added before submitting.")
    daylight_saving: ClockChangeAnswer | None
    gaps: list[SeamAnswer]
    warnings: list[str]

    @classmethod
    def of(cls, found: Preview, zone: ZoneInfo, *, certificate_required: bool) -> "PreviewAnswer":
        """A preview as it is answered."""
        change = found.clock_change
        return cls(
            zone=zone.key, slots=[PreviewSlotAnswer.of(slot) for slot in found.slots],
            certificate_required=certificate_required,
            daylight_saving=None if change is None else ClockChangeAnswer.of(change),
            gaps=[SeamAnswer.of(seam) for seam in found.seams], warnings=list(found.warnings),
        )  # fmt: skip


# --- certificates -------------------------------------------------------------------------------------------------


class CertificateAnswer(BaseModel):
    """A certificate; `warnings` says what its owner should know."""

    fingerprint: str
    subject: str
    not_before: UtcDatetime
    not_after: UtcDatetime
    valid: bool
    warnings: list[str]

    @classmethod
    def of(cls, certificate: Certificate, now: datetime) -> "CertificateAnswer":
        """A certificate as it is answered at `now`."""
        return cls(
            fingerprint=certificate.fingerprint, subject=certificate.subject, not_before=certificate.not_before,
            not_after=certificate.not_after, valid=certificate.valid_at(now),
            warnings=certificates.warnings(certificate, now),
        )  # fmt: skip


class CertificatesAnswer(BaseModel):
    """All certificates of the tenant, the one that lasts longest first."""

    items: list[CertificateAnswer]
    next: None = None


class CertificateRemovedAnswer(BaseModel):
    """A certificate that exports are not encrypted for any more."""

    fingerprint: str
    warnings: list[str]

    @classmethod
    def of(cls, fingerprint: str, left: Sequence[Certificate], now: datetime) -> "CertificateRemovedAnswer":
        """The removal as it is answered, with the certificates that are left."""
        return cls(fingerprint=fingerprint, warnings=certificates.warnings_after_removal(left, now))
