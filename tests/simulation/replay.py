"""Every decision about one job, judged in the order of the commits by what the scheduler had heard by then.

I2  one request per slot, runs one at a time where the policy says so, backfills within their limit
I3  what is final stays          I7  versions only grow          I9  every run asks for the right data
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid5

from shared import events
from shared.events import JobEvent, JobState, ScheduleEvent, Slot
from shared.jobs import JobSettings, Overlap, SinceLastRun
from tests.simulation import calendar
from tests.simulation.calendar import TICK, Interval
from tests.simulation.fleet import settle
from tests.simulation.record import Complaint, Happening

ENDS: dict[type[events.Event], str] = {
    events.RunSucceeded: "succeeded",
    events.RunFailed: "failed",
    events.RunCancelled: "cancelled",
}


@dataclass(slots=True)
class Fate:
    """What was told about one slot, and what became of its run."""

    slot: Slot
    first: ScheduleEvent
    decided_by: Happening
    told: list[ScheduleEvent] = field(default_factory=list[ScheduleEvent])
    policy: JobSettings | None = None
    asked: Interval | None = None
    run_state: str | None = None
    answered: bool = False
    """Whether earlier runs had exported all that a `since_last_run` slot would have asked for."""

    @property
    def waiting(self) -> bool:
        return isinstance(self.told[-1], events.SlotWaiting)

    @property
    def backfill_id(self) -> UUID | None:
        trigger, command_id, *_ = self.slot.key.split(":")
        return UUID(command_id) if trigger == "backfill" else None


Allowed = Callable[[Fate], bool]


@dataclass(slots=True)
class Replay:
    """The job as the scheduler came to know it; `complaints` are what it did wrong."""

    job_id: UUID
    versions: dict[int, JobEvent]
    fates: dict[str, Fate] = field(default_factory=dict[str, Fate])
    complaints: list[Complaint] = field(default_factory=list[Complaint])
    applied: dict[int, datetime] = field(default_factory=dict[int, datetime])
    paused: dict[int, datetime] = field(default_factory=dict[int, datetime])
    started: dict[UUID, tuple[events.BackfillStarted, dict[datetime, Interval]]] = field(default_factory=dict)
    parallel: dict[UUID, int] = field(default_factory=dict[UUID, int])
    version: int = 0
    failures: int = 0
    exported_to: datetime | None = None
    next_slot_at: datetime | None = None
    by_run: dict[UUID, Fate] = field(default_factory=dict[UUID, Fate])
    held: dict[str, Fate] = field(default_factory=dict[str, Fate])
    ordered: set[UUID] = field(default_factory=set[UUID])

    def follow(self, happenings: Iterable[Happening]) -> None:
        """Judge every commit."""
        for happening in happenings:
            if happening.dead:
                self.complain(happening, "I11: a record of which nothing is known")
            paused = self.version in self.paused
            may_cancel = self._hear(happening) or _nobody
            for event in happening.events:
                self._judge(event, happening, may_cancel)
            self.version = max(self.applied, default=0)
            if isinstance(happening.cause, tuple(ENDS)) and not paused:
                self._judge_pause(happening)

    def complain(self, happening: Happening, what: str) -> None:
        """Note something wrong, and where."""
        self.complaints.append(Complaint(happening.at, what))

    # --- what the scheduler hears ----------------------------------------------------------------------------------

    def _hear(self, happening: Happening) -> Allowed | None:
        """Take the cause of a commit in; the slots that it allows to cancel."""
        cause = happening.cause
        match cause:
            case JobEvent() if cause.job.version > self.version and not self._deleted:
                self.applied[cause.job.version] = happening.at
                self.failures = 0
                return _everybody if isinstance(cause, events.JobDeleted) else None
            case events.RunCancelRequested():
                return lambda fate: uuid5(self.job_id, fate.slot.key) == cause.run_id
            case events.BackfillCancelRequested():
                return lambda fate: fate.backfill_id == cause.backfill_id
            case events.BackfillRequested():
                self._divide(cause, happening)
            case events.RunSucceeded() | events.RunFailed() | events.RunCancelled():
                if (fate := self.by_run.get(cause.run_id)) is not None:
                    self._end(fate, ENDS[type(cause)])
            case _:
                pass
        return None

    @property
    def _deleted(self) -> bool:
        return self.version in self.versions and self.versions[self.version].job.state is JobState.DELETED

    def _end(self, fate: Fate, state: str) -> None:
        if fate.run_state != "open":
            return
        fate.run_state = state
        del self.held[fate.slot.key]
        if fate.backfill_id:
            return
        if state == "succeeded" and fate.asked:
            self.exported_to = max(self.exported_to or fate.asked[1], fate.asked[1])
        if fate.slot.trigger == "schedule" and fate.told[-1].job_version == self.version:
            self.failures = {"succeeded": 0, "failed": self.failures + 1}.get(state, self.failures)

    def _divide(self, command: events.BackfillRequested, happening: Happening) -> None:
        """What a backfill should consist of, by what has been asked for until now."""
        if command.event_id in self.started or self._deleted:
            return
        settings = self.versions[self.version].job.settings
        wanted = calendar.pieces(
            settings, command.interval_from, command.interval_to, settle(settings.source), command.occurred_at
        )
        failed = {"failed", "cancelled"} if command.reprocess == "missing_and_failed" else set()
        answers = [
            fate.asked
            for fate in self.fates.values()
            if fate.asked and fate.run_state not in failed and isinstance(fate.told[-1], _ASKED)
        ]
        # What waits has no question yet, but one may be sure which.
        answers += [
            calendar.interval(settings.timeframe, fate.slot.at, settle(settings.source), self.exported_to)
            for fate in self.held.values()
            if fate.asked is None and fate.backfill_id is None
        ]
        if command.reprocess == "all":
            answers = []
        missing = {at: piece for at, piece in wanted.items() if not any(_covers(answer, piece) for answer in answers)}
        told = [event for event in happening.events if isinstance(event, events.BackfillStarted)]
        if len(told) != 1 or told[0].backfill_id != command.event_id or told[0].slots != len(missing):
            self.complain(happening, f"I1: a backfill of {len(missing)} slots was not started as such")
            return
        self.started[command.event_id] = told[0], missing
        self.parallel[command.event_id] = command.max_parallel

    # --- what the scheduler tells ----------------------------------------------------------------------------------

    def _judge(self, event: ScheduleEvent, happening: Happening, may_cancel: Allowed) -> None:
        newest = max(self.applied, default=0)
        if event.job_version < self.version or event.job_version > newest:
            self.complain(happening, f"I7: version {event.job_version} after {self.version}")
        self.version = max(self.version, min(event.job_version, newest))
        if event.occurred_at != happening.at:
            self.complain(happening, "an event is not of the moment of its decision")
        settings = self.versions[event.job_version].job.settings
        match event:
            case events.RunCancelOrdered():
                self._judge_order(event, happening, may_cancel, settings)
            case events.ScheduleComputed():
                self._judge_next(event, happening, settings)
            case events.BackfillStarted():
                if event.backfill_id not in self.started or self.started[event.backfill_id][0] is not event:
                    self.complain(happening, "I2: a backfill is started twice or by nobody")
            case events.SchedulePaused():
                self.paused[event.job_version] = event.occurred_at
            case events.RunRequested() | events.SlotWaiting() | events.SlotSkipped() | events.SlotMissed():
                self._judge_slot(event, happening, may_cancel, settings)
            case _:
                pass

    def _judge_slot(
        self,
        event: events.RunRequested | events.SlotWaiting | events.SlotSkipped | events.SlotMissed,
        happening: Happening,
        may_cancel: Allowed,
        settings: JobSettings,
    ) -> None:
        key = event.slot.key
        known = self.fates.get(key)
        if known and (not known.waiting or isinstance(event, events.SlotWaiting)):
            self.complain(happening, f"I2/I3: {key} was decided before, at {known.first.occurred_at}")
            return
        fate = known or Fate(event.slot, event, happening)
        others = [other for other in self._lane(fate) if other is not fate]
        for complaint in self._faults(event, fate, others, settings, may_cancel):
            self.complain(happening, f"{complaint} ({key})")
        fate.policy, fate.answered = settings, self._answered(event.slot, settings)
        fate.told.append(event)
        self.fates[key] = fate
        if isinstance(event, events.RunRequested):
            fate.run_state = "open"
            fate.asked = event.question.interval_from, event.question.interval_to
            self.by_run[event.run_id] = fate
        elif fate.backfill_id in self.started:
            fate.asked = self.started[fate.backfill_id][1].get(event.slot.at)
        elif isinstance(happening.cause, events.RunRetryRequested):
            fate.asked = self.by_run[happening.cause.run_id].asked
        self.held.pop(key, None)
        if fate.waiting or fate.run_state == "open":
            self.held[key] = fate

    def _faults(
        self,
        event: ScheduleEvent,
        fate: Fate,
        others: list[Fate],
        settings: JobSettings,
        may_cancel: Allowed,
    ) -> Iterator[str]:
        scheduled, was_waiting = fate.slot.trigger == "schedule", bool(fate.told)
        waits = [other for other in others if other.waiting]
        policy = settings.overlap
        match event:
            case events.SlotWaiting() if fate.backfill_id is None:
                if not others or policy is Overlap.ALLOW_ALL or (scheduled and policy is Overlap.SKIP):
                    yield "I1: it waits for nothing, or under a policy without waiting"
                if scheduled and policy in (Overlap.BUFFER_ONE, Overlap.CANCEL_OTHER) and _scheduled(waits):
                    yield "I1: more than one slot of the schedule waits"
            case events.SlotSkipped(reason="overlap"):
                made_way = was_waiting and policy is Overlap.CANCEL_OTHER
                if not scheduled or not (made_way or (policy is Overlap.SKIP and others and not was_waiting)):
                    yield "I1: it is skipped for an overlap that was none"
            case events.SlotSkipped(reason="buffer_full"):
                if was_waiting or not scheduled or policy is not Overlap.BUFFER_ONE or not _scheduled(waits):
                    yield "I1: it is skipped for a buffer that was not full"
            case events.SlotSkipped(reason="cancelled"):
                if not was_waiting or not may_cancel(fate):
                    yield "I1: it is cancelled by nobody"
            case events.SlotMissed() if was_waiting and (event.reason != "coalesced" or not scheduled):
                yield "I1: it waited and is missed"
            case events.RunRequested():
                yield from self._request_faults(event, fate, others, settings)
            case _:
                pass

    def _request_faults(
        self, event: events.RunRequested, fate: Fate, others: list[Fate], settings: JobSettings
    ) -> Iterator[str]:
        open_ = sum(other.run_state == "open" for other in others)
        if event.run_id != uuid5(self.job_id, event.slot.key):
            yield "I2: the run is not named after its slot"
        if fate.backfill_id is not None:
            if open_ >= self.parallel.get(fate.backfill_id, 1):
                yield f"I2: {open_ + 1} runs of a backfill at once"
        elif settings.overlap is not Overlap.ALLOW_ALL:
            if open_:
                yield "I2: two runs at once"
            before = [other for other in others if other.waiting]
            if any(_place(other) < _place(fate) or not fate.told for other in before):
                yield "I1: it overtakes a slot that waits"
        asked = event.question.interval_from, event.question.interval_to
        if event.retry_of is None and asked != (right := self._interval(fate, settings)):
            yield f"I9: it asks for {_text(asked)} instead of {_text(right)}"
        if event.retry_of is not None and asked != self.by_run[event.retry_of].asked:
            yield "I9: the retry asks for something else"

    def _interval(self, fate: Fate, settings: JobSettings) -> Interval | None:
        """What the run of a slot must ask for now."""
        if fate.backfill_id is not None:
            return self.started[fate.backfill_id][1].get(fate.slot.at) if fate.backfill_id in self.started else None
        begin, end = calendar.interval(settings.timeframe, fate.slot.at, settle(settings.source), self.exported_to)
        # Somebody who asks when there is nothing new gets an empty answer.
        by_hand = fate.slot.trigger != "schedule" and isinstance(settings.timeframe, SinceLastRun)
        return (begin, max(begin, end)) if by_hand and begin else (begin, end)

    def _answered(self, slot: Slot, settings: JobSettings) -> bool:
        if not isinstance(settings.timeframe, SinceLastRun):
            return False
        begin, end = calendar.interval(settings.timeframe, slot.at, settle(settings.source), self.exported_to)
        return begin is not None and begin >= end

    def _lane(self, fate: Fate) -> list[Fate]:
        """What waits or runs beside a slot: of its backfill, or of everything else."""
        return [other for other in self.held.values() if other.backfill_id == fate.backfill_id]

    def _judge_order(
        self, event: events.RunCancelOrdered, happening: Happening, may_cancel: Allowed, settings: JobSettings
    ) -> None:
        fate = self.by_run.get(event.run_id)
        asked_for = fate and (may_cancel(fate) or settings.overlap is Overlap.CANCEL_OTHER)
        if not fate or fate.run_state != "open" or not asked_for or event.run_id in self.ordered:
            self.complain(happening, "I1: a run is ordered to end without reason, or twice")
        self.ordered.add(event.run_id)

    def _judge_next(self, event: events.ScheduleComputed, happening: Happening, settings: JobSettings) -> None:
        at = event.next_slot_at
        if at is not None and at not in calendar.slots(settings, at - TICK, at):
            self.complain(happening, "I9: the next slot is not in the calendar")

    def _judge_pause(self, happening: Happening) -> None:
        told = sum(isinstance(event, events.SchedulePaused) for event in happening.events)
        job = self.versions[self.version].job
        allowed = job.settings.pause_after_failures
        must = job.state is JobState.ACTIVE and allowed is not None and self.failures >= allowed
        if told != (1 if must else 0):
            self.complain(happening, f"{self.failures} failures in a row, paused {told} times")


def _everybody(_: Fate) -> bool:
    return True


def _nobody(_: Fate) -> bool:
    return False


def _covers(answer: Interval, piece: Interval) -> bool:
    begins = answer[0] is None or (piece[0] is not None and answer[0] <= piece[0])
    return begins and piece[1] <= answer[1]


def _place(fate: Fate) -> tuple[datetime, str]:
    return fate.slot.at, fate.slot.key


def _scheduled(fates: list[Fate]) -> list[Fate]:
    return [fate for fate in fates if fate.slot.trigger == "schedule"]


def _text(interval: Interval | None) -> str:
    return "nothing" if interval is None else f"[{interval[0]}, {interval[1]})"


_ASKED = (events.SlotWaiting, events.RunRequested)
