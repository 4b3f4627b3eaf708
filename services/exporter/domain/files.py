"""Files of a run: what an attempt stored, what may be downloaded, and what they are called."""

import builtins
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID, uuid5


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A part that lies complete and verified in the object store; `entity` says what its rows are."""

    number: int
    object_key: str
    file_name: str
    size_bytes: int
    rows: int
    sha256: str
    entity: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a successful attempt leaves behind; `schema` is the JSON Schema of its content."""

    snapshot: str
    rows: int
    bytes: int
    files: tuple[StoredFile, ...]
    schema: builtins.bytes


@dataclass(frozen=True, slots=True)
class Download:
    """A file as its tenant sees it; the bytes are in `body`, or in the object store under `object_key`."""

    artifact_id: UUID
    run_id: UUID
    file_name: str
    size_bytes: int
    sha256: str
    object_key: str | None
    body: bytes | None
    gone: Literal["expired", "requested"] | None
    """Why it can't be downloaded any more."""


@dataclass(frozen=True, slots=True)
class Doomed:
    """A part whose bytes a janitor deletes."""

    artifact_id: UUID
    object_key: str


@dataclass(frozen=True, slots=True)
class AttemptBytes:
    """An attempt that has left bytes in the object store; `newest` is when it last wrote, by the store's clock."""

    run_id: UUID
    attempt: int
    newest: datetime

    @property
    def prefix(self) -> str:
        """Where the bytes are."""
        return f"{self.run_id}/{self.attempt}"


def artifact_id(run_id: UUID, attempt: int, number: int) -> UUID:
    """The id of a part, the same whenever it is asked for."""
    return uuid5(run_id, f"part/{attempt}/{number}")


def manifest_id(run_id: UUID) -> UUID:
    """The id of a run's manifest."""
    return uuid5(run_id, "manifest")


def manifest_name(run_id: UUID) -> str:
    """The file name of a run's manifest."""
    return f"export-{run_id}.manifest.json"


def schema_id(run_id: UUID) -> UUID:
    """The id of a run's JSON Schema."""
    return uuid5(run_id, "schema")


def schema_name(run_id: UUID) -> str:
    """The file name of a run's JSON Schema."""
    return f"export-{run_id}.schema.json"
