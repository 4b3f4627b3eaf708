"""Every event of the system, and the topics they travel on.

An event is a frozen model in the past tense. On Kafka it is a CloudEvents 1.0 record in binary mode: the headers of
`shared.messaging` and the JSON of the model as value. Adding an optional field is allowed; anything else is a new
major version, on a new topic.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Literal
from uuid import UUID

import uuid_utils.compat
from pydantic import BaseModel, ConfigDict, Field

from shared.clock import UtcDatetime
from shared.jobs import CsvProfile, Encryption, Format, JobSettings, Masking, Retry


@dataclass(frozen=True, slots=True)
class Topic:
    """A Kafka topic; records with one key keep their order, and `key` names the event field that is the key."""

    name: str
    key: str

    @property
    def owner(self) -> str:
        """The only service that writes to it."""
        return self.name.partition(".")[0]

    @property
    def dead(self) -> str:
        """Where consumers put the records they can't apply, with the reason."""
        return f"{self.name}.dead"

    @property
    def replay(self) -> str:
        """Where its owner copies all its events to when history is rebuilt."""
        return f"{self.name}.replay"


JOBS = Topic("job_api.jobs.v1", key="job_id")
CERTIFICATES = Topic("job_api.certificates.v1", key="tenant")
SCHEDULED_RUNS = Topic("scheduler.runs.v1", key="job_id")
EXPORTED_RUNS = Topic("exporter.runs.v1", key="run_id")
TOPICS = (JOBS, CERTIFICATES, SCHEDULED_RUNS, EXPORTED_RUNS)


def new_event_id() -> UUID:
    """A UUIDv7: unique, and roughly ordered by time."""
    return uuid_utils.compat.uuid7()


class Event(BaseModel):
    """What every event carries; `occurred_at` is the database clock of the owner."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    topic: ClassVar[Topic]
    major: ClassVar[int] = 1
    lasting: ClassVar[bool] = False
    """Whether the newest one says how something is now, and so is kept and followed however old it is."""

    event_id: UUID = Field(default_factory=new_event_id)
    occurred_at: UtcDatetime
    tenant: str

    @classmethod
    def type_name(cls) -> str:
        """The CloudEvents type: the model's name and its major version."""
        return f"cdds.{cls.__name__}.v{cls.major}"

    @property
    def key(self) -> str:
        """The record key: the entity whose order matters."""
        return str(getattr(self, self.topic.key))


# --- jobs ---------------------------------------------------------------------------------------------------------


class JobState(StrEnum):
    """Whether a job's schedule is followed."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETED = "deleted"


class SuspendedReason(StrEnum):
    """Why a job is suspended."""

    USER = "user"
    ONE_TIME = "one_time"
    FAILURES = "failures"


class Job(BaseModel):
    """A job as its owner last wrote it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: UUID
    version: int
    state: JobState
    suspended_reason: SuspendedReason | None = None
    created_at: UtcDatetime
    updated_at: UtcDatetime
    created_by: str
    settings: JobSettings


class JobEvent(Event):
    """A change of a job, with the whole job; the greater `job.version` wins."""

    topic: ClassVar[Topic] = JOBS
    lasting: ClassVar[bool] = True

    job_id: UUID
    actor: str
    job: Job


class JobCreated(JobEvent):
    """Published by job_api when a job was submitted."""


class JobUpdated(JobEvent):
    """Published by job_api when a job's settings changed."""


class JobSuspended(JobEvent):
    """Published by job_api when a job stopped following its schedule."""


Missed = Literal["none", "latest", "all"]


class JobResumed(JobEvent):
    """Published by job_api when a job follows its schedule again.

    `missed` says what shall become of the slots since `missed_since`, when it stopped.
    """

    missed: Missed = "none"
    missed_since: UtcDatetime | None = None


class JobDeleted(JobEvent):
    """Published by job_api when a job was deleted; its history and artifacts stay."""


class JobCommand(Event):
    """Something asked of a job or a run; `event_id` is the command id in slot keys."""

    topic: ClassVar[Topic] = JOBS

    job_id: UUID
    actor: str


class RunNowRequested(JobCommand):
    """Published by job_api when a run was asked for by hand."""


Reprocess = Literal["missing", "missing_and_failed", "all"]


class BackfillRequested(JobCommand):
    """Published by job_api when past data intervals were asked for; the command id is the backfill's id."""

    interval_from: UtcDatetime
    interval_to: UtcDatetime
    reprocess: Reprocess = "missing"
    max_parallel: int = 1


class BackfillCancelRequested(JobCommand):
    """Published by job_api when a backfill shall end, with its runs in progress."""

    backfill_id: UUID


class RunCancelRequested(JobCommand):
    """Published by job_api when a run in progress shall end."""

    run_id: UUID


class RunRetryRequested(JobCommand):
    """Published by job_api when a finished run shall be repeated as a new run."""

    run_id: UUID


# --- certificates -------------------------------------------------------------------------------------------------


class CertificateEvent(Event):
    """A change of the certificates exports of a tenant are encrypted for."""

    topic: ClassVar[Topic] = CERTIFICATES
    lasting: ClassVar[bool] = True

    fingerprint: str
    actor: str


class CertificateAdded(CertificateEvent):
    """Published by job_api when a certificate was accepted."""

    pem: str
    not_after: UtcDatetime


class CertificateRemoved(CertificateEvent):
    """Published by job_api when a certificate was taken back."""


# --- scheduling ---------------------------------------------------------------------------------------------------


class Trigger(StrEnum):
    """What made a slot."""

    SCHEDULE = "schedule"
    IMMEDIATE = "immediate"
    MANUAL = "manual"
    RETRY = "retry"
    BACKFILL = "backfill"


