"""What `make bench-history` feeds history with: the lives of runs as the other services tell them, in order of time."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import islice
from random import Random
from typing import Any, Final
from uuid import UUID

from shared import slots
from shared.events import (
    ArtifactDownloaded,
    ArtifactStored,
    Event,
    Job,
    JobCreated,
    JobState,
    JobUpdated,
    Part,
    Progress,
    RunAttemptFailed,
    RunFailed,
    RunNowRequested,
    RunProgressed,
    RunQueued,
    RunRequested,
    RunStarted,
    RunSucceeded,
    Slot,
    SlotSkipped,
    Trigger,
    new_event_id,
)
from shared.jobs import JobSettings

TENANTS: Final = tuple(f"tenant-{number:02}" for number in range(20))
JOBS: Final = 500
EVENTS_PER_RUN: Final = 8.6
"""On average, with those of jobs; it only says how far apart the runs begin."""

_SUBJECTS: Final = (
    "Interactions",
    "Contact history",
    "Agent states",
    "Voice recordings",
    "Chat transcripts",
    "Surveys",
)
_PLACES: Final = ("Köln", "Lisbon", "São Paulo", "Manila", "Kraków", "Denver", "Pune", "Dublin")
_TYPES: Final = ("interaction", "contact", "agent_state", "survey")
_SCHEDULES: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("every hour", {"schedule": {"kind": "hourly", "every": 1}, "timeframe": {"kind": "last", "unit": "hour"}}),
    ("every four hours", {"schedule": {"kind": "hourly", "every": 4}, "timeframe": {"kind": "all"}}),
    ("nightly", {"schedule": {"kind": "daily", "at": "02:30"}, "timeframe": {"kind": "last", "unit": "day"}}),
)
_FAILURES: Final = (
    ("source_unavailable", "The source did not answer: connection refused by host warehouse-replica-2, port 5432."),
    ("export_failed", "The worker lost its lease; what it had written was discarded."),
    ("source_refused", 'The source refused the query: column "customerPhone" of relation "interactions" is gone.'),
)


@dataclass(slots=True)
class _Job:
    """A job, and the newest version of it."""

    id: UUID
    tenant: str
    created_at: datetime
    version: int
    settings: JobSettings

    def told(self, kind: type[JobCreated] | type[JobUpdated], at: datetime) -> Event:
        job = Job(
            id=self.id, version=self.version, state=JobState.ACTIVE, created_at=self.created_at, updated_at=at,
            created_by=f"admin@{self.tenant}.example", settings=self.settings,
        )  # fmt: skip
        return kind(occurred_at=at, tenant=self.tenant, job_id=self.id, actor=job.created_by, job=job)


def lives(count: int, since: datetime, until: datetime, longest: timedelta, seed: int = 1) -> Iterator[Event]:
    """`count` events of runs that begin evenly between `since` and about `until`, and take no longer than `longest`.

    The last runs are still going on when the events end.
    """
    random = Random(seed)
    jobs = [_job(random, number, since) for number in range(JOBS)]
    return islice(_in_order(random, jobs, (until - since) / (count / EVENTS_PER_RUN), since, longest), count)


def paced(events: Iterable[Event], since: datetime, rate: int) -> Iterator[Event]:
    """The same events, but `rate` a second from `since` on; of each run, everything keeps saying when it began."""
    requested: dict[UUID, datetime] = {}
    for number, event in enumerate(events):
        at = since + timedelta(seconds=number / rate)
        changes: dict[str, object] = {"occurred_at": at}
        if isinstance(event, RunRequested):
            requested[event.run_id] = at
        elif getattr(event, "requested_at", None) is not None:
            changes["requested_at"] = requested[getattr(event, "run_id")]  # noqa: B009 - not every event has it
        yield event.model_copy(update=changes)


def _in_order(random: Random, jobs: list[_Job], gap: timedelta, since: datetime, longest: timedelta) -> Iterator[Event]:
    yield from (job.told(JobCreated, since) for job in jobs)
    coming: list[tuple[datetime, int, Event]] = []
    told = 0
    begin = since
    while True:
        begin += gap
        while coming and coming[0][0] <= begin:
            yield heapq.heappop(coming)[2]
        # Some jobs run often, most do not.
        for event in _life(random, jobs[int(len(jobs) * random.random() ** 2)], begin, longest):
            told += 1
            heapq.heappush(coming, (event.occurred_at, told, event))


def _job(random: Random, number: int, at: datetime) -> _Job:
    often, rhythm = random.choice(_SCHEDULES)
    settings = JobSettings.model_validate(
        {
            **rhythm,
            "key": f"job-{number}",
            "title": f"{random.choice(_SUBJECTS)} {random.choice(_PLACES)} {number} – {often}",
            "description": "Feeds the warehouse; asked for by the reporting team.",
            "source": random.choice(("ucs", "ucs", "contact_history")),
            "type": random.choice(_TYPES),
            "media_types": ["voice", "chat"],
            "fields": ["ixnId", "startDate", "mediaTypeId", "customerPhone"],
            "masking": {"customerPhone": "hash"},
            "recipients": [sha256(b"%d" % number).hexdigest()],
            "labels": {"team": random.choice(("analytics", "billing", "quality")), "stage": "production"},
        }
    )
    return _Job(UUID(int=random.getrandbits(128), version=4), random.choice(TENANTS), at, 1, settings)


def _life(random: Random, job: _Job, begin: datetime, longest: timedelta) -> Iterator[Event]:
    """All that is told because one slot of `job` came due."""
    about_job: dict[str, Any] = {"tenant": job.tenant, "job_id": job.id}
    if random.random() < 0.02:
        job.version += 1
        job.settings = job.settings.model_copy(update={"description": f"Version {job.version} of it."})
        yield job.told(JobUpdated, begin)
    trigger = Trigger.SCHEDULE
    if random.random() < 0.05:
        trigger = Trigger.MANUAL
        yield RunNowRequested(**about_job, occurred_at=begin, actor=f"operator@{job.tenant}.example")
    at = begin + timedelta(milliseconds=random.uniform(1, 20))
    slot = Slot(key=f"{trigger}:{begin.isoformat()}", at=begin, trigger=trigger)
    if random.random() < 0.01:
        yield SlotSkipped(**about_job, occurred_at=at, job_version=job.version, slot=slot, reason="overlap")
        return
    question = slots.question(job.settings, begin - timedelta(hours=1), begin)
    run_id = slots.run_id(job.id, slot.key)
    yield RunRequested(
        **about_job, occurred_at=at, job_version=job.version, run_id=run_id, slot=slot, question=question,
        title=job.settings.title, retry=job.settings.retry,
    )  # fmt: skip
    yield from _answer(random, job, run_id, at, longest)


def _answer(random: Random, job: _Job, run_id: UUID, requested_at: datetime, longest: timedelta) -> Iterator[Event]:
    """What the exporter tells of one run."""
    takes = longest * min(1.0, random.paretovariate(1.2) / 50)
    attempts = random.choices((1, 2, 3), (0.95, 0.04, 0.01))[0]
    fails = random.random() < 0.04
    rows = int(random.lognormvariate(9, 2))
    now, version = requested_at, 0

    def about(after: timedelta) -> dict[str, Any]:
        nonlocal now
        now += after
        return {
            "occurred_at": now, "tenant": job.tenant, "run_id": run_id, "job_id": job.id, "requested_at": requested_at
        }  # fmt: skip

    def changed(after: timedelta, attempt: int) -> dict[str, Any]:
        nonlocal version
        version += 1
        return {**about(after), "version": version, "attempt": attempt}

    yield RunQueued(**changed(timedelta(milliseconds=random.uniform(2, 30)), 0))
    for attempt in range(1, attempts + 1):
        yield RunStarted(**changed(takes * random.uniform(0.001, 0.2), attempt), worker=f"exporter-{attempt}-7d9c4b")
        ticks = random.randint(2, 4)
        for sequence in range(1, ticks + 1):
            done = sequence / (ticks + 1)
            progress = Progress(
                attempt=attempt, sequence=sequence, rows=int(rows * done), bytes=int(rows * done * 91), total=rows,
                percent=round(100 * done, 1), remaining_seconds=round((takes * (1 - done)).total_seconds(), 1),
            )  # fmt: skip
            yield RunProgressed(**about(takes / 5), progress=progress)
        reason, message = random.choice(_FAILURES)
        if attempt < attempts:
            yield RunAttemptFailed(**changed(takes / 10, attempt), reason=reason, message=message)
        elif fails:
            yield RunFailed(**changed(takes / 10, attempt), reason=reason, message=message)
        else:
            yield from _success(random, job, rows, changed(takes / 10, attempt))


def _success(random: Random, job: _Job, rows: int, about: dict[str, Any]) -> Iterator[Event]:
    """The end of a run, told at once, and somebody who fetches a file."""
    parts = 2 if random.random() < 0.3 else 1
    size, entity = max(400, rows * 91), "Interaction"
    files = [
        Part(
            artifact_id=new_event_id(), number=number, size_bytes=size // parts, rows=rows // parts, entity=entity,
            file_name=f"export-{about['run_id']}-{number:04}-of-{parts:04}.zip.p7m",
            sha256=sha256(random.randbytes(8)).hexdigest(),
        )
        for number in range(1, parts + 1)
    ]  # fmt: skip
    for part in files:
        yield ArtifactStored(
            **about, part=part, expires_at=about["occurred_at"] + timedelta(days=30), title=job.settings.title,
            source=job.settings.source, type=job.settings.type,
        )  # fmt: skip
    yield RunSucceeded(
        **about, rows=rows, bytes=size, parts=parts, snapshot=f"{random.getrandbits(32):08X}-0000001B-1",
        manifest_id=new_event_id(), manifest_sha256=sha256(random.randbytes(8)).hexdigest(), schema_id=new_event_id(),
    )  # fmt: skip
    if random.random() < 0.1:
        yield ArtifactDownloaded(
            occurred_at=about["occurred_at"] + timedelta(minutes=5), tenant=job.tenant, run_id=about["run_id"],
            artifact_id=files[0].artifact_id, actor=f"operator@{job.tenant}.example",
        )  # fmt: skip
