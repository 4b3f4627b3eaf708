"""Schedulers that are wrong in one way each, to see that the checks notice."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from unittest.mock import patch
from uuid import UUID

from services.scheduler.domain import Backfill, Decision, Entry, Outcome, Plan, turn
from shared import slots
from shared.events import (
    Event,
    JobEvent,
    RunCancelOrdered,
    RunEvent,
    RunRequested,
    ScheduleEvent,
    SlotSkipped,
    new_event_id,
)
from tests.simulation.kernels import Memory


class Mutant(Memory):
    """Wrong in one way; `spell` is what must be broken outside of the kernel for that."""

    def spell(self) -> AbstractContextManager[object]:
        """Nothing."""
        return nullcontext()


class DropsADecision(Mutant):
    """One decision in a hundred is not written down."""

    commits = 0

    def commit(self, decision: Decision) -> Sequence[ScheduleEvent]:
        self.commits += 1
        if self.commits % 100:
            return super().commit(decision)
        super().commit(replace(decision, entries={}, events=()))
        return ()


class RequestsTwice(Mutant):
    """A request in fifty is published as two events."""

    requests = 0

    def commit(self, decision: Decision) -> Sequence[ScheduleEvent]:
        told = list(super().commit(decision))
        for event in [event for event in told if isinstance(event, RunRequested)]:
            self.requests += 1
            if self.requests % 50 == 0:
                told.append(event.model_copy(update={"event_id": new_event_id()}))
        return told


class ForgetsWhatIsDecided(Mutant):
    """A changed job may decide its slots once more."""

    def decided(self, event: JobEvent) -> set[str]:
        return set()


class LooksOnlyAhead(Mutant):
    """By the clock, slots are decided that a late edit found decided already."""

    def decided_ahead(self, plan: Plan) -> set[str]:
        return set()


class CountsFromNow(Mutant):
    """The next slot is computed from the present moment instead of the last slot."""

    async def tick(self, now: datetime, *, crash: bool = False) -> list[ScheduleEvent]:
        for job_id in [job_id for job_id, at in self.due_at.items() if at <= now]:
            plan = self.plans[job_id]
            last = [*slots.slots_between(plan.settings, now - timedelta(hours=26), now)][-1:]
            if last and plan.next_slot_at and last[0] > plan.next_slot_at:
                self.plans[job_id] = replace(plan, next_slot_at=last[0])
        return await super().tick(now, crash=crash)


class ForgetsToRelease(Mutant):
    """What waits is forgotten when a run ends."""

    def spell(self) -> AbstractContextManager[object]:
        return patch.object(turn.Turn, "release", lambda _: None)


class FollowsAnyVersion(Mutant):
    """An older version of a job wins when it comes last."""

    def decide(self, event: Event, now: datetime) -> list[Decision]:
        if isinstance(event, JobEvent) and event.job_id in self.plans:
            plan = self.plans[event.job_id]
            self.plans[event.job_id] = replace(plan, job_version=min(plan.job_version, event.job.version - 1))
        return super().decide(event, now)


class ForgetsWhatIsExported(Mutant):
    """Every `since_last_run` run begins at the beginning."""

    def commit(self, decision: Decision) -> Sequence[ScheduleEvent]:
        return super().commit(replace(decision, plan=replace(decision.plan, exported_to=None)))


class CountsBackfillsInWhatIsExported(Mutant):
    """A backfill moves where the next run begins."""

    def commit(self, decision: Decision) -> Sequence[ScheduleEvent]:
        ends = [e.question.interval_to for e in decision.entries.values() if e.backfill_id and e.question]
        plan = decision.plan
        reached = max([*ends, plan.exported_to] if plan.exported_to else ends, default=None)
        return super().commit(replace(decision, plan=replace(plan, exported_to=reached or plan.exported_to)))


class IgnoresTheLimitOfBackfills(Mutant):
    """One run more of a backfill than was allowed."""

    def go_on(self, job_id: UUID, backfill_id: UUID, now: datetime) -> Decision:
        known = self.backfills[backfill_id]
        self.backfills[backfill_id] = Backfill(backfill_id, known.max_parallel + 1)
        return super().go_on(job_id, backfill_id, now)


class StopsBackfills(Mutant):
    """A backfill ends with its first runs."""

    def go_on(self, job_id: UUID, backfill_id: UUID, now: datetime) -> Decision:
        return Decision(self.plans[job_id])


class OverlooksOpenRuns(Mutant):
    """Slots are admitted as if nothing ran."""

    def spell(self) -> AbstractContextManager[object]:
        return patch.object(turn.Turn, "_wait", turn.Turn._request)


class EndsRunsTwice(Mutant):
    """The end of a run counts whenever it is heard."""

    def end_run(self, event: RunEvent, now: datetime) -> list[Decision]:
        job_id, key = self.keys[event.run_id]
        entry = self.entries[job_id][key]
        self.entries[job_id][key] = replace(entry, run_state=turn.RunState.OPEN)
        return super().end_run(event, now)


class CatchesUpWithEverything(Mutant):
    """No slot is ever too late."""

    def spell(self) -> AbstractContextManager[object]:
        return patch.object(turn, "ON_TIME", timedelta(days=400))


class IgnoresSuspensions(Mutant):
    """What passed while a job was suspended is not written down."""

    def commit(self, decision: Decision) -> Sequence[ScheduleEvent]:
        kept = {key: e for key, e in decision.entries.items() if e.reason != "suspended"}
        told = tuple(event for event in decision.events if getattr(event, "reason", None) != "suspended")
        return super().commit(replace(decision, entries=kept, events=told))


class LeavesSettlingOut(Mutant):
    """Intervals end at the slot even where late rows are waited for."""

    def spell(self) -> AbstractContextManager[object]:
        return patch("tests.simulation.kernels.settle", lambda _: timedelta(0))


class CancelsTheWaiting(Mutant):
    """After every order to end a run, what waits for it is skipped, too."""

    def commit(self, decision: Decision) -> Sequence[ScheduleEvent]:
        orders = [event for event in decision.events if isinstance(event, RunCancelOrdered)]
        waiting: Iterable[Entry] = [e for e in decision.plan.held if e.waiting] if orders else []
        for entry in waiting:
            gone = replace(entry, outcome=Outcome.SKIPPED, reason="cancelled")
            said = SlotSkipped(
                occurred_at=orders[0].occurred_at, tenant="acme", job_id=decision.plan.job_id,
                job_version=decision.plan.job_version, slot=entry.slot, reason="cancelled",
            )  # fmt: skip
            decision = Decision(
                replace(decision.plan, held=tuple(e for e in decision.plan.held if e.slot.key != entry.slot.key)),
                {**decision.entries, entry.slot.key: gone},
                (*decision.events, said),
            )
        return super().commit(decision)


MUTANTS: list[type[Mutant]] = Mutant.__subclasses__()
