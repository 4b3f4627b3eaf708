"""Two ways to run the scheduler's rules: in memory, a thousand times faster, and by its real store on PostgreSQL.

`Memory` decides nothing: it hands the rules what the store would have read, and a commit is an assignment.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from itertools import cycle
from typing import Protocol
from uuid import UUID

from services.scheduler import domain
from services.scheduler.consumers import ENDS
from services.scheduler.domain import Backfill, Decision, Entry, Outcome, Plan, RunState
from services.scheduler.store import Store
from shared import slots
from shared.database import Connection, Database
from shared.events import (
    EVENT_TYPES,
    BackfillCancelRequested,
    BackfillRequested,
    Event,
    JobCommand,
    JobDeleted,
    JobEvent,
    JobResumed,
    RunCancelRequested,
    RunEvent,
    RunNowRequested,
    RunRetryRequested,
    ScheduleEvent,
    Trigger,
)
from tests.simulation.fleet import settle
from tests.simulation.record import Ledger, Row, Standing

REPLICAS = 8


class Crash(BaseException):
    """A replica dies before its commit."""


class Kernel(Protocol):
    """A scheduler without a clock of its own; with `crash` the replica dies before the commit."""

    rewritten: list[tuple[UUID, str]]

    async def deliver(self, event: Event, now: datetime, *, crash: bool = False) -> list[ScheduleEvent]: ...
    async def tick(self, now: datetime, *, crash: bool = False) -> list[ScheduleEvent]: ...
    async def next_due(self) -> datetime | None: ...
    async def ledger(self) -> Ledger: ...
    async def standings(self) -> dict[UUID, Standing]: ...


class Memory:
    """Plans and entries in dictionaries."""

    def __init__(self) -> None:
        self.plans: dict[UUID, Plan] = {}
        self.due_at: dict[UUID, datetime] = {}
        self.entries: dict[UUID, dict[str, Entry]] = defaultdict(dict)
        self.keys: dict[UUID, tuple[UUID, str]] = {}
        self.backfills: dict[UUID, Backfill] = {}
        self.latest: dict[UUID, datetime] = {}
        """The last scheduled slot of each job in the ledger."""
        self.rewritten: list[tuple[UUID, str]] = []

    async def deliver(self, event: Event, now: datetime, *, crash: bool = False) -> list[ScheduleEvent]:
        decisions = self.decide(event, now)
        if crash:
            raise Crash
        if isinstance(event, BackfillRequested):
            self.backfills[event.event_id] = Backfill(event.event_id, event.max_parallel)
        told = [self.commit(decision) for decision in decisions]
        ended = decisions and isinstance(event, RunEvent) and self.keys.get(event.run_id)
        if ended and (backfill_id := self.entries[ended[0]][ended[1]].backfill_id):
            told.append(self.commit(self.go_on(ended[0], backfill_id, now)))
        return [said for events in told for said in events]

    async def tick(self, now: datetime, *, crash: bool = False) -> list[ScheduleEvent]:
        due = [self.plans[job_id] for job_id, at in self.due_at.items() if at <= now]
        decisions = [domain.due(plan, now, settle, self.decided_ahead(plan)) for plan in due]
        if crash:
            raise Crash
        return [event for decision in decisions for event in self.commit(decision)]

    async def next_due(self) -> datetime | None:
        return min(self.due_at.values(), default=None)

    async def ledger(self) -> Ledger:
        return {(job_id, key): _row(e) for job_id, entries in self.entries.items() for key, e in entries.items()}

    async def standings(self) -> dict[UUID, Standing]:
        return {p.job_id: Standing(p.job_version, p.active, p.next_slot_at, p.due_at) for p in self.plans.values()}

    # --- what the store would read, and the rules it would ask ---------------------------------------------------

    def decide(self, event: Event, now: datetime) -> list[Decision]:
        """What the rules say about an event."""
        if isinstance(event, JobEvent):
            plan = self.plans.get(event.job_id)
            backfilled = self.backfilled(event.job_id) if isinstance(event, JobDeleted) else ()
            return [domain.keep(plan, event, self.decided(event), now, settle, backfilled)]
        if isinstance(event, RunEvent):
            return self.end_run(event, now)
        assert isinstance(event, JobCommand)
        plan, known = self.plans[event.job_id], self.entries[event.job_id]
        match event:
            case RunNowRequested() if f"{Trigger.MANUAL}:{event.event_id}" not in known:
                return [domain.run_now(plan, event, now, settle)]
            case RunRetryRequested() if f"{Trigger.RETRY}:{event.event_id}" not in known:
                return [domain.retry(plan, event, known[self.keys[event.run_id][1]], now, settle)]
            case RunCancelRequested():
                return [domain.cancel(plan, [known[self.keys[event.run_id][1]]], event.actor, now, settle)]
            case BackfillRequested() if event.event_id not in self.backfills:
                return [domain.start_backfill(plan, event, self.answers(event), now, settle)]
            case BackfillCancelRequested():
                backfilled = self.backfilled(event.job_id, event.backfill_id)
                return [domain.cancel(plan, backfilled, event.actor, now, settle)]
            case _:
                return []

    def end_run(self, event: RunEvent, now: datetime) -> list[Decision]:
        """What the rules say about the end of a run."""
        job_id, key = self.keys[event.run_id]
        entry = self.entries[job_id][key]
        return [domain.end_run(self.plans[job_id], entry, ENDS[type(event)], now, settle)] if entry.open else []

    def go_on(self, job_id: UUID, backfill_id: UUID, now: datetime) -> Decision:
        """What the rules say about a backfill of which a run has ended."""
        entries = self.backfilled(job_id, backfill_id)
        waiting, open_runs = [e for e in entries if e.waiting], sum(e.open for e in entries)
        return domain.go_on(self.plans[job_id], self.backfills[backfill_id], open_runs, waiting, now, settle)

    def decided(self, event: JobEvent) -> set[str]:
        """As `Store.keep_schedule` reads it."""
        plan = self.plans.get(event.job_id)
        missed_since = event.missed_since if isinstance(event, JobResumed) else None
        ahead = plan and plan.next_slot_at and plan.next_slot_at - slots.TICK
        since = min(filter(None, [event.occurred_at, missed_since, plan and plan.stopped_at, ahead]))
        entries = self.entries[event.job_id].values()
        keys = {e.slot.key for e in entries if e.slot.trigger is Trigger.SCHEDULE and e.slot.at > since}
        return keys | ({f"{Trigger.IMMEDIATE}:{event.event_id}"} & self.entries[event.job_id].keys())

    def decided_ahead(self, plan: Plan) -> set[str]:
        """As `Store.request_due_runs` reads it; seldom any."""
        first = plan.next_slot_at
        if first is None or self.latest.get(plan.job_id, first) < first:
            return set()
        return {
            entry.slot.key
            for entry in self.entries[plan.job_id].values()
            if entry.slot.trigger is Trigger.SCHEDULE and entry.slot.at >= first
        }

    def backfilled(self, job_id: UUID, backfill_id: UUID | None = None) -> list[Entry]:
        """What of one backfill, or of all of a job's, waits or runs."""
        held = [e for e in self.entries[job_id].values() if e.backfill_id and (e.waiting or e.open)]
        mine = [e for e in held if backfill_id in (None, e.backfill_id)]
        return sorted(mine, key=lambda e: (e.slot.at, e.slot.key))

    def answers(self, command: BackfillRequested) -> list[slots.Answer]:
        """The intervals the job was asked for."""
        asked = [e for e in self.entries[command.job_id].values() if e.outcome in (Outcome.WAITING, Outcome.REQUESTED)]
        return [
            slots.Answer(
                e.question.interval_from, e.question.interval_to,
                failed=e.run_state in (RunState.FAILED, RunState.CANCELLED),
            )
            for e in asked
            if e.question
        ]  # fmt: skip

    def commit(self, decision: Decision) -> Sequence[ScheduleEvent]:
        """Keep what was decided, and note what must never change and did."""
        job_id = decision.plan.job_id
        before = self.plans.get(job_id)
        if before and before.job_version > decision.plan.job_version:
            self.rewritten.append((job_id, f"version {before.job_version} became {decision.plan.job_version}"))
        self.plans[job_id] = decision.plan
        self.due_at.pop(job_id, None)
        if due_at := decision.plan.due_at:
            self.due_at[job_id] = due_at
        entries = self.entries[job_id]
        for key, entry in decision.entries.items():
            old = entries.get(key)
            if old and not (old.waiting or old.open) and old != entry:
                self.rewritten.append((job_id, f"{key} was final and changed: {old} became {entry}"))
            entries[key] = entry
            self.keys[entry.run_id] = job_id, key
            if entry.slot.trigger is Trigger.SCHEDULE:
                self.latest[job_id] = max(self.latest.get(job_id, entry.slot.at), entry.slot.at)
        return decision.events


