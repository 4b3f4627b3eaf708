"""What the other services say about runs, for history's tests."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4, uuid5

from services.history.domain.batch import Batch
from services.history.store import Store
from shared.database import Database
from shared.events import (
    ArtifactDeleted,
    ArtifactDownloaded,
    ArtifactStored,
    CertificateRemoved,
    Event,
    JobUpdated,
    Part,
    Progress,
    Question,
    RunAttemptFailed,
    RunCancelled,
    RunFailed,
    RunNowRequested,
    RunProgressed,
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
from tests.contracts.examples import ACTIVE, SETTINGS

START = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0) - timedelta(days=59)
"""Recent enough to be kept whenever the tests run, and runs cross from one month into the next."""


class Run:
    """Makes the events of one run, each a second later than the one before."""

    def __init__(self, tenant: str = "t1", job_id: UUID | None = None, start: datetime = START) -> None:
        self.tenant = tenant
        self.job_id = job_id or uuid4()
        self.run_id = uuid4()
        self.now = start
        self.requested_at = start + timedelta(seconds=1)
        self.version = 0
        self.attempt = 0
        self.sequence = 0

    def requested(self) -> RunRequested:
        question = Question(
            source="ucs",
            type="interaction",
            media_types="all",
            interval_from=START - timedelta(days=1),
            interval_to=START,
            split_bytes=None,
            format="jsonl",
            encryption="gcm",
            recipients=None,
        )
        slot = Slot(key=f"manual:{self.run_id}", at=START, trigger=Trigger.MANUAL)
        about = {**self._about("requested_at"), "occurred_at": self.requested_at}
        return RunRequested(**about, job_version=1, slot=slot, question=question, title="Interactions")

    def waiting(self) -> SlotWaiting:
        """What the scheduler said before the request, if the slot had to wait."""
        about = {**self._about("run_id", "requested_at"), "occurred_at": self.requested_at}
        slot = Slot(key=f"manual:{self.run_id}", at=START, trigger=Trigger.MANUAL)
        return SlotWaiting(**about, job_version=1, slot=slot)

    def queued(self) -> RunQueued:
        return RunQueued(**self._changed())

    def started(self) -> RunStarted:
        self.attempt += 1
        self.sequence = 0
        return RunStarted(**self._changed(), worker=f"w{self.attempt}")

    def progressed(self, *, attempt: int | None = None, sequence: int | None = None) -> RunProgressed:
        self.sequence += 1
        progress = Progress(
            attempt=self.attempt if attempt is None else attempt,
            sequence=self.sequence if sequence is None else sequence,
            rows=1,
            bytes=1,
            total=10,
            percent=10.0,
            remaining_seconds=1.0,
        )
        return RunProgressed(**self._about(), progress=progress)

    def attempt_failed(self) -> RunAttemptFailed:
        return RunAttemptFailed(**self._changed(), reason="export_failed", message=f"attempt {self.attempt}")

    def succeeded(self, parts: int = 2) -> list[Event]:
        """The parts and the end, as one transaction of the exporter tells them: with one version."""
        about = self._changed()
        stored = [
            ArtifactStored(
                **about,
                part=self.part(number),
                expires_at=self.now + timedelta(days=30),
                title="Interactions",
                source="ucs",
                type="interaction",
            )
            for number in range(1, parts + 1)
        ]
        end = RunSucceeded(
            **about,
            rows=10,
            bytes=100,
            parts=parts,
            snapshot="1:1:",
            manifest_id=uuid5(self.run_id, "manifest"),
            manifest_sha256="ab" * 32,
        )
        return [*stored, end]

    def failed(self) -> RunFailed:
        return RunFailed(**self._changed(), reason="source_refused", message="There is no such table.")

    def cancelled(self) -> RunCancelled:
        return RunCancelled(**self._changed(), actor="operator")

    def part(self, number: int) -> Part:
        artifact_id = uuid5(self.run_id, f"part/{number}")
        name = f"export-{number:04}.zip.p7m"
        return Part(artifact_id=artifact_id, number=number, file_name=name, size_bytes=9, rows=5, sha256="cd" * 32)

    def downloaded(self, number: int) -> ArtifactDownloaded:
        about = self._about("requested_at")
        return ArtifactDownloaded(**about, artifact_id=self.part(number).artifact_id, actor="operator")

    def deleted(self, number: int) -> ArtifactDeleted:
        about = self._about()
        return ArtifactDeleted(**about, artifact_id=self.part(number).artifact_id, reason="expired", actor="retention")

    def _about(self, *without: str) -> dict[str, Any]:
        self.now += timedelta(seconds=1)
        about = {
            "occurred_at": self.now,
            "tenant": self.tenant,
            "run_id": self.run_id,
            "job_id": self.job_id,
            "requested_at": self.requested_at,
        }
        return {name: value for name, value in about.items() if name not in without}

    def _changed(self) -> dict[str, Any]:
        self.version += 1
        return {**self._about(), "version": self.version, "attempt": self.attempt}


def finished_run(**where: Any) -> tuple[Run, list[Event]]:
    """A run that succeeded at its first attempt, and all its events."""
    run = Run(**where)
    return run, [run.requested(), run.queued(), run.started(), run.progressed(), *run.succeeded()]


def streams(random: Random) -> list[list[Event]]:
    """Lives of a few runs of two jobs and what happens beside them; each list is one key of one topic, in order."""
    found: list[list[Event]] = []
    for tenant in ("t1", "t2"):
        job_id = uuid4()
        runs = [Run(tenant, job_id) for _ in range(random.randint(1, 3))]
        asked = [RunNowRequested(occurred_at=START, tenant=tenant, job_id=job_id, actor="a") for _ in range(2)]
        jobs = [job_event(tenant, job_id, version) for version in range(1, random.randint(1, 3))]
        waited = runs[0].waiting()
        found.append([waited, *(run.requested() for run in runs), *beside(tenant, job_id)])
        found.append([*jobs, *asked])
        found.append([CertificateRemoved(occurred_at=START, tenant=tenant, fingerprint="f", actor="a")])
        found += [life(run, random) for run in runs]
    return found


def beside(tenant: str, job_id: UUID | None = None) -> list[Event]:
    """What the scheduler says about slots that became no run, and of which one waits still."""
    said: dict[str, Any] = {"occurred_at": START, "tenant": tenant, "job_id": job_id or uuid4(), "job_version": 1}

    def slot(key: str) -> Slot:
        return Slot(key=key, at=START, trigger=Trigger.SCHEDULE)

    return [
        SlotWaiting(**said, slot=slot("schedule:a")),
        SlotSkipped(**said, slot=slot("schedule:a"), reason="cancelled"),
        SlotSkipped(**said, slot=slot("schedule:b"), reason="overlap"),
        SlotMissed(**said, slot=slot("schedule:c"), reason="suspended", count=7),
        SlotWaiting(**said, slot=slot("schedule:d")),
        job_event(tenant, said["job_id"], 1),
    ]


def job_event(tenant: str, job_id: UUID, version: int) -> JobUpdated:
    """A job's new version, whose title says which."""
    settings = SETTINGS.model_copy(update={"title": f"Version {version}", "labels": {"team": tenant}})
    job = ACTIVE.model_copy(update={"id": job_id, "version": version, "settings": settings})
    return JobUpdated(occurred_at=START, tenant=tenant, job_id=job_id, actor="a", job=job)


