"""How it is decided what becomes of slots; each method is one business step in one transaction.

They are all alike: lock the job's schedule, read what of it waits or runs, let `domain` decide, and write plan, ledger
and events together.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg

from services.scheduler import domain, metrics
from services.scheduler.domain import Backfill, Decision, Entry, Outcome, Plan, RunState, Settle
from shared import failpoints, outbox, slots
from shared.database import Connection, Database, is_outage
from shared.events import (
    BackfillCancelRequested,
    BackfillRequested,
    JobCommand,
    JobDeleted,
    JobEvent,
    JobResumed,
    Question,
    RunCancelRequested,
    RunNowRequested,
    RunRequested,
    RunRetryRequested,
    Slot,
    Trigger,
)
from shared.jobs import JobSettings
from shared.observability import log

Clock = Callable[[Connection], Awaitable[datetime]]
Request = Callable[[Connection, Sequence[asyncpg.Record], datetime], Awaitable[None]]

PUT_OFF: Final = timedelta(minutes=5)
"""When a schedule is looked at again whose decision failed by a fault of ours; the others go on meanwhile."""

_PLAN: Final = (
    """job_id, tenant, job_version, settings, active, deleted, next_slot_at, failures, exported_to, stopped_at"""
)
_ENTRY: Final = """job_id, slot_key, slot_at, trigger, outcome, reason, count, job_version, run_id, question, retry_of,
                   run_state, cancelled_by"""


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
            # A job nobody has heard of has no row to lock: its versions wait for each other here.
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", str(event.job_id))
            plan = await self._plan(connection, event.job_id)
            decided = await self._decided(connection, event, _since(event, plan))
            backfilled = await self._backfilled(connection, event.job_id) if isinstance(event, JobDeleted) else ()
            now = await self._clock(connection)
            if now - event.occurred_at > self._remembers_for:
                decided.add(_immediate(event).key)
            await self._save(connection, [domain.keep(plan, event, decided, now, self._settle, backfilled)])
        self.changed.set()

    async def run_now(self, command: RunNowRequested) -> None:
        """Request the run that was asked for by hand, or let it wait its turn."""
        async with self._database.transaction() as connection:
            plan = await self._new(connection, command, Trigger.MANUAL)
            if plan is not None:
                now = await self._clock(connection)
                await self._save(connection, [domain.run_now(plan, command, now, self._settle)])

    async def retry_run(self, command: RunRetryRequested) -> None:
        """Request a run again, with the same question; raises Unknown when there was none."""
        async with self._database.transaction() as connection:
            plan = await self._new(connection, command, Trigger.RETRY)
            if plan is not None:
                again = await self._entry_of(connection, command.job_id, command.run_id)
                if again is None:
                    raise Unknown(f"run {command.run_id} of job {command.job_id}")
                now = await self._clock(connection)
                await self._save(connection, [domain.retry(plan, command, again, now, self._settle)])

    async def cancel_run(self, command: RunCancelRequested) -> None:
        """Skip a slot that waits, or order its run to end; raises Unknown when there is none."""
        async with self._database.transaction() as connection:
            plan = await self._known(connection, command)
            entry = await self._entry_of(connection, command.job_id, command.run_id)
            if entry is None:
                raise Unknown(f"run {command.run_id} of job {command.job_id}")
            now = await self._clock(connection)
            await self._save(connection, [domain.cancel(plan, [entry], command.actor, now, self._settle)])

    async def end_run(self, job_id: UUID, run_id: UUID, state: RunState) -> None:
        """Follow a run to its end, and request what waited for it; a run that is not in the ledger changes nothing."""
        async with self._database.transaction() as connection:
            plan = await self._plan(connection, job_id)
            entry = await self._entry_of(connection, job_id, run_id) if plan else None
            if plan is None or entry is None or not entry.open:
                return
            now = await self._clock(connection)
            decision = domain.end_run(plan, entry, state, now, self._settle)
            await self._save(connection, [decision])
            if entry.backfill_id is not None:
                await self._go_on(connection, decision.plan, entry.backfill_id, now)

    async def start_backfill(self, command: BackfillRequested) -> None:
        """Divide a backfill into slots and request the first ones; one that is known changes nothing."""
        async with self._database.transaction() as connection:
            plan = await self._known(connection, command)
            now = await self._clock(connection)
            new = await connection.fetchval(
                """INSERT INTO backfills (backfill_id, job_id, tenant, max_parallel, started_at)
                   VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING true""",
                command.event_id, command.job_id, command.tenant, command.max_parallel, now,
            )  # fmt: skip
            if new:
                answers = await self._answers(connection, command)
                await self._save(connection, [domain.start_backfill(plan, command, answers, now, self._settle)])

    async def cancel_backfill(self, command: BackfillCancelRequested) -> None:
        """End a backfill: what waits is skipped, its open runs are ordered to end."""
        async with self._database.transaction() as connection:
            plan = await self._known(connection, command)
            entries = await self._backfilled(connection, command.job_id, command.backfill_id)
            now = await self._clock(connection)
            await self._save(connection, [domain.cancel(plan, entries, command.actor, now, self._settle)])

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
            due_at: datetime | None = await connection.fetchval("SELECT min(due_at) FROM schedules")
            return due_at and due_at - now

    async def _request_due_runs(self, limit: int, request: Request) -> int:
        async with self._database.transaction() as connection:
            now = await self._clock(connection)
            rows = await connection.fetch(
                f"""SELECT {_PLAN}, due_at FROM schedules WHERE due_at <= $1
                    ORDER BY due_at LIMIT $2
                    FOR UPDATE SKIP LOCKED""",
                now, limit,
            )  # fmt: skip
            if not rows:
                return 0
            await request(connection, rows, now)
            failpoints.reached("scheduler.claimed")
        failpoints.reached("scheduler.requested")
        for row in rows:
            metrics.DELAY.observe((now - row["due_at"]).total_seconds())
        return len(rows)

    async def _request(self, connection: Connection, rows: Sequence[asyncpg.Record], now: datetime) -> None:
        held = await self._held(connection, [row["job_id"] for row in rows])
        plans = [_plan(row, held.get(row["job_id"], ())) for row in rows]
        ahead = await self._decided_ahead(connection, plans)
        decisions = [domain.due(plan, now, self._settle, ahead.get(plan.job_id, ())) for plan in plans]
        await self._move_plans(connection, [decision.plan for decision in decisions])
        await self._write_down(connection, decisions)

    async def _request_or_put_off(self, connection: Connection, rows: Sequence[asyncpg.Record], now: datetime) -> None:
        for row in rows:
            try:
                async with connection.transaction():
                    await self._request(connection, [row], now)
            except Exception as error:
                if is_outage(error):
                    raise
                job_id, until = row["job_id"], now + PUT_OFF
                await connection.execute("UPDATE schedules SET due_at = $2 WHERE job_id = $1", job_id, until)
                log.error("schedule put off", job_id=str(job_id), until=str(until), exc_info=error)

    # --- reading -----------------------------------------------------------------------------------------------

    async def _known(self, connection: Connection, command: JobCommand) -> Plan:
        """The locked plan of the job a command is about; its creation comes before it on the same key."""
        plan = await self._plan(connection, command.job_id)
        if plan is None:
            raise Unknown(f"job {command.job_id}")
        return plan

    async def _new(self, connection: Connection, command: JobCommand, trigger: Trigger) -> Plan | None:
        """The locked plan of the job that shall run, or None when the command is known."""
        plan = await self._known(connection, command)
        key = slots.commanded_slot(trigger, command.event_id, command.occurred_at).key
        known = await connection.fetchval(
            "SELECT true FROM slots WHERE job_id = $1 AND slot_key = $2", command.job_id, key
        )
        return None if known else plan

    async def _plan(self, connection: Connection, job_id: UUID) -> Plan | None:
        row = await connection.fetchrow(f"SELECT {_PLAN} FROM schedules WHERE job_id = $1 FOR UPDATE", job_id)
        if row is None:
            return None
        held = await self._held(connection, [job_id])
        return _plan(row, held.get(job_id, ()))

    async def _held(self, connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, list[Entry]]:
        """What of the jobs' schedules waits or runs, in the order of the slots."""
        rows = await connection.fetch(
            f"""SELECT {_ENTRY} FROM slots
                WHERE job_id = ANY($1) AND (outcome = 'waiting' OR run_state = 'open') AND backfill_id IS NULL
                ORDER BY slot_at, slot_key""",
            job_ids,
        )
        held: dict[UUID, list[Entry]] = defaultdict(list)
        for row in rows:
            held[row["job_id"]].append(_entry(row))
        return held

    async def _decided(self, connection: Connection, event: JobEvent, since: datetime) -> set[str]:
        """The keys of the job's scheduled slots later than `since`, and of the run its submission asked for."""
        rows = await connection.fetch(
            """SELECT slot_key FROM slots
               WHERE job_id = $1 AND (trigger = 'schedule' AND slot_at > $2 OR slot_key = $3)""",
            event.job_id, since, _immediate(event).key,
        )  # fmt: skip
        return {row["slot_key"] for row in rows}

    async def _decided_ahead(self, connection: Connection, plans: Sequence[Plan]) -> dict[UUID, set[str]]:
        """The keys of slots in the ledger that are not earlier than their schedule's next one; seldom any."""
        rows = await connection.fetch(
            """SELECT job_id, slot_key
               FROM unnest($1::uuid[], $2::timestamptz[]) AS plan (job_id, next_slot_at) JOIN slots USING (job_id)
               WHERE trigger = 'schedule' AND slot_at >= next_slot_at""",
            [plan.job_id for plan in plans], [plan.next_slot_at for plan in plans],
        )  # fmt: skip
        ahead: dict[UUID, set[str]] = defaultdict(set)
        for row in rows:
            ahead[row["job_id"]].add(row["slot_key"])
        return ahead

    async def _entry_of(self, connection: Connection, job_id: UUID, run_id: UUID) -> Entry | None:
        row = await connection.fetchrow(f"SELECT {_ENTRY} FROM slots WHERE run_id = $1 AND job_id = $2", run_id, job_id)
        return None if row is None else _entry(row)

    async def _backfilled(self, connection: Connection, job_id: UUID, backfill_id: UUID | None = None) -> list[Entry]:
        """What of one backfill, or of all of a job's, waits or runs."""
        rows = await connection.fetch(
            f"""SELECT {_ENTRY} FROM slots
                WHERE job_id = $1 AND (outcome = 'waiting' OR run_state = 'open') AND backfill_id IS NOT NULL
                  AND ($2::uuid IS NULL OR backfill_id = $2)
                ORDER BY slot_at, slot_key""",
            job_id, backfill_id,
        )  # fmt: skip
        return [_entry(row) for row in rows]

    async def _answers(self, connection: Connection, command: BackfillRequested) -> list[slots.Answer]:
        """The data intervals the job was asked for that touch those of a backfill."""
        rows = await connection.fetch(
            """SELECT interval_from, interval_to, coalesce(run_state IN ('failed', 'cancelled'), false) AS failed
               FROM slots
               WHERE job_id = $1 AND outcome IN ('waiting', 'requested')
                 AND interval_to > $2 AND (interval_from IS NULL OR interval_from < $3)""",
            command.job_id, command.interval_from, command.interval_to,
        )  # fmt: skip
        return [slots.Answer(**row) for row in rows]

    async def _go_on(self, connection: Connection, plan: Plan, backfill_id: UUID, now: datetime) -> None:
        """Request the next slots of a backfill."""
        row = await connection.fetchrow(
            """SELECT max_parallel,
                      (SELECT count(*) FROM slots
                       WHERE job_id = $2 AND run_state = 'open' AND backfill_id = $1)::int AS open_runs
               FROM backfills WHERE backfill_id = $1""",
            backfill_id, plan.job_id,
        )  # fmt: skip
        assert row is not None
        backfill = Backfill(backfill_id, row["max_parallel"])
        rows = await connection.fetch(
            f"""SELECT {_ENTRY} FROM slots
                WHERE job_id = $1 AND outcome = 'waiting' AND backfill_id = $2
                ORDER BY slot_at, slot_key LIMIT $3""",
            plan.job_id, backfill_id, backfill.max_parallel,
        )  # fmt: skip
        waiting = [_entry(row) for row in rows]
        await self._save(connection, [domain.go_on(plan, backfill, row["open_runs"], waiting, now, self._settle)])

    # --- writing -----------------------------------------------------------------------------------------------

    async def _save(self, connection: Connection, decisions: Sequence[Decision]) -> None:
        """Write plans, ledger and events of decisions about locked schedules."""
        await self._save_plans(connection, [decision.plan for decision in decisions])
        await self._write_down(connection, decisions)

    async def _write_down(self, connection: Connection, decisions: Sequence[Decision]) -> None:
        """Write ledger and events of decisions."""
        await self._save_entries(connection, [(d.plan, entry) for d in decisions for entry in d.entries.values()])
        await outbox.append(connection, [event for decision in decisions for event in decision.events])
        for event in (event for decision in decisions for event in decision.events):
            if isinstance(event, RunRequested):
                ids = {"run_id": str(event.run_id), "job_id": str(event.job_id), "tenant": event.tenant}
                log.info("run requested", slot=event.slot.key, trigger=event.slot.trigger, **ids)
        failpoints.reached("scheduler.saved")

    async def _save_plans(self, connection: Connection, plans: Sequence[Plan]) -> None:
        await connection.execute(
            """INSERT INTO schedules (job_id, tenant, job_version, settings, active, deleted, next_slot_at, due_at,
                                      failures, exported_to, stopped_at, deleted_at)
               SELECT plan.*, CASE WHEN plan.deleted THEN now() END
               FROM unnest($1::uuid[], $2::text[], $3::int[], $4::jsonb[], $5::bool[], $6::bool[],
                           $7::timestamptz[], $8::timestamptz[], $9::int[], $10::timestamptz[], $11::timestamptz[])
                    AS plan (job_id, tenant, job_version, settings, active, deleted)
               ON CONFLICT (job_id) DO UPDATE
               SET job_version = excluded.job_version, settings = excluded.settings, active = excluded.active,
                   deleted = excluded.deleted, next_slot_at = excluded.next_slot_at, due_at = excluded.due_at,
                   failures = excluded.failures, exported_to = excluded.exported_to,
                   stopped_at = excluded.stopped_at,
                   deleted_at = coalesce(schedules.deleted_at, excluded.deleted_at)""",
            [p.job_id for p in plans], [p.tenant for p in plans], [p.job_version for p in plans],
            [p.settings.model_dump(mode="json") for p in plans], [p.active for p in plans], [p.deleted for p in plans],
            [p.next_slot_at for p in plans], [p.due_at for p in plans], [p.failures for p in plans],
            [p.exported_to for p in plans], [p.stopped_at for p in plans],
        )  # fmt: skip

    async def _move_plans(self, connection: Connection, plans: Sequence[Plan]) -> None:
        """Write the next slots of locked plans, which is all that changes when slots are due."""
        await connection.execute(
            """UPDATE schedules SET next_slot_at = moved.next_slot_at, due_at = moved.due_at
               FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) AS moved (job_id, next_slot_at, due_at)
               WHERE schedules.job_id = moved.job_id""",
            [p.job_id for p in plans], [p.next_slot_at for p in plans], [p.due_at for p in plans],
        )  # fmt: skip

    async def _save_entries(self, connection: Connection, entries: Iterable[tuple[Plan, Entry]]) -> None:
        """Insert what is new; of what is known only a waiting slot or an open run may still change."""
        kept = list(entries)
        if not kept:
            return
        await connection.execute(
            """INSERT INTO slots (job_id, tenant, slot_key, slot_at, trigger, outcome, reason, count, job_version,
                                  run_id, question, interval_from, interval_to, retry_of, backfill_id, run_state,
                                  cancelled_by)
               SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::text[],
                                    $7::text[], $8::int[], $9::int[], $10::uuid[], $11::jsonb[], $12::timestamptz[],
                                    $13::timestamptz[], $14::uuid[], $15::uuid[], $16::text[], $17::text[])
               ON CONFLICT (job_id, slot_key) DO UPDATE
               SET outcome = excluded.outcome, reason = excluded.reason, job_version = excluded.job_version,
                   question = excluded.question, interval_from = excluded.interval_from,
                   interval_to = excluded.interval_to, run_state = excluded.run_state,
                   cancelled_by = excluded.cancelled_by, decided_at = now()
               WHERE slots.outcome = 'waiting' OR slots.run_state = 'open'""",
            [p.job_id for p, _ in kept], [p.tenant for p, _ in kept], [e.slot.key for _, e in kept],
            [e.slot.at for _, e in kept], [e.slot.trigger for _, e in kept], [e.outcome for _, e in kept],
            [e.reason for _, e in kept], [e.count for _, e in kept], [e.job_version for _, e in kept],
            [e.run_id for _, e in kept], [e.question and e.question.model_dump(mode="json") for _, e in kept],
            [e.question and e.question.interval_from for _, e in kept],
            [e.question and e.question.interval_to for _, e in kept], [e.retry_of for _, e in kept],
            [e.backfill_id for _, e in kept], [e.run_state for _, e in kept], [e.cancelled_by for _, e in kept],
        )  # fmt: skip


