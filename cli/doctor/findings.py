"""What a check finds."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How bad it is: a warning leaves the exit code 0."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `remedy` says what to do, and is empty only where all is well."""

    check: str
    about: str
    status: Status
    message: str
    remedy: str = ""
    reached: bool | None = None
    """Whether a server answered at all, where that was the question."""


def ok(check: str, about: str, message: str, *, reached: bool | None = None) -> Finding:
    """All is well."""
    return Finding(check, about, Status.OK, message, reached=reached)


def warning(check: str, about: str, message: str, remedy: str) -> Finding:
    """It works, and somebody should look at it."""
    return Finding(check, about, Status.WARNING, message, remedy)


def failed(check: str, about: str, message: str, remedy: str, *, reached: bool | None = None) -> Finding:
    """It does not work."""
    return Finding(check, about, Status.FAILED, message, remedy, reached)
