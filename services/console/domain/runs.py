"""Runs as History shows them: which states a filter means, what files are called, what a run's events say."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

STATE_OPTIONS: Final = (
    ("waiting", "Waiting"),
    ("running", "In Progress"),
    ("succeeded", "Finished"),
    ("failed", "Failed"),
    ("cancelled", "Cancelled"),
)
"""What History is filtered by; runs that wait are `requested` or `queued`."""
_WAITING: Final = ("requested", "queued")

OPEN: Final = frozenset({"requested", "queued", "running"})
"""States in which a run can be cancelled; in the others it can be retried."""

_SUFFIXES: Final = {"gcm": "zip.p7m", "smime": "zip.smime", "none": "zip"}


def states(chosen: Iterable[str]) -> list[str]:
    """The states that a filter asks the service for.

    >>> states(["waiting", "failed"])
    ['requested', 'queued', 'failed']
    """
    return list(dict.fromkeys(state for word in chosen for state in (_WAITING if word == "waiting" else (word,))))


def shown_states(chosen: Iterable[str]) -> set[str]:
    """The options of the filter that are chosen, however the address names them.

    >>> shown_states(["queued"])
    {'waiting'}
    """
    return {"waiting" if state in _WAITING else state for state in chosen}


def moment(text: str) -> str:
    """What a field for date and time means: UTC, as pages show times; anything else is left for the service to refuse.

    >>> moment("2026-04-25T13:36"), moment("2026-04-25T13:36:00+02:00"), moment("yesterday")
    ('2026-04-25T13:36:00Z', '2026-04-25T13:36:00+02:00', 'yesterday')
    """
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return text
    return read.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z") if read.tzinfo is None else text


def field(text: str) -> str:
    """The same moment as a field for date and time takes it; empty where that can't be said.

    >>> field("2026-04-25T13:36:00Z"), field("2026-04-25T13:36"), field("yesterday")
    ('2026-04-25T13:36', '2026-04-25T13:36', '')
    """
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return ""
    return (read if read.tzinfo is None else read.astimezone(UTC)).strftime("%Y-%m-%dT%H:%M")


def first_file(run: Mapping[str, Any]) -> str | None:
    """The name of a finished run's first file, as the exporter composes it; None while there is none.

    >>> first_file({"state": "succeeded", "run_id": "r", "parts": 12, "question": {"encryption": "gcm"}})
    'export-r-0001-of-0012.zip.p7m'
    """
    if run["state"] != "succeeded" or not run["parts"]:
        return None
    suffix = _SUFFIXES.get(run["question"]["encryption"], "zip")
    return f"export-{run['run_id']}-0001-of-{run['parts']:04}.{suffix}"