def _immediate(event: JobEvent) -> Slot:
    """The slot of the run that the submission of a job asks for."""
    return slots.commanded_slot(Trigger.IMMEDIATE, event.event_id, event.occurred_at)


def _since(event: JobEvent, plan: Plan | None) -> datetime:
    """After when `event` may have slots of the job decided."""
    moments = [event.occurred_at, event.missed_since if isinstance(event, JobResumed) else None]
    if plan is not None:
        moments += [plan.stopped_at, plan.next_slot_at and plan.next_slot_at - slots.TICK]
    return min(moment for moment in moments if moment is not None)


def _plan(row: asyncpg.Record, held: Sequence[Entry]) -> Plan:
    return Plan(
        job_id=row["job_id"],
        tenant=row["tenant"],
        job_version=row["job_version"],
        settings=JobSettings.model_validate(row["settings"]),
        active=row["active"],
        deleted=row["deleted"],
        next_slot_at=row["next_slot_at"],
        failures=row["failures"],
        exported_to=row["exported_to"],
        stopped_at=row["stopped_at"],
        held=tuple(held),
    )


def _entry(row: asyncpg.Record) -> Entry:
    return Entry(
        slot=Slot(key=row["slot_key"], at=row["slot_at"], trigger=row["trigger"]),
        run_id=row["run_id"],
        outcome=Outcome(row["outcome"]),
        job_version=row["job_version"],
        reason=row["reason"],
        count=row["count"],
        question=row["question"] and Question.model_validate(row["question"]),
        retry_of=row["retry_of"],
        run_state=row["run_state"] and RunState(row["run_state"]),
        cancelled_by=row["cancelled_by"],
    )