class Postgres:
    """The real store on a real database, as replicas that take turns; only their clock is ours."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._replicas = cycle([Store(database, settle, self._clock) for _ in range(REPLICAS)])
        self._now: datetime | None = None
        self._published = 0
        self.rewritten: list[tuple[UUID, str]] = []

    async def _clock(self, _: Connection) -> datetime:
        if self._now is None:
            raise Crash
        return self._now

    async def deliver(self, event: Event, now: datetime, *, crash: bool = False) -> list[ScheduleEvent]:
        self._now, store = None if crash else now, next(self._replicas)
        match event:
            case JobEvent():
                await store.keep_schedule(event)
            case RunNowRequested():
                await store.run_now(event)
            case RunRetryRequested():
                await store.retry_run(event)
            case RunCancelRequested():
                await store.cancel_run(event)
            case BackfillRequested():
                await store.start_backfill(event)
            case BackfillCancelRequested():
                await store.cancel_backfill(event)
            case RunEvent():
                await store.end_run(event.job_id, event.run_id, ENDS[type(event)])
        if crash:
            raise Crash  # what changes nothing need not look at the clock
        return await self._told()

    async def tick(self, now: datetime, *, crash: bool = False) -> list[ScheduleEvent]:
        self._now, store = None if crash else now, next(self._replicas)
        await store.request_due_runs()
        return await self._told()

    async def next_due(self) -> datetime | None:
        async with self._database.session() as connection:
            return await connection.fetchval("SELECT min(due_at) FROM schedules")

    async def ledger(self) -> Ledger:
        async with self._database.session() as connection:
            rows = await connection.fetch("SELECT * FROM slots")
        return {
            (row["job_id"], row["slot_key"]): Row(
                row["outcome"], row["reason"], row["count"], row["job_version"], row["run_id"],
                row["interval_to"] and (row["interval_from"], row["interval_to"]), row["run_state"],
                row["cancelled_by"],
            )
            for row in rows
        }  # fmt: skip

    async def standings(self) -> dict[UUID, Standing]:
        async with self._database.session() as connection:
            rows = await connection.fetch("SELECT * FROM schedules")
        return {
            row["job_id"]: Standing(row["job_version"], row["active"], row["next_slot_at"], row["due_at"])
            for row in rows
        }

    async def _told(self) -> list[ScheduleEvent]:
        """What the outbox has got since the last look."""
        async with self._database.session() as connection:
            rows = await connection.fetch(
                "SELECT id, type, value FROM outbox WHERE id > $1 ORDER BY id", self._published
            )
        if rows:
            self._published = rows[-1]["id"]
        told = [EVENT_TYPES[row["type"]].model_validate_json(row["value"]) for row in rows]
        return [event for event in told if isinstance(event, ScheduleEvent)]


def _row(entry: Entry) -> Row:
    asked = entry.question and (entry.question.interval_from, entry.question.interval_to)
    return Row(
        entry.outcome, entry.reason, entry.count, entry.job_version, entry.run_id, asked, entry.run_state,
        entry.cancelled_by,
    )  # fmt: skip
