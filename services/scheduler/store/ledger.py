"""How it is decided what becomes of slots; each method is one business step in one transaction.

They are all alike: lock the job's schedule, read what of it waits or runs, let `domain` decide, and write plan, ledger
and events together.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg

from services.scheduler import domain, metrics
from services.scheduler.domain import Plan, RunState, Settle
from services.scheduler.store import reading, writing
from shared import failpoints, slots
from shared.database import Connection, Database, is_outage
from shared.events import (
    BackfillCancelRequested,
    BackfillRequested,
    JobCommand,
    JobDeleted,
    JobEvent,
    JobResumed,
    RunCancelRequested,
    RunNowRequested,
    RunRetryRequested,
    Slot,
    Trigger,
)
from shared.observability import log

Clock = Callable[[Connection], Awaitable[datetime]]
Request = Callable[[Connection, Sequence[asyncpg.Record], datetime], Awaitable[None]]

PUT_OFF: Final = timedelta(minutes=5)
"""When a schedule is looked at again whose decision failed by a fault of ours; the others go on meanwhile."""


async def current_time(connection: Connection) -> datetime:
    """The database's clock at this moment, once the locks are held.

    By `now()`, when the transaction began, a decision that waited for a lock would be older than the one it waited for,
    and would not know the slots decided there as past.
    """
    now: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return now


class Unknown(Exception):
    """The event speaks of a job or run that the ledger does not have."""


class LedgerStore:
    """Schedules, backfills and the slot ledger."""

    def __init__(
        self,
        database: Database,
        settle: Settle,
        clock: Clock = current_time,
        *,
        remembers_for: timedelta = timedelta.max,
    ) -> None:
        """The run of a job submitted to run at once is not asked for again when that is longer ago than we remember."""
        self._database = database
        self._settle = settle
        self._clock = clock
        self._remembers_for = remembers_for
        self.changed = asyncio.Event()
        """Set whenever this process may have made a schedule due earlier than it was."""

    # --- consumers ---------------------------------------------------------------------------------------------

    async def keep_schedule(self, event: JobEvent) -> None:
        """Follow the newest version of a job, and request the run of one submitted to run at once."""
        async with self._database.transaction() as connection:
            await reading.lock_versions(connection, event.job_id)
            plan = await reading.lock_plan(connection, event.job_id)
            decided = await reading.decided(connection, event.job_id, _since(event, plan), _immediate(event).key)
            backfilled = await reading.backfilled(connection, event.job_id) if isinstance(event, JobDeleted) else ()
            now = await self._clock(connection)
            if now - event.occurred_at > self._remembers_for:
                decided.add(_immediate(event).key)
            await writing.save(connection, [domain.keep(plan, event, decided, now, self._settle, backfilled)])
        self.changed.set()

    async def run_now(self, command: RunNowRequested) -> None:
        """Request the run that was asked for by hand, or let it wait its turn."""
        async with self._database.transaction() as connection:
            plan = await _new(connection, command, Trigger.MANUAL)
            if plan is not None:
                now = await self._clock(connection)
                await writing.save(connection, [domain.run_now(plan, command, now, self._settle)])

    async def retry_run(self, command: RunRetryRequested) -> None:
        """Request a run again, with the same question; raises Unknown when there was none."""
        async with self._database.transaction() as connection:
            plan = await _new(connection, command, Trigger.RETRY)
            if plan is not None:
                again = await reading.entry_of(connection, command.job_id, command.run_id)
                if again is None:
                    raise Unknown(f"run {command.run_id} of job {command.job_id}")
                now = await self._clock(connection)
                await writing.save(connection, [domain.retry(plan, command, again, now, self._settle)])

    async def cancel_run(self, command: RunCancelRequested) -> None:
        """Skip a slot that waits, or order its run to end; raises Unknown when there is none."""
        async with self._database.transaction() as connection:
            plan = await _known(connection, command)
            entry = await reading.entry_of(connection, command.job_id, command.run_id)
            if entry is None:
                raise Unknown(f"run {command.run_id} of job {command.job_id}")
            now = await self._clock(connection)
            await writing.save(connection, [domain.cancel(plan, [entry], command.actor, now, self._settle)])

    async def end_run(self, job_id: UUID, run_id: UUID, state: RunState) -> None:
        """Follow a run to its end, and request what waited for it; a run that is not in the ledger changes nothing."""
        async with self._database.transaction() as connection:
            plan = await reading.lock_plan(connection, job_id)
            entry = await reading.entry_of(connection, job_id, run_id) if plan else None
            if plan is None or entry is None or not entry.open:
                return
            now = await self._clock(connection)
            decision = domain.end_run(plan, entry, state, now, self._settle)
            await writing.save(connection, [decision])
            if entry.backfill_id is not None:
                await self._go_on(connection, decision.plan, entry.backfill_id, now)

    async def _go_on(self, connection: Connection, plan: Plan, backfill_id: UUID, now: datetime) -> None:
        """Request the next slots of a backfill."""
        backfill, open_runs, waiting = await reading.backfill_of(connection, plan.job_id, backfill_id)
        await writing.save(connection, [domain.go_on(plan, backfill, open_runs, waiting, now, self._settle)])

    async def start_backfill(self, command: BackfillRequested) -> None:
        """Divide a backfill into slots and request the first ones; one that is known changes nothing."""
        async with self._database.transaction() as connection:
            plan = await _known(connection, command)
            now = await self._clock(connection)
            if await writing.add_backfill(connection, command, now):
                answers = await reading.answers(connection, command)
                await writing.save(connection, [domain.start_backfill(plan, command, answers, now, self._settle)])

    async def cancel_backfill(self, command: BackfillCancelRequested) -> None:
        """End a backfill: what waits is skipped, its open runs are ordered to end."""
        async with self._database.transaction() as connection:
            plan = await _known(connection, command)
            entries = await reading.backfilled(connection, command.job_id, command.backfill_id)
            now = await self._clock(connection)
            await writing.save(connection, [domain.cancel(plan, entries, command.actor, now, self._settle)])

    # --- the clock ---------------------------------------------------------------------------------------------

    async def request_due_runs(self, limit: int = 500) -> int:
        """Decide what schedules have due, and say how many schedules that were.

        Claimed schedules are locked and skipped by other replicas; slots, runs and next slots commit together. If a
        decision fails by a fault of ours, the schedules are decided one by one, and those at fault are put off.
        """
        try:
            return await self._request_due_runs(limit, self._request)
        except Exception as error:
            if is_outage(error):
                raise
            log.exception("schedules not decided together")
        return await self._request_due_runs(limit, self._request_or_put_off)

    async def next_due_in(self) -> timedelta | None:
        """How long until the next schedule is due; None when there is none."""
        async with self._database.transaction() as connection:
            now = await self._clock(connection)
            due_at = await reading.first_due(connection)
            return due_at and due_at - now

    async def _request_due_runs(self, limit: int, request: Request) -> int:
        async with self._database.transaction() as connection:
            now = await self._clock(connection)
            rows = await reading.lock_due(connection, now, limit)
            if not rows:
                return 0
            await request(connection, rows, now)
            failpoints.reached("scheduler.claimed")
        failpoints.reached("scheduler.requested")
        for row in rows:
            metrics.DELAY.observe((now - row["due_at"]).total_seconds())
        return len(rows)

    async def _request(self, connection: Connection, rows: Sequence[asyncpg.Record], now: datetime) -> None:
        plans = await reading.plans(connection, rows)
        ahead = await reading.decided_ahead(connection, plans)
        decisions = [domain.due(plan, now, self._settle, ahead.get(plan.job_id, ())) for plan in plans]
        await writing.move_plans(connection, [decision.plan for decision in decisions])
        await writing.write_down(connection, decisions)

    async def _request_or_put_off(self, connection: Connection, rows: Sequence[asyncpg.Record], now: datetime) -> None:
        for row in rows:
            try:
                async with connection.transaction():
                    await self._request(connection, [row], now)
            except Exception as error:
                if is_outage(error):
                    raise
                job_id, until = row["job_id"], now + PUT_OFF
                await writing.put_off(connection, job_id, until)
                log.error("schedule put off", job_id=str(job_id), until=str(until), exc_info=error)


async def _known(connection: Connection, command: JobCommand) -> Plan:
    """The locked plan of the job a command is about; its creation comes before it on the same key."""
    plan = await reading.lock_plan(connection, command.job_id)
    if plan is None:
        raise Unknown(f"job {command.job_id}")
    return plan


async def _new(connection: Connection, command: JobCommand, trigger: Trigger) -> Plan | None:
    """The locked plan of the job that shall run, or None when the command is known."""
    plan = await _known(connection, command)
    key = slots.commanded_slot(trigger, command.event_id, command.occurred_at).key
    return None if await reading.is_decided(connection, command.job_id, key) else plan


def _immediate(event: JobEvent) -> Slot:
    """The slot of the run that the submission of a job asks for."""
    return slots.commanded_slot(Trigger.IMMEDIATE, event.event_id, event.occurred_at)


def _since(event: JobEvent, plan: Plan | None) -> datetime:
    """After when `event` may have slots of the job decided."""
    moments = [event.occurred_at, event.missed_since if isinstance(event, JobResumed) else None]
    if plan is not None:
        moments += [plan.stopped_at, plan.next_slot_at and plan.next_slot_at - slots.TICK]
    return min(moment for moment in moments if moment is not None)
