"""What decisions are made from: a job's locked schedule, and what the ledger has of its slots."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from services.scheduler.domain import Backfill, Entry, Outcome, Plan, RunState
from shared import slots
from shared.database import Connection
from shared.events import BackfillRequested, Question, Slot
from shared.jobs import JobSettings

_PLAN: Final = (
    """job_id, tenant, job_version, settings, active, deleted, next_slot_at, failures, exported_to, stopped_at"""
)
_ENTRY: Final = """job_id, slot_key, slot_at, trigger, outcome, reason, count, job_version, run_id, question, retry_of,
                   run_state, cancelled_by"""


async def lock_versions(connection: Connection, job_id: UUID) -> None:
    """Let the versions of a job wait for each other: one that nobody has heard of has no row to lock."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", str(job_id))


async def lock_plan(connection: Connection, job_id: UUID) -> Plan | None:
    """The plan of a job, locked; None for a job nobody has heard of."""
    row = await connection.fetchrow(f"SELECT {_PLAN} FROM schedules WHERE job_id = $1 FOR UPDATE", job_id)
    return None if row is None else (await plans(connection, [row]))[0]


async def lock_due(connection: Connection, now: datetime, limit: int) -> list[asyncpg.Record]:
    """Schedules that are due, locked; those that another replica has locked are left out."""
    return await connection.fetch(
        f"""SELECT {_PLAN}, due_at FROM schedules WHERE due_at <= $1
            ORDER BY due_at LIMIT $2
            FOR UPDATE SKIP LOCKED""",
        now, limit,
    )  # fmt: skip


async def first_due(connection: Connection) -> datetime | None:
    """When the next schedule is due; None when there is none."""
    due_at: datetime | None = await connection.fetchval("SELECT min(due_at) FROM schedules")
    return due_at


async def plans(connection: Connection, schedules: Sequence[asyncpg.Record]) -> list[Plan]:
    """The plans of locked schedules; raises ValueError for settings that no longer make sense."""
    rows = await connection.fetch(
        f"""SELECT {_ENTRY} FROM slots
            WHERE job_id = ANY($1) AND (outcome = 'waiting' OR run_state = 'open') AND backfill_id IS NULL
            ORDER BY slot_at, slot_key""",
        [schedule["job_id"] for schedule in schedules],
    )
    held: dict[UUID, list[Entry]] = defaultdict(list)
    for row in rows:
        held[row["job_id"]].append(_entry(row))
    return [_plan(schedule, held.get(schedule["job_id"], ())) for schedule in schedules]


async def is_decided(connection: Connection, job_id: UUID, key: str) -> bool:
    """Whether the ledger has the slot."""
    known: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM slots WHERE job_id = $1 AND slot_key = $2)", job_id, key
    )
    return known


async def decided(connection: Connection, job_id: UUID, since: datetime, key: str) -> set[str]:
    """The keys of the job's scheduled slots later than `since`, and `key` if it is in the ledger, too."""
    rows = await connection.fetch(
        """SELECT slot_key FROM slots
           WHERE job_id = $1 AND (trigger = 'schedule' AND slot_at > $2 OR slot_key = $3)""",
        job_id, since, key,
    )  # fmt: skip
    return {row["slot_key"] for row in rows}


async def decided_ahead(connection: Connection, of: Sequence[Plan]) -> dict[UUID, set[str]]:
    """The keys of slots in the ledger that are not earlier than their schedule's next one; seldom any."""
    rows = await connection.fetch(
        """SELECT job_id, slot_key
           FROM unnest($1::uuid[], $2::timestamptz[]) AS plan (job_id, next_slot_at) JOIN slots USING (job_id)
           WHERE trigger = 'schedule' AND slot_at >= next_slot_at""",
        [plan.job_id for plan in of], [plan.next_slot_at for plan in of],
    )  # fmt: skip
    ahead: dict[UUID, set[str]] = defaultdict(set)
    for row in rows:
        ahead[row["job_id"]].add(row["slot_key"])
    return ahead


async def entry_of(connection: Connection, job_id: UUID, run_id: UUID) -> Entry | None:
    """The slot of a run."""
    row = await connection.fetchrow(f"SELECT {_ENTRY} FROM slots WHERE run_id = $1 AND job_id = $2", run_id, job_id)
    return None if row is None else _entry(row)


async def backfilled(connection: Connection, job_id: UUID, backfill_id: UUID | None = None) -> list[Entry]:
    """What of one backfill, or of all of a job's, waits or runs."""
    rows = await connection.fetch(
        f"""SELECT {_ENTRY} FROM slots
            WHERE job_id = $1 AND (outcome = 'waiting' OR run_state = 'open') AND backfill_id IS NOT NULL
              AND ($2::uuid IS NULL OR backfill_id = $2)
            ORDER BY slot_at, slot_key""",
        job_id, backfill_id,
    )  # fmt: skip
    return [_entry(row) for row in rows]


async def answers(connection: Connection, command: BackfillRequested) -> list[slots.Answer]:
    """The data intervals the job was asked for that touch those of a backfill."""
    rows = await connection.fetch(
        """SELECT interval_from, interval_to, coalesce(run_state IN ('failed', 'cancelled'), false) AS failed
           FROM slots
           WHERE job_id = $1 AND outcome IN ('waiting', 'requested')
             AND interval_to > $2 AND (interval_from IS NULL OR interval_from < $3)""",
        command.job_id, command.interval_from, command.interval_to,
    )  # fmt: skip
    return [slots.Answer(**row) for row in rows]


async def backfill_of(connection: Connection, job_id: UUID, backfill_id: UUID) -> tuple[Backfill, int, list[Entry]]:
    """A backfill, how many runs it has open, and the next slots that wait."""
    row = await connection.fetchrow(
        """SELECT max_parallel,
                  (SELECT count(*) FROM slots
                   WHERE job_id = $2 AND run_state = 'open' AND backfill_id = $1)::int AS open_runs
           FROM backfills WHERE backfill_id = $1""",
        backfill_id, job_id,
    )  # fmt: skip
    assert row is not None
    rows = await connection.fetch(
        f"""SELECT {_ENTRY} FROM slots
            WHERE job_id = $1 AND outcome = 'waiting' AND backfill_id = $2
            ORDER BY slot_at, slot_key LIMIT $3""",
        job_id, backfill_id, row["max_parallel"],
    )  # fmt: skip
    return Backfill(backfill_id, row["max_parallel"]), row["open_runs"], [_entry(waiting) for waiting in rows]


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
