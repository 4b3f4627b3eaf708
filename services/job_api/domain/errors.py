"""What job_api refuses.

JobError
├── NotFound                       nothing of this tenant has this name
├── VersionMismatch                it changed since the caller read it
├── IdempotencyKeyReused           the key stands for another request
├── SettingsRefused                fields, each with a remedy
│   └── KeyTaken
├── SettingsMalformed              what pydantic found wrong with merged settings
├── CertificateRefused
├── CertificateRequired
└── the state does not allow it
    ├── OneTimeNotEditable
    ├── OneTimeNotResumable
    ├── JobInProgress
    └── RunFinished
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID


class JobError(Exception):
    """Base of what job_api refuses."""


class NotFound(JobError):
    """There is no such thing for this tenant; the argument says what was looked for."""

    def __init__(self, what: str = "job") -> None:
        super().__init__(what)
        self.what = what


class VersionMismatch(JobError):
    """The job has another version than the caller is ready to change."""

    def __init__(self, current: int) -> None:
        super().__init__(f"the job has version {current}")
        self.current = current


class IdempotencyKeyReused(JobError):
    """The idempotency key was sent with another request before."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One field that can't be accepted, and what to do about it."""

    pointer: str
    message: str
    remedy: str


class SettingsRefused(JobError):
    """The settings, or what a command says, can't be accepted."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{fault.pointer}: {fault.message}" for fault in self.faults))


class KeyTaken(SettingsRefused):
    """Another job of the tenant has this key."""

    def __init__(self, key: str | None) -> None:
        super().__init__([Fault("/key", f"another job has the key {key}", "Use another key.")])


class SettingsMalformed(JobError):
    """What became of the settings has not their form; carries what pydantic found, and in what."""

    def __init__(self, found: Sequence[Mapping[str, Any]], settings: object) -> None:
        super().__init__("the settings have not the form of settings")
        self.found = found
        self.settings = settings


class CertificateRefused(JobError):
    """The certificate can't be accepted."""


class CertificateRequired(JobError):
    """The job is encrypted, and there is no valid certificate: add one under /api/v1/certificates first."""


class OneTimeNotEditable(JobError):
    """A one-time job can't be edited once it was submitted; clone it."""


class OneTimeNotResumable(JobError):
    """A one-time job that was run can't be resumed; run it again, or clone it."""


class JobInProgress(JobError):
    """A run or a backfill has to end first; which one is named."""

    def __init__(self, *, run_id: UUID | None = None, backfill_id: UUID | None = None) -> None:
        self.named = {
            name: str(value) for name, value in (("run_id", run_id), ("backfill_id", backfill_id)) if value is not None
        }
        what = f"run {run_id}" if run_id is not None else f"backfill {backfill_id}"
        super().__init__(f"The {what} is in progress: wait for its end, or cancel it.")


class RunFinished(JobError):
    """The run, or the backfill, has ended already."""
