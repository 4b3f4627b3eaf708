"""What a folder has already received, so that nothing is fetched twice and nothing is left out.

The service lists artifacts in the order of their arrival, and a place in that list holds for ever: the folder keeps the
one it has read up to, and the runs of before that wait still, because their files are not all listed or did not come
whole. What was fetched is remembered by run, because it may be fetched by name before the list comes to it; a run is
forgotten when nothing of it can be downloaded any more.
"""

import fcntl
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from pydantic import BaseModel, ValidationError

from cli.artifacts.answers import Artifact
from cli.artifacts.unnamed import write_whole
from cli.console import Failure
from shared.clock import UtcDatetime

LEDGER_NAME: Final = ".cdds-fetch.json"


class Entry(BaseModel):
    """A run that needs no more looking at."""

    stored_at: UtcDatetime
    expires_at: UtcDatetime


class Waiting(Entry):
    """A run that was listed and is not fetched; `gone` when its files were deleted by then."""

    gone: bool = False


class _State(BaseModel):
    """Version 1 kept the time of the newest artifact instead of a place; what is older and gone was told then."""

    version: int = 2
    tenant: str | None = None
    newest: UtcDatetime | None = None
    after: str | None = None
    waiting: dict[str, Waiting] = {}
    runs: dict[str, Entry] = {}


@dataclass(slots=True)
class Ledger:
    """The state of one folder; every change is on disk when the call returns."""

    path: Path
    _state: _State = field(default_factory=_State)

    @classmethod
    def read(cls, folder: Path) -> "Ledger":
        """Raises Failure for a file that is not ours."""
        path = folder / LEDGER_NAME
        if not path.exists():
            return cls(path)
        try:
            state = _State.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise Failure(
                f"{path} is damaged: remove it (files that are there are recognised by their SHA-256)"
            ) from error
        if state.version not in (1, 2):
            raise Failure(f"{path} was written by a newer cdds: use that one, or another folder")
        return cls(path, state.model_copy(update={"version": 2}))

    def __contains__(self, run: str) -> bool:
        return run in self._state.runs

    @property
    def after(self) -> str | None:
        """The place the folder has read up to; None: the beginning."""
        return self._state.after

    def waiting(self) -> list[tuple[UUID, Waiting]]:
        """The runs that are still to be fetched, oldest first."""
        found = sorted(self._state.waiting.items(), key=lambda item: item[1].stored_at)
        return [(UUID(run), waiting) for run, waiting in found]

    def belongs_to(self, tenant: str) -> None:
        """The folder is this tenant's from now on. Raises Failure when it is another's."""
        if self._state.tenant not in (None, tenant):
            raise Failure(
                f"{self.path.parent} holds exports of tenant {self._state.tenant}, not of {tenant}: use another folder"
            )
        if self._state.tenant is None:
            self._state.tenant = tenant
            self._write()

    def listed(self, artifacts: Iterable[Artifact], after: str) -> None:
        """These were listed, and the list goes on at `after`."""
        for artifact in artifacts:
            run, gone = str(artifact.run_id), artifact.deleted_at is not None
            if run in self._state.runs or (gone and self._was_told(artifact)):
                continue
            known = self._state.waiting.get(run)
            self._state.waiting[run] = Waiting(
                stored_at=artifact.stored_at,
                expires_at=artifact.expires_at,
                gone=gone or (known is not None and known.gone),
            )
        self._state.after = after
        self._write()

    def settle(self, run: str, stored_at: datetime, expires_at: datetime) -> None:
        """This run is fetched, or can't be any more."""
        self._state.waiting.pop(run, None)
        self._state.runs[run] = Entry(stored_at=stored_at, expires_at=expires_at)
        self._write()

    def tidy(self, now: datetime) -> None:
        """Forget what can't be downloaded any more."""
        self._state.runs = {run: entry for run, entry in self._state.runs.items() if entry.expires_at > now}
        self._write()

    def _was_told(self, artifact: Artifact) -> bool:
        return self._state.newest is not None and artifact.stored_at <= self._state.newest

    def _write(self) -> None:
        write_whole(self.path, self._state.model_dump_json().encode())


@contextmanager
def sole_user(folder: Path) -> Generator[None]:
    """Nobody else fetches into the folder meanwhile. Raises Failure when somebody does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Failure(f"another `cdds artifacts fetch` works on {folder}: wait until it ends") from error
        yield
    finally:
        os.close(descriptor)
