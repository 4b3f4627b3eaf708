"""The rules of runs: what a claim is, how progress is told, and when a failed attempt is repeated."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid5

from shared.events import Progress, RunRequested


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt of a run, held under a lease; `attempt` is the fencing token of everything it writes."""

    request: RunRequested
    attempt: int
    attempts_allowed: int

    @property
    def run_id(self) -> UUID:
        """The run that is attempted."""
        return self.request.run_id

    @property
    def prefix(self) -> str:
        """Where the attempt's bytes go in the object store; no other attempt writes there."""
        return f"{self.run_id}/{self.attempt}"

    @property
    def dead_prefixes(self) -> list[str]:
        """Where earlier attempts may have left bytes."""
        return [f"{self.run_id}/{attempt}" for attempt in range(1, self.attempt)]

    @property
    def is_last(self) -> bool:
        """Whether no attempt follows when this one fails."""
        return self.attempt >= self.attempts_allowed


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt ended without result; `reason` is a slug, `message` a sentence for people."""

    reason: str
    message: str
    repeatable: bool


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A part that lies complete and verified in the object store."""

    number: int
    object_key: str
    file_name: str
    size_bytes: int
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a successful attempt leaves behind."""

    snapshot: str
    rows: int
    bytes: int
    files: tuple[StoredFile, ...]


@dataclass(frozen=True, slots=True)
class Download:
    """A file that may be downloaded; the bytes are in `body`, or in the object store under `object_key`."""

    artifact_id: UUID
    run_id: UUID
    file_name: str
    size_bytes: int
    sha256: str
    object_key: str | None
    body: bytes | None
    available: bool


def artifact_id(run_id: UUID, attempt: int, number: int) -> UUID:
    """The id of a part, the same whenever it is asked for."""
    return uuid5(run_id, f"part/{attempt}/{number}")


def manifest_id(run_id: UUID) -> UUID:
    """The id of a run's manifest."""
    return uuid5(run_id, "manifest")


def manifest_name(run_id: UUID) -> str:
    """The file name of a run's manifest."""
    return f"export-{run_id}.manifest.json"


def progress(
    claim: Claim, sequence: int, *, rows: int, bytes_: int, total: int | None, started: datetime, now: datetime
) -> Progress:
    """How far the attempt is; remaining time assumes the average rate so far, and is unknown before the first row."""
    percent = None if total is None else 100.0 if total == 0 else min(100.0, 100.0 * rows / total)
    elapsed = (now - started) / timedelta(seconds=1)
    remaining = None if total is None or rows == 0 else max(0.0, elapsed / rows * (total - rows))
    return Progress(
        attempt=claim.attempt,
        sequence=sequence,
        rows=rows,
        bytes=bytes_,
        total=total,
        percent=None if percent is None else round(percent, 1),
        remaining_seconds=None if remaining is None else round(remaining, 1),
    )
