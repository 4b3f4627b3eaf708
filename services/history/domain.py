"""How events become rows: what each one says about an execution, free of order and duplicates."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from shared.events import (
    Event,
    RunAttemptFailed,
    RunCancelled,
    RunEvent,
    RunFailed,
    RunProgressed,
    RunQueued,
    RunStarted,
    RunState,
    RunSucceeded,
)

STATES: dict[type[Event], RunState] = {
    RunQueued: RunState.QUEUED,
    RunStarted: RunState.RUNNING,
    RunAttemptFailed: RunState.QUEUED,
    RunSucceeded: RunState.SUCCEEDED,
    RunFailed: RunState.FAILED,
    RunCancelled: RunState.CANCELLED,
}
"""The state a run is in after each event that changes it."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one event of the exporter says about an execution; None leaves a column as it is."""

    run_id: UUID
    tenant: str
    job_id: UUID
    state: RunState
    version: int
    attempt: int
    worker: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    rows: int | None = None
    bytes: int | None = None
    parts: int | None = None
    snapshot: str | None = None
    manifest_id: UUID | None = None
    manifest_sha256: str | None = None
    schema_id: UUID | None = None
    reason: str | None = None
    message: str | None = None


def change(event: RunEvent) -> Change | None:
    """The change `event` means, or None when it is not about the state of the run."""
    state = STATES.get(type(event))
    if state is None:
        return None
    said: dict[str, object] = {}
    match event:
        case RunStarted():
            said = {"worker": event.worker, "started_at": event.occurred_at}
        case RunSucceeded():
            said = {
                "rows": event.rows,
                "bytes": event.bytes,
                "parts": event.parts,
                "snapshot": event.snapshot,
                "manifest_id": event.manifest_id,
                "manifest_sha256": event.manifest_sha256,
                "schema_id": event.schema_id,
            }
        case RunFailed() | RunAttemptFailed():
            said = {"reason": event.reason, "message": event.message}
        case _:
            pass
    if state.terminal:
        said["finished_at"] = event.occurred_at
    return Change(event.run_id, event.tenant, event.job_id, state, event.version, event.attempt, **said)  # pyright: ignore[reportArgumentType] - keyed by the fields above


def newest_ticks(ticks: Iterable[RunProgressed]) -> list[RunProgressed]:
    """The greatest (attempt, sequence) of each run; the others of a batch would be overwritten at once."""
    newest: dict[UUID, RunProgressed] = {}
    for tick in ticks:
        known = newest.get(tick.run_id)
        if known is None or _position(known) < _position(tick):
            newest[tick.run_id] = tick
    return list(newest.values())


def _position(tick: RunProgressed) -> tuple[int, int]:
    return tick.progress.attempt, tick.progress.sequence
