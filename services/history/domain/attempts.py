"""The attempts of a run, read from what the exporter told of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from operator import attrgetter
from typing import Final

from shared.events import RunAttemptFailed, RunCancelled, RunEvent, RunFailed, RunStarted, RunSucceeded

TOLD_BY: Final[Mapping[str, type[RunEvent]]] = {
    event.__name__: event for event in (RunStarted, RunAttemptFailed, RunSucceeded, RunFailed, RunCancelled)
}
"""The events that tell of attempts, by their names in the timeline."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a worker; without an end it is under way, or nobody has told yet."""

    number: int
    worker: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    reason: str | None = None
    message: str | None = None


def attempts(events: Iterable[RunEvent]) -> list[Attempt]:
    """The attempts in their order, whatever the order of `events`; each ends with the first event that says so.

    A run that is cancelled or given up while it waits for its next attempt ends none.
    """
    found: dict[int, Attempt] = {}
    for event in sorted(events, key=attrgetter("version")):
        if event.attempt == 0:
            continue
        known = found.get(event.attempt, Attempt(event.attempt))
        match event:
            case RunStarted():
                known = replace(known, worker=event.worker, started_at=event.occurred_at)
            case RunAttemptFailed() | RunFailed() if known.ended_at is None:
                known = replace(known, ended_at=event.occurred_at, reason=event.reason, message=event.message)
            case RunCancelled() if known.ended_at is None:
                known = replace(known, ended_at=event.occurred_at, reason="cancelled")
            case RunSucceeded() if known.ended_at is None:
                known = replace(known, ended_at=event.occurred_at)
            case _:
                pass
        found[event.attempt] = known
    return [found[number] for number in sorted(found)]
