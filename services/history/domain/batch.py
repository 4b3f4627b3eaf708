"""What a batch of events says, gathered event by event, so that most of them are forgotten as soon as they are read."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Self, TypeAlias
from uuid import UUID

from services.history.domain import facts
from services.history.domain.facts import SAYINGS, Execution, File
from shared.events import (
    EVENT_TYPES,
    ArtifactDeleted,
    ArtifactStored,
    Event,
    JobEvent,
    RunEvent,
    RunProgressed,
    RunRequested,
    SlotMissed,
    SlotSkipped,
    SlotWaiting,
)

Entry: TypeAlias = tuple[datetime, UUID, str, str, UUID | None, UUID | None, str | None, str]
"""A line of the timeline: when, event, tenant, type, job, run, actor, body."""


class Unplaceable(Exception):
    """The event does not say when its run was requested, and the run is not known; replay it when the run is."""


class Batch:
    """The rows that a batch makes; in which order its events are added, and how often, makes no difference."""

    def __init__(self) -> None:
        self.executions: dict[UUID, Execution] = {}
        self.files: dict[UUID, File] = {}
        self.ticks: dict[UUID, RunProgressed] = {}
        """The greatest (attempt, sequence) of each run; the others would be overwritten at once."""
        self.jobs: dict[tuple[UUID, int], JobEvent] = {}
        self.waiting: list[SlotWaiting] = []
        self.not_run: list[SlotSkipped | SlotMissed] = []
        self.timeline: list[Entry] = []
        self.bounds: dict[UUID, tuple[datetime, UUID]] = {}
        """Of each event that begins or ends a run: when the run was requested, and its id."""
        self.unplaced: list[tuple[Any, bytes]] = []
        """Events of older exporters, which do not say when their run was requested; they wait for `place`."""

    @classmethod
    def of(cls, events: Iterable[tuple[Event, bytes]]) -> Self:
        """What `events`, each with the JSON it came as, say."""
        batch = cls()
        for event, body in events:
            batch.add(event, body)
        return batch

    def add(self, event: Event, body: bytes) -> None:
        """Note what `event` says; `body` is the JSON it came as."""
        # Asking pydantic whether an event is one of its classes, or has some field, took a tenth of the projection.
        kind, fields = type(event), vars(event)
        if fields.get("requested_at", event) is None:
            self.unplaced.append((event, body))
            return
        if note := _NOTES.get(kind):
            note(self, event)
        if kind is not RunProgressed:
            self.timeline.append(
                (event.occurred_at, event.event_id, event.tenant, kind.__name__, fields.get("job_id"),
                 fields.get("run_id"), fields.get("actor"), body.decode())
            )  # fmt: skip

    def newest_ticks(self) -> list[RunProgressed]:
        """The newest tick of each run, but for those that ended in the batch."""
        ended = {run.run_id for run in self.executions.values() if run.finished_at is not None}
        return [tick for run_id, tick in self.ticks.items() if run_id not in ended]

    def place(self, requested: Mapping[UUID, datetime]) -> None:
        """Add the events that wait for it, now that it is known when runs were requested; raises Unplaceable."""
        for event, _ in self.unplaced:
            if event.run_id not in requested:
                raise Unplaceable(f"run {event.run_id}")
        waiting, self.unplaced = self.unplaced, []
        for event, body in waiting:
            self.add(event.model_copy(update={"requested_at": requested[event.run_id]}), body)

    def execution(self, event: RunRequested | RunEvent, requested_at: datetime) -> Execution:
        """What is known of the run that `event` is about."""
        known = self.executions.get(event.run_id)
        if known is None:
            known = Execution(requested_at, event.run_id, event.tenant, event.job_id)
            self.executions[event.run_id] = known
        return known

    def file(self, event: ArtifactStored | ArtifactDeleted, artifact_id: UUID) -> File:
        """What is known of the file that `event` is about."""
        known = self.files.get(artifact_id)
        if known is None:
            assert event.requested_at is not None
            known = File(event.requested_at, artifact_id, event.tenant, event.run_id)
            self.files[artifact_id] = known
        return known


def _job(batch: Batch, event: JobEvent) -> None:
    batch.jobs[event.job_id, event.job.version] = event


def _request(batch: Batch, event: RunRequested) -> None:
    SAYINGS[RunRequested](batch.execution(event, event.occurred_at), event)
    batch.bounds[event.event_id] = event.occurred_at, event.run_id


def _change(batch: Batch, event: RunEvent) -> None:
    assert event.requested_at is not None
    SAYINGS[type(event)](batch.execution(event, event.requested_at), event)


def _end(batch: Batch, event: RunEvent) -> None:
    _change(batch, event)
    assert event.requested_at is not None
    batch.bounds[event.event_id] = event.requested_at, event.run_id


def _tick(batch: Batch, event: RunProgressed) -> None:
    known = batch.ticks.get(event.run_id)
    if known is None or _position(known) < _position(event):
        batch.ticks[event.run_id] = event


def _position(tick: RunProgressed) -> tuple[int, int]:
    return tick.progress.attempt, tick.progress.sequence


def _stored(batch: Batch, event: ArtifactStored) -> None:
    facts.stored(batch.file(event, event.part.artifact_id), event)


def _deleted(batch: Batch, event: ArtifactDeleted) -> None:
    facts.deleted(batch.file(event, event.artifact_id), event)


def _wait(batch: Batch, event: SlotWaiting) -> None:
    batch.waiting.append(event)


def _decide(batch: Batch, event: SlotSkipped | SlotMissed) -> None:
    batch.not_run.append(event)


_NOTES: Final[Mapping[type[Event], Callable[[Batch, Any], None]]] = {
    **dict.fromkeys((event for event in EVENT_TYPES.values() if issubclass(event, JobEvent)), _job),
    RunRequested: _request,
    **{event: _end if state.terminal else _change for event, state in facts.STATES.items()},
    RunProgressed: _tick,
    ArtifactStored: _stored,
    ArtifactDeleted: _deleted,
    SlotWaiting: _wait,
    SlotSkipped: _decide,
    SlotMissed: _decide,
}
"""How each event that becomes more than a line of the timeline is noted."""
