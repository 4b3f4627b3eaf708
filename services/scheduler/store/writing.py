"""What decisions leave: plans, the ledger's entries and events, written together."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from services.scheduler.domain import Decision, Entry, Plan
from shared import failpoints, outbox
from shared.database import Connection
from shared.events import BackfillRequested, RunRequested
from shared.observability import log


async def save(connection: Connection, decisions: Sequence[Decision]) -> None:
    """Write plans, ledger and events of decisions about locked schedules."""
    await _save_plans(connection, [decision.plan for decision in decisions])
    await write_down(connection, decisions)


async def write_down(connection: Connection, decisions: Sequence[Decision]) -> None:
    """Write ledger and events of decisions."""
    await _save_entries(connection, [(d.plan, entry) for d in decisions for entry in d.entries.values()])
    await outbox.append(connection, [event for decision in decisions for event in decision.events])
    for event in (event for decision in decisions for event in decision.events):
        if isinstance(event, RunRequested):
            ids = {"run_id": str(event.run_id), "job_id": str(event.job_id), "tenant": event.tenant}
            log.info("run requested", slot=event.slot.key, trigger=event.slot.trigger, **ids)
    failpoints.reached("scheduler.saved")


async def _save_plans(connection: Connection, plans: Sequence[Plan]) -> None:
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


async def move_plans(connection: Connection, plans: Sequence[Plan]) -> None:
    """Write the next slots of locked plans, which is all that changes when slots are due."""
    await connection.execute(
        """UPDATE schedules SET next_slot_at = moved.next_slot_at, due_at = moved.due_at
           FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) AS moved (job_id, next_slot_at, due_at)
           WHERE schedules.job_id = moved.job_id""",
        [p.job_id for p in plans], [p.next_slot_at for p in plans], [p.due_at for p in plans],
    )  # fmt: skip


async def _save_entries(connection: Connection, entries: Iterable[tuple[Plan, Entry]]) -> None:
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


async def put_off(connection: Connection, job_id: UUID, until: datetime) -> None:
    """Let a schedule not be due before `until`; its next slot stays."""
    await connection.execute("UPDATE schedules SET due_at = $2 WHERE job_id = $1", job_id, until)


async def add_backfill(connection: Connection, command: BackfillRequested, now: datetime) -> bool:
    """Insert a backfill; false for one that is known."""
    new: bool | None = await connection.fetchval(
        """INSERT INTO backfills (backfill_id, job_id, tenant, max_parallel, started_at)
           VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING true""",
        command.event_id, command.job_id, command.tenant, command.max_parallel, now,
    )  # fmt: skip
    return new is not None
