"""What a folder has already received, so that nothing is fetched twice and nothing is left out.

The service lists artifacts newest first, and one that was stored earlier may become visible later, so the newest time
seen is no position to continue from. What was fetched is therefore remembered by run, and every call looks back
`LOOK_BACK` beyond the newest artifact of the last complete look. A run is forgotten when nothing of it can be
downloaded any more and it is too old to be seen.
"""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

from cli.artifacts.unnamed import write_whole
from cli.console import Failure
from shared.clock import UtcDatetime

LEDGER_NAME: Final = ".cdds-fetch.json"
LOOK_BACK: Final = timedelta(days=8)
"""Topics keep events for seven days; what history hears later than that, it hears from a rebuild: `--rescan`."""


class Entry(BaseModel):
    """A run that needs no more looking at."""

    stored_at: UtcDatetime
    expires_at: UtcDatetime


class _State(BaseModel):
    version: int = 1
    tenant: str | None = None
    newest: UtcDatetime | None = None
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
        if state.version != 1:
            raise Failure(f"{path} was written by a newer cdds: use that one, or another folder")
        return cls(path, state)

    def __contains__(self, run: str) -> bool:
        return run in self._state.runs

    @property
    def look_until(self) -> datetime | None:
        """Older artifacts need no looking at; None: all do."""
        return None if self._state.newest is None else self._state.newest - LOOK_BACK

    def belongs_to(self, tenant: str) -> None:
        """The folder is this tenant's from now on. Raises Failure when it is another's."""
        if self._state.tenant not in (None, tenant):
            raise Failure(
                f"{self.path.parent} holds exports of tenant {self._state.tenant}, not of {tenant}: use another folder"
            )
        if self._state.tenant is None:
            self._state.tenant = tenant
            self._write()

    def settle(self, run: str, stored_at: datetime, expires_at: datetime) -> None:
        """This run is fetched, or can't be any more."""
        self._state.runs[run] = Entry(stored_at=stored_at, expires_at=expires_at)
        self._write()

    def looked(self, newest: datetime, now: datetime) -> None:
        """Everything up to `newest` was looked at and settled; forget what can't come again."""
        self._state.newest = newest
        oldest = self._state.newest - LOOK_BACK
        self._state.runs = {
            run: entry for run, entry in self._state.runs.items() if entry.stored_at >= oldest or entry.expires_at > now
        }
        self._write()

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
