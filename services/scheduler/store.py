"""The only SQL of the scheduler; each method is one business step in one transaction."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import asyncpg

from services.scheduler import domain
from services.scheduler.domain import Plan
from shared import failpoints, outbox
from shared.database import Connection, Database, database_now
from shared.events import JobCreated, JobEvent, JobState, ScheduleEvent, Slot
from shared.jobs import JobSettings

Settle = Callable[[str], timedelta]
"""How long before its slot the data intervals of a source end."""


class Store:
    """Schedules and the slot ledger."""

    def __init__(self, database: Database, settle: Settle) -> None:
        self._database = database
        self._settle = settle

    async def keep_schedule(self, event: JobEvent) -> None:
        """Follow the newest version of a job, and request the run of one submitted to run at once.

        Slots count from when the job was written, not from when we hear of it, so that lag loses none.
        """
        job = event.job
        active = job.state is JobState.ACTIVE
        plan = Plan(
            job_id=job.id,
            tenant=event.tenant,
            job_version=job.version,
            settings=job.settings,
            next_slot_at=domain.first_slot(job.settings, event.occurred_at) if active else None,
        )
        async with self._database.transaction() as connection:
            newer = await connection.fetchval(
                """INSERT INTO schedules (job_id, tenant, job_version, settings, next_slot_at)
                   VALUES ($1, $2, $3, $4, $5)
                   ON CONFLICT (job_id) DO UPDATE
                   SET job_version = excluded.job_version, settings = excluded.settings,
                       next_slot_at = excluded.next_slot_at
                   WHERE schedules.job_version < excluded.job_version
                   RETURNING true""",
                plan.job_id, plan.tenant, plan.job_version, job.settings.model_dump(mode="json"), plan.next_slot_at,
            )  # fmt: skip
            now = await database_now(connection)
            if isinstance(event, JobCreated) and job.settings.immediately:
                slot = domain.immediate_slot(event.event_id, event.occurred_at)
                await self._request(connection, [(plan, slot)], now)
            if newer and active:
                await outbox.append(connection, [domain.announcement(plan, now)])

    async def request_due_runs(self, limit: int = 200) -> int:
        """Turn due slots into requested runs, one per schedule and pass, and say how many schedules were due.

        Claimed schedules are locked and skipped by other replicas; a run and its schedule's next slot commit together.
        """
        async with self._database.transaction() as connection:
            rows = await connection.fetch(
                """SELECT job_id, tenant, job_version, settings, next_slot_at
                   FROM schedules WHERE next_slot_at <= now()
                   ORDER BY next_slot_at LIMIT $1
                   FOR UPDATE SKIP LOCKED""",
                limit,
            )
            if not rows:
                return 0
            now = await database_now(connection)
            due = [_plan(row) for row in rows]
            await self._request(
                connection, [(p, domain.scheduled_slot(p.next_slot_at)) for p in due if p.next_slot_at], now
            )
            ahead = [
                replace(p, next_slot_at=domain.following_slot(p.settings, p.next_slot_at))
                for p in due
                if p.next_slot_at
            ]
            await connection.execute(
                """UPDATE schedules SET next_slot_at = ahead.next_slot_at
                   FROM unnest($1::uuid[], $2::timestamptz[]) AS ahead (job_id, next_slot_at)
                   WHERE schedules.job_id = ahead.job_id""",
                [p.job_id for p in ahead], [p.next_slot_at for p in ahead],
            )  # fmt: skip
            await outbox.append(connection, [domain.announcement(p, now) for p in ahead])
            failpoints.reached("scheduler.claimed")
        failpoints.reached("scheduler.requested")
        return len(rows)

    async def _request(self, connection: Connection, wanted: Sequence[tuple[Plan, Slot]], now: datetime) -> None:
        """Write the slots that are new into the ledger, and their runs into the outbox."""
        runs = [domain.request(p, slot, settle=self._settle(p.settings.source), now=now) for p, slot in wanted]
        new = await connection.fetch(
            """INSERT INTO slots (job_id, slot_key, tenant, slot_at, trigger, outcome, run_id)
               SELECT job_id, slot_key, tenant, slot_at, trigger, 'requested', run_id
               FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::uuid[])
                    AS wanted (job_id, slot_key, tenant, slot_at, trigger, run_id)
               ON CONFLICT DO NOTHING
               RETURNING run_id""",
            [r.job_id for r in runs], [r.slot.key for r in runs], [r.tenant for r in runs],
            [r.slot.at for r in runs], [r.slot.trigger for r in runs], [r.run_id for r in runs],
        )  # fmt: skip
        fresh = {row["run_id"] for row in new}
        events: list[ScheduleEvent] = [run for run in runs if run.run_id in fresh]
        await outbox.append(connection, events)


def _plan(row: asyncpg.Record) -> Plan:
    return Plan(
        job_id=row["job_id"],
        tenant=row["tenant"],
        job_version=row["job_version"],
        settings=JobSettings.model_validate(row["settings"]),
        next_slot_at=row["next_slot_at"],
    )