def life(run: Run, random: Random) -> list[Event]:
    """The exporter's events of one run: some attempts, and mostly an end."""
    events: list[Event] = [run.queued()]
    for last in [False] * random.randint(0, 2) + [True]:
        events.append(run.started())
        events += [run.progressed() for _ in range(random.randint(0, 3))]
        if not last:
            events.append(run.attempt_failed())
    match random.randint(0, 4):
        case 0:
            events.append(run.failed())
        case 1:
            events.append(run.cancelled())
        case 2:
            pass
        case _:
            events += [*run.succeeded(), run.downloaded(1), run.deleted(1)]
    return events


def delivered(found: Sequence[Sequence[Event]], random: Random) -> list[list[Event]]:
    """The streams as a consumer group may get them: interleaved, rewound now and then, in batches of any size."""
    positions = [0] * len(found)
    order: list[Event] = []
    while unread := [n for n, stream in enumerate(found) if positions[n] < len(stream)]:
        chosen = random.choice(unread)
        order.append(found[chosen][positions[chosen]])
        positions[chosen] += 1
        if random.random() < 0.15:
            positions[chosen] -= random.randint(1, positions[chosen])
    return cut(order, random)


def cut(order: Sequence[Event], random: Random) -> list[list[Event]]:
    """The same in batches of any size."""
    batches: list[list[Event]] = []
    while order:
        size = random.randint(1, 12)
        batches.append(list(order[:size]))
        order = order[size:]
    return batches


TABLES = (
    "events",
    "job_versions",
    "executions",
    "progress",
    "artifacts",
    "slots_not_run",
    "slots_waiting",
    "statistics",
)


def batch(events: Iterable[Event]) -> Batch:
    """The events as the inbox hands them over."""
    return Batch.of((event, event.model_dump_json().encode()) for event in events)


async def project(store: Store, events: Iterable[Event]) -> None:
    """Apply one batch."""
    await store.project(batch(events))


async def empty(database: Database) -> None:
    """Delete every row. Truncating 85 partitions and their 568 indexes costs 60 times as much."""
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL ROLE NONE")  # the login role owns the tables
        await connection.execute("; ".join(f"DELETE FROM {table}" for table in TABLES))


async def everything(database: Database, *, progress: bool = True) -> dict[str, list[dict[str, Any]]]:
    """What all tables say; progress may be left out, because a lost tick changes nothing else.

    Positions are the order of arrival, and of the slots that waited those that were decided since count no more.
    """
    async with database.transaction() as connection:
        rows = {
            table: [dict(row) for row in await connection.fetch(f"SELECT * FROM {table} ORDER BY 1, 2, 3")]
            for table in TABLES
            if progress or table != "progress"
        }
    for table in ("events", "progress"):
        for row in rows.get(table, ()):
            del row["position"]
    decided = {(row["job_id"], row["slot_key"]) for table in ("executions", "slots_not_run") for row in rows[table]}
    rows["slots_waiting"] = [row for row in rows["slots_waiting"] if (row["job_id"], row["slot_key"]) not in decided]
    return rows


async def execution(database: Database, run_id: UUID) -> dict[str, Any]:
    async with database.transaction() as connection:
        row = await connection.fetchrow("SELECT * FROM executions WHERE run_id = $1", run_id)
    assert row is not None
    return dict(row)
