"""One event of every type, with everything in it that it can carry; the committed golden messages are made of these."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from shared import events
from shared.events import Event, Job, JobState, Part, Progress, Question, Slot, SuspendedReason, Trigger
from shared.jobs import JobSettings, Retry

NOW = datetime(2026, 3, 29, 4, 0, 0, 123456, tzinfo=UTC)
SLOT_AT = datetime(2026, 3, 29, 4, tzinfo=UTC)
TENANT = "acme"
JOB = UUID("0b9c5a52-8f0e-4d7b-9a53-6f1f2f6f4a01")
RUN = UUID("6f1d9b0e-37c4-5f0a-8a5e-2d6f0d3b7c02")
BACKFILL = UUID("01990000-0000-7000-8000-00000000c001")
ARTIFACT = UUID("01990000-0000-7000-8000-00000000a001")
FINGERPRINT = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

SETTINGS = JobSettings.model_validate(
    {
        "key": "nightly-voice",
        "title": "Voice – every four hours",
        "description": "For the data warehouse",
        "source": "ucs",
        "type": "interaction",
        "media_types": ["voice", "chat"],
        "schedule": {"kind": "hourly", "every": 4},
        "start": "2026-03-29T00:00:00Z",
        "ends_at": "2027-01-01T00:00:00Z",
        "timeframe": {"kind": "last", "count": 4, "unit": "hour"},
        "split_bytes": 64 * 1024 * 1024,
        "fields": ["ixnId", "startDate", "customerPhone"],
        "masking": {"customerPhone": "hash"},
        "recipients": [FINGERPRINT],
        "overlap": "buffer_one",
        "catchup": {"mode": "all", "window": "P3D"},
        "jitter": "PT5M",
        "pause_after_failures": 3,
        "retry": {"attempts": 5, "backoff": "PT2M"},
        "labels": {"team": "analytics"},
    }
)
ACTIVE = Job(
    id=JOB, version=3, state=JobState.ACTIVE, created_at=NOW - timedelta(days=2), updated_at=NOW,
    created_by="alice", settings=SETTINGS,
)  # fmt: skip
SUSPENDED = ACTIVE.model_copy(update={"state": JobState.SUSPENDED, "suspended_reason": SuspendedReason.USER})
DELETED = ACTIVE.model_copy(update={"state": JobState.DELETED})
SLOT = Slot(key="schedule:2026-03-29T04:00:00Z", at=SLOT_AT, trigger=Trigger.SCHEDULE)
QUESTION = Question(
    source="ucs", type="interaction", media_types=("voice", "chat"),
    interval_from=SLOT_AT - timedelta(hours=4), interval_to=SLOT_AT, split_bytes=64 * 1024 * 1024,
    format="jsonl", encryption="gcm", recipients=(FINGERPRINT,),
    fields=("ixnId", "startDate", "customerPhone"), masking={"customerPhone": "hash"},
)  # fmt: skip
PROGRESS = Progress(attempt=1, sequence=7, rows=1200, bytes=345678, total=4800, percent=25.0, remaining_seconds=90.5)
PART = Part(
    artifact_id=ARTIFACT, number=1, file_name=f"export-{RUN}-0001-of-0001.zip.p7m",
    size_bytes=345678, rows=4800, sha256=FINGERPRINT, entity="Interaction",
)  # fmt: skip

_JOB = {"job_id": JOB, "actor": "alice"}
_SCHEDULE = {"job_id": JOB, "job_version": 3}
_RUN = {"run_id": RUN, "job_id": JOB, "requested_at": SLOT_AT, "version": 4, "attempt": 1}
_FILE = {"run_id": RUN, "artifact_id": ARTIFACT, "actor": "bob"}

_FIELDS: dict[type[Event], dict[str, Any]] = {
    events.JobCreated: {**_JOB, "job": ACTIVE},
    events.JobUpdated: {**_JOB, "job": ACTIVE},
    events.JobSuspended: {**_JOB, "job": SUSPENDED},
    events.JobResumed: {**_JOB, "job": ACTIVE, "missed": "latest", "missed_since": NOW - timedelta(days=1)},
    events.JobDeleted: {**_JOB, "job": DELETED},
    events.RunNowRequested: _JOB,
    events.BackfillRequested: {
        **_JOB, "interval_from": SLOT_AT - timedelta(days=7), "interval_to": SLOT_AT,
        "reprocess": "missing_and_failed", "max_parallel": 2,
    },
    events.RunCancelRequested: {**_JOB, "run_id": RUN},
    events.RunRetryRequested: {**_JOB, "run_id": RUN},
    events.CertificateAdded: {
        "fingerprint": FINGERPRINT, "actor": "alice", "not_after": datetime(2027, 1, 1, tzinfo=UTC),
        "pem": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    },
    events.CertificateRemoved: {"fingerprint": FINGERPRINT, "actor": "alice"},
    events.RunRequested: {
        **_SCHEDULE, "run_id": RUN, "slot": SLOT, "question": QUESTION, "title": SETTINGS.title,
        "retry": Retry(attempts=5, backoff=timedelta(minutes=2)),
        "retry_of": UUID("6f1d9b0e-37c4-5f0a-8a5e-2d6f0d3b7c01"),
    },
    events.RunCancelOrdered: {**_SCHEDULE, "run_id": RUN, "actor": "alice"},
    events.SlotWaiting: {**_SCHEDULE, "slot": SLOT},
    events.SlotSkipped: {**_SCHEDULE, "slot": SLOT, "reason": "overlap"},
    events.SlotMissed: {**_SCHEDULE, "slot": SLOT, "reason": "catchup_window", "count": 3},
    events.ScheduleComputed: {**_SCHEDULE, "next_slot_at": SLOT_AT + timedelta(hours=4)},
    events.ScheduleCompleted: _SCHEDULE,
    events.SchedulePaused: {**_SCHEDULE, "failures": 5},
    events.RunQueued: {**_RUN, "attempt": 0},
    events.RunStarted: {**_RUN, "worker": "exporter-1"},
    events.RunProgressed: {"run_id": RUN, "job_id": JOB, "requested_at": SLOT_AT, "progress": PROGRESS},
    events.RunAttemptFailed: {**_RUN, "reason": "source_unavailable", "message": "the source does not answer"},
    events.ArtifactStored: {
        **_RUN, "part": PART, "expires_at": NOW + timedelta(days=14), "title": SETTINGS.title,
        "source": "ucs", "type": "interaction",
    },
    events.RunSucceeded: {
        **_RUN, "rows": 4800, "bytes": 345678, "parts": 1, "snapshot": "00000003-0000001B-1",
        "manifest_id": UUID("01990000-0000-7000-8000-00000000b001"), "manifest_sha256": FINGERPRINT,
        "schema_id": UUID("01990000-0000-7000-8000-00000000b002"),
    },
    events.RunFailed: {**_RUN, "reason": "certificate_required", "message": "the tenant has no valid certificate"},
    events.RunCancelled: {**_RUN, "actor": "alice"},
    events.ArtifactDownloaded: _FILE,
    events.ArtifactDeleted: {**_FILE, "reason": "expired", "requested_at": SLOT_AT},
    events.BackfillStarted: {**_SCHEDULE, "backfill_id": BACKFILL, "slots": 42},
    events.BackfillCancelRequested: {**_JOB, "backfill_id": BACKFILL},
}  # fmt: skip


def example(event: type[Event]) -> Event:
    """The example of a type; its event id is numbered by the type's place in the list."""
    number = list(_FIELDS).index(event) + 1
    identity = {
        "event_id": UUID(f"01990000-0000-7000-8000-{number:012x}"),
        "occurred_at": NOW,
        "tenant": TENANT,
    }
    return event.model_validate({**identity, **_FIELDS[event]})


EXAMPLES: dict[type[Event], Event] = {event: example(event) for event in _FIELDS}
