"""One decision in the making: slots are admitted, held back, requested, skipped or missed, and it is all told."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from services.scheduler.domain.ledger import Backfill, Decision, Entry, Outcome, Plan, RunState
from shared import slots
from shared.events import (
    Question,
    RunCancelOrdered,
    RunRequested,
    ScheduleCompleted,
    ScheduleComputed,
    ScheduleEvent,
    Slot,
    SlotMissed,
    SlotSkipped,
    SlotWaiting,
    Trigger,
)
from shared.jobs import CatchUpMode, JobSettings, Once, Overlap, SinceLastRun

Settle = Callable[[str], timedelta]
"""How long before its slot the data intervals of a source end."""

ON_TIME: Final = timedelta(minutes=1)
"""A slot acted on within this time after it was due is on time; later it is caught up with, or missed."""


@dataclass(slots=True)
class Turn:
    """Collects a decision about `plan` at `now`; slots whose key is in `decided` are in the ledger already."""

    plan: Plan
    now: datetime
    settle: Settle
    decided: Collection[str] = ()
    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])
    events: list[ScheduleEvent] = field(default_factory=list[ScheduleEvent])
    held: dict[str, Entry] = field(init=False)
    """What of the schedule's lane waits or runs by now."""

    def __post_init__(self) -> None:
        self.held = {entry.slot.key: entry for entry in self.plan.held}

    def decision(self) -> Decision:
        """What has been decided."""
        return Decision(replace(self.plan, held=tuple(self._in_order())), self.entries, tuple(self.events))

    # --- the clock ---------------------------------------------------------------------------------------------

    def catch_up(self, until: datetime, *, limit: int | None = None, at_once: bool = False) -> None:
        """Decide the slots that are not later than `until` and due by now, at most `limit` of them.

        With `at_once` their jitter is not waited for: the schedule they belong to is about to end.
        """
        settings, slot_at, count = self.plan.settings, self.plan.next_slot_at, 0
        while slot_at is not None and slot_at <= until and (limit is None or count < limit):
            following = slots.following_slot(settings, slot_at)
            slot = slots.scheduled_slot(slot_at)
            if slot.key not in self.decided:
                if not (at_once or self._due(slot_at)):
                    break
                superseded = following is not None and following <= until and self._due(following)
                self._take(slot, superseded=superseded)
                count += 1
            slot_at = following
        self.plan = replace(self.plan, next_slot_at=slot_at)

    def announce(self) -> None:
        """Tell the next slot, or that a one-time job has had its only one."""
        if self.plan.next_slot_at is None and isinstance(self.plan.settings.schedule, Once):
            self._tell(ScheduleCompleted)
        else:
            self._tell(ScheduleComputed, next_slot_at=self.plan.next_slot_at)

    def _due(self, slot_at: datetime) -> bool:
        return slots.due_at(self.plan.job_id, self.plan.settings, slot_at) <= self.now

    def _take(self, slot: Slot, *, superseded: bool) -> None:
        """A slot of the schedule that is due: in time, to be caught up with, or missed."""
        settings = self.plan.settings
        late = self.now - slots.due_at(self.plan.job_id, settings, slot.at)
        mode = catch_up_mode(settings)
        if late > ON_TIME and (mode is CatchUpMode.NONE or late > settings.catchup.window):
            self.miss(slot, "catchup_window")
        elif late > ON_TIME and superseded and mode is CatchUpMode.LATEST:
            self.miss(slot, "coalesced")
        else:
            self.admit(slot)

    # --- overlap -----------------------------------------------------------------------------------------------

    def admit(self, slot: Slot, question: Question | None = None, retry: Entry | None = None) -> None:
        """Request the run of `slot`, or do with it what the overlap policy says while others wait or run.

        What people ask for waits its turn; it never skips or cancels.
        """
        entry = self._entry(slot, question=question, retry_of=retry.run_id if retry else None)
        policy = self.plan.settings.overlap
        if policy is Overlap.ALLOW_ALL or not self.held:
            self._request(entry)
        elif slot.trigger is not Trigger.SCHEDULE:
            self._wait(entry)
        elif policy is Overlap.SKIP:
            self._skip(entry, "overlap")
        elif policy is Overlap.BUFFER_ONE and self._waiting_of_schedule():
            self._skip(entry, "buffer_full")
        else:
            if policy is Overlap.CANCEL_OTHER:
                self._make_way()
            self._wait(entry)

    def release(self) -> None:
        """Request what has waited, as far as the overlap policy allows by now."""
        for entry in [held for held in self._in_order() if held.waiting]:
            if self.plan.settings.overlap is not Overlap.ALLOW_ALL and any(held.open for held in self.held.values()):
                return
            self._request(entry)

    def release_backfill(self, backfill: Backfill, open_runs: int, waiting: Collection[Entry]) -> None:
        """Request the first of `waiting` while fewer than the backfill's limit are open."""
        for entry, _ in zip(waiting, range(open_runs, backfill.max_parallel), strict=False):
            self._request(entry)

    def _waiting_of_schedule(self) -> list[Entry]:
        return [held for held in self._in_order() if held.waiting and held.slot.trigger is Trigger.SCHEDULE]

    def _in_order(self) -> list[Entry]:
        return sorted(self.held.values(), key=lambda held: (held.slot.at, held.slot.key))

    def _make_way(self) -> None:
        for entry in self._waiting_of_schedule():
            self._skip(entry, "overlap")
        for entry in self._in_order():
            if entry.open:
                self.cancel(entry, "scheduler")

    # --- what becomes of a slot --------------------------------------------------------------------------------

    def miss(self, slot: Slot, reason: Literal["catchup_window", "coalesced", "suspended"], count: int = 1) -> None:
        """Write down that `slot`, and `count - 1` others it stands for, passed without a run."""
        self._keep(replace(self._entry(slot), outcome=Outcome.MISSED, reason=reason, count=count))
        self._tell(SlotMissed, slot=slot, reason=reason, count=count)

    def cancel(self, entry: Entry, actor: str) -> None:
        """Skip what waits, order an open run to end; what is over, or has its order already, stays as it is."""
        if entry.waiting:
            self._skip(entry, "cancelled")
        elif entry.open and entry.cancelled_by is None:
            self._keep(replace(entry, cancelled_by=actor))
            self._tell(RunCancelOrdered, run_id=entry.run_id, actor=actor)

    def wait_for_backfill(self, slot: Slot, question: Question) -> Entry:
        """Write a slot of a backfill down; it is requested when its turn comes."""
        entry = self._entry(slot, question=question)
        self._wait(entry)
        return entry

    def end(self, entry: Entry, state: RunState) -> None:
        """Write down how a run ended, and what follows from it for its job."""
        plan = self.plan
        self._keep(replace(entry, run_state=state))
        if entry.slot.trigger is Trigger.BACKFILL:
            return
        if state is RunState.SUCCEEDED and entry.question is not None:
            reached = max(plan.exported_to or entry.question.interval_to, entry.question.interval_to)
            self.plan = replace(self.plan, exported_to=reached)
        if entry.slot.trigger is Trigger.SCHEDULE and entry.job_version == plan.job_version:
            if state is RunState.FAILED:
                self.plan = replace(self.plan, failures=plan.failures + 1)
            elif state is RunState.SUCCEEDED:
                self.plan = replace(self.plan, failures=0)

    def _skip(self, entry: Entry, reason: Literal["overlap", "buffer_full", "cancelled"]) -> None:
        self._keep(replace(entry, outcome=Outcome.SKIPPED, reason=reason))
        self._tell(SlotSkipped, slot=entry.slot, reason=reason)

    def _wait(self, entry: Entry) -> None:
        self._keep(entry)
        self._tell(SlotWaiting, slot=entry.slot)

    def _request(self, entry: Entry) -> None:
        plan = self.plan
        question = entry.question or self._question(entry.slot)
        if question is None:
            self._keep(replace(entry, outcome=Outcome.MISSED, reason="coalesced"))
            self._tell(SlotMissed, slot=entry.slot, reason="coalesced", count=1)
            return
        self._keep(
            replace(
                entry, outcome=Outcome.REQUESTED, job_version=plan.job_version, question=question,
                run_state=RunState.OPEN,
            )
        )  # fmt: skip
        self._tell(
            RunRequested, run_id=entry.run_id, slot=entry.slot, question=question, title=plan.settings.title,
            retry=plan.settings.retry, retry_of=entry.retry_of,
        )  # fmt: skip

    def _question(self, slot: Slot) -> Question | None:
        """What the run of `slot` is asked now; None when earlier runs have answered all of it."""
        settings = self.plan.settings
        begin, end = slots.data_interval(
            settings.timeframe, slot.at, self.settle(settings.source), self.plan.exported_to
        )
        if isinstance(settings.timeframe, SinceLastRun) and begin is not None and begin >= end:
            if slot.trigger is Trigger.SCHEDULE:
                return None
            end = begin  # asked for by somebody, who gets an answer without rows
        return slots.question(settings, begin, end)

    # --- writing it down ---------------------------------------------------------------------------------------

    def _entry(self, slot: Slot, **known: Any) -> Entry:
        return Entry(
            slot=slot, run_id=slots.run_id(self.plan.job_id, slot.key), outcome=Outcome.WAITING,
            job_version=self.plan.job_version, **known,
        )  # fmt: skip

    def _keep(self, entry: Entry) -> None:
        key = entry.slot.key
        self.entries[key] = entry
        if (entry.waiting or entry.open) and entry.backfill_id is None:
            self.held[key] = entry
        else:
            self.held.pop(key, None)

    def _tell(self, event: type[ScheduleEvent], **said: Any) -> None:
        self.events.append(
            event(
                occurred_at=self.now, tenant=self.plan.tenant, job_id=self.plan.job_id,
                job_version=self.plan.job_version, **said,
            )
        )  # fmt: skip


def catch_up_mode(settings: JobSettings) -> CatchUpMode:
    """How slots are caught up with: those of `since_last_run` coalesce, because one run covers them all."""
    if settings.catchup.mode is CatchUpMode.ALL and isinstance(settings.timeframe, SinceLastRun):
        return CatchUpMode.LATEST
    return settings.catchup.mode