class Slot(BaseModel):
    """One due boundary of a job; (job, `key`) names it for ever."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    at: UtcDatetime
    trigger: Trigger


class Question(BaseModel):
    """All that a run has to answer: asked again, it is the same question."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    source: str
    type: str
    media_types: Literal["all"] | tuple[str, ...]
    interval_from: UtcDatetime | None
    interval_to: UtcDatetime
    split_bytes: int | None
    format: Format
    encryption: Encryption
    recipients: tuple[str, ...] | None
    fields: tuple[str, ...] | None = None
    masking: dict[str, Masking] | None = None
    csv_profile: CsvProfile = "spreadsheet"
    attachments: bool = False


class ScheduleEvent(Event):
    """Something the scheduler decided about a job."""

    topic: ClassVar[Topic] = SCHEDULED_RUNS

    job_id: UUID
    job_version: int


class RunRequested(ScheduleEvent):
    """Published by scheduler when a slot became a run; exactly once per slot."""

    run_id: UUID
    slot: Slot
    question: Question
    title: str
    retry: Retry = Retry()
    retry_of: UUID | None = None


class RunCancelOrdered(ScheduleEvent):
    """Published by scheduler when a run in progress shall end."""

    run_id: UUID
    actor: str


class BackfillStarted(ScheduleEvent):
    """Published by scheduler when it has divided a backfill into `slots` slots, each of which waits for its turn."""

    backfill_id: UUID
    slots: int


class SlotWaiting(ScheduleEvent):
    """Published by scheduler when a slot is held back by the overlap policy or a backfill's parallel limit."""

    slot: Slot


class SlotSkipped(ScheduleEvent):
    """Published by scheduler when a slot will not run."""

    slot: Slot
    reason: Literal["overlap", "buffer_full", "cancelled"]


class SlotMissed(ScheduleEvent):
    """Published by scheduler when slots passed while nobody could request them."""

    slot: Slot
    reason: Literal["catchup_window", "coalesced", "suspended"]
    count: int = 1


class ScheduleComputed(ScheduleEvent):
    """Published by scheduler when a job's next slot changed; none when nothing is due any more."""

    next_slot_at: UtcDatetime | None


class ScheduleCompleted(ScheduleEvent):
    """Published by scheduler when a one-time job's only slot was requested."""


class SchedulePaused(ScheduleEvent):
    """Published by scheduler when too many scheduled runs failed in a row."""

    failures: int


# --- runs ---------------------------------------------------------------------------------------------------------


class RunState(StrEnum):
    """Where a run is; the last three are terminal and never left."""

    REQUESTED = "requested"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the run has ended."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


class Progress(BaseModel):
    """How far an attempt is; the greatest (attempt, sequence) is the newest."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    attempt: int
    sequence: int
    rows: int
    bytes: int
    total: int | None
    percent: float | None
    remaining_seconds: float | None


class Part(BaseModel):
    """One stored file of a run's output."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    artifact_id: UUID
    number: int
    file_name: str
    size_bytes: int
    rows: int
    sha256: str
    entity: str | None = None
    """What the rows are, as in the name of the file inside: `Interaction`, `Interaction-Attachment`."""


class RunEvent(Event):
    """Something that happened to a run; `version` grows with every stored change of the run."""

    topic: ClassVar[Topic] = EXPORTED_RUNS

    run_id: UUID
    job_id: UUID
    version: int
    attempt: int = 0
    requested_at: UtcDatetime | None = None
    """When the run was requested, which says in which month history keeps it; older exporters did not tell."""


class RunQueued(RunEvent):
    """Published by exporter when it wrote the request down."""


class RunStarted(RunEvent):
    """Published by exporter when a worker claimed an attempt."""

    worker: str


class RunProgressed(Event):
    """Published by exporter while an attempt runs; skips the outbox, and losing one changes nothing."""

    topic: ClassVar[Topic] = EXPORTED_RUNS

    run_id: UUID
    job_id: UUID
    progress: Progress
    requested_at: UtcDatetime | None = None


class RunAttemptFailed(RunEvent):
    """Published by exporter when an attempt ended without result and another one follows."""

    reason: str
    message: str


class ArtifactStored(RunEvent):
    """Published by exporter in the terminal transaction, once per part."""

    part: Part
    expires_at: UtcDatetime
    title: str | None = None
    source: str | None = None
    type: str | None = None


class RunSucceeded(RunEvent):
    """Published by exporter when all parts are stored and verified; `rows` and `bytes` count attachments, too."""

    rows: int
    bytes: int
    parts: int
    snapshot: str
    manifest_id: UUID
    manifest_sha256: str
    schema_id: UUID | None = None


class RunFailed(RunEvent):
    """Published by exporter when the last attempt failed."""

    reason: str
    message: str


class RunCancelled(RunEvent):
    """Published by exporter when a run was ended on order."""

    actor: str


class ArtifactDownloaded(Event):
    """Published by exporter once per download request."""

    topic: ClassVar[Topic] = EXPORTED_RUNS

    run_id: UUID
    artifact_id: UUID
    actor: str


class ArtifactDeleted(Event):
    """Published by exporter when an artifact's bytes are gone."""

    topic: ClassVar[Topic] = EXPORTED_RUNS

    run_id: UUID
    artifact_id: UUID
    reason: Literal["expired", "requested"]
    actor: str
    requested_at: UtcDatetime | None = None


def _concrete(base: type[Event]) -> list[type[Event]]:
    children = base.__subclasses__()
    return [leaf for child in children for leaf in _concrete(child)] if children else [base]


EVENT_TYPES: dict[str, type[Event]] = {event.type_name(): event for event in _concrete(Event)}
"""Every event by its CloudEvents type."""
