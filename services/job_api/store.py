"""The only SQL of job_api; each method is one business step in one transaction."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from services.job_api.domain import Certificate, KeyTaken
from shared import outbox
from shared.database import Database, database_now
from shared.events import (
    CertificateAdded,
    Job,
    JobCreated,
    JobState,
    JobSuspended,
    Progress,
    RunState,
)
from shared.jobs import JobSettings


@dataclass(frozen=True, slots=True)
class LatestRun:
    """How the newest run of a job goes."""

    id: UUID
    state: RunState
    started_at: datetime | None
    percent: float | None
    remaining_seconds: float | None


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job with what is known about its schedule and runs."""

    job: Job
    next_slot_at: datetime | None
    latest_run: LatestRun | None


class Store:
    """Jobs, certificates, and the projection of runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- edges: one tenant -------------------------------------------------------------------------------------

    async def create_job(self, tenant: str, decide: Callable[[datetime, list[Certificate]], Job]) -> Job:
        """Store the job that `decide` makes of the database's clock and the tenant's certificates.

        Raises what `decide` raises, and KeyTaken.
        """
        async with self._database.tenant(tenant) as connection:
            rows = await connection.fetch("SELECT fingerprint, pem, subject, not_before, not_after FROM certificates")
            job = decide(await database_now(connection), [Certificate(**row) for row in rows])
            try:
                await connection.execute(
                    """INSERT INTO jobs (id, tenant, version, state, suspended_reason, key, settings,
                                         created_at, updated_at, created_by)
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)""",
                    job.id, tenant, job.version, job.state, job.suspended_reason, job.settings.key,
                    job.settings.model_dump(mode="json"), job.created_at, job.updated_at, job.created_by,
                )  # fmt: skip
            except asyncpg.UniqueViolationError as error:
                raise KeyTaken(job.settings.key) from error
            created = JobCreated(
                occurred_at=job.created_at, tenant=tenant, job_id=job.id, actor=job.created_by, job=job
            )
            await outbox.append(connection, [created])
        return job

    async def job(self, tenant: str, job_id: UUID) -> JobRow | None:
        """One job of `tenant`, deleted ones left out."""
        async with self._database.tenant(tenant) as connection:
            row = await connection.fetchrow(
                """SELECT jobs.*, latest.*
                   FROM jobs
                   LEFT JOIN LATERAL (
                     SELECT run_id, state AS run_state, started_at, percent, remaining_seconds
                     FROM runs WHERE runs.job_id = jobs.id ORDER BY seen_at DESC LIMIT 1
                   ) latest ON true
                   WHERE jobs.id = $1 AND jobs.state <> 'deleted'""",
                job_id,
            )
        return None if row is None else _job_row(row)

    async def list_jobs(self, tenant: str, limit: int, after: tuple[datetime, UUID] | None) -> list[JobRow]:
        """At most `limit` jobs of `tenant`, newest first, beginning behind `after`."""
        async with self._database.tenant(tenant) as connection:
            rows = await connection.fetch(
                """SELECT jobs.*, latest.*
                   FROM jobs
                   LEFT JOIN LATERAL (
                     SELECT run_id, state AS run_state, started_at, percent, remaining_seconds
                     FROM runs WHERE runs.job_id = jobs.id ORDER BY seen_at DESC LIMIT 1
                   ) latest ON true
                   WHERE tenant = $1 AND jobs.state <> 'deleted'
                     AND ($2::timestamptz IS NULL OR (jobs.created_at, jobs.id) < ($2, $3::uuid))
                   ORDER BY jobs.created_at DESC, jobs.id DESC
                   LIMIT $4""",
                tenant, *(after or (None, None)), limit,
            )  # fmt: skip
        return [_job_row(row) for row in rows]

    async def add_certificate(self, tenant: str, actor: str, read: Callable[[datetime], Certificate]) -> Certificate:
        """Store the certificate that `read` makes at the database's clock; adding it again changes nothing."""
        async with self._database.tenant(tenant) as connection:
            now = await database_now(connection)
            certificate = read(now)
            added = await connection.fetchval(
                """INSERT INTO certificates (tenant, fingerprint, pem, subject, not_before, not_after, added_by)
                   VALUES ($1, $2, $3, $4, $5, $6, $7)
                   ON CONFLICT DO NOTHING RETURNING true""",
                tenant, certificate.fingerprint, certificate.pem, certificate.subject,
                certificate.not_before, certificate.not_after, actor,
            )  # fmt: skip
            if added:
                event = CertificateAdded(
                    occurred_at=now, tenant=tenant, fingerprint=certificate.fingerprint,
                    actor=actor, pem=certificate.pem, not_after=certificate.not_after,
                )  # fmt: skip
                await outbox.append(connection, [event])
        return certificate

    async def certificates(self, tenant: str) -> tuple[datetime, list[Certificate]]:
        """The database's clock and all certificates of `tenant`, the one that lasts longest first."""
        async with self._database.tenant(tenant) as connection:
            rows = await connection.fetch(
                """SELECT fingerprint, pem, subject, not_before, not_after
                   FROM certificates ORDER BY not_after DESC, fingerprint"""
            )
            return await database_now(connection), [Certificate(**row) for row in rows]

    # --- consumers: all tenants --------------------------------------------------------------------------------

    async def update_job(self, job_id: UUID, decide: Callable[[Job, datetime], Job | None]) -> bool:
        """Store and publish what `decide` makes of the locked job; False when there was nothing to do."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow("SELECT * FROM jobs WHERE id = $1 FOR UPDATE", job_id)
            job = None if row is None else decide(_job(row), await database_now(connection))
            if row is None or job is None:
                return False
            await connection.execute(
                "UPDATE jobs SET version = $2, state = $3, suspended_reason = $4, updated_at = $5 WHERE id = $1",
                job_id, job.version, job.state, job.suspended_reason, job.updated_at,
            )  # fmt: skip
            suspended = JobSuspended(
                occurred_at=job.updated_at, tenant=row["tenant"], job_id=job_id, actor="scheduler", job=job
            )
            await outbox.append(connection, [suspended])
        return True

    async def note_next_slot(self, job_id: UUID, job_version: int, next_slot_at: datetime | None) -> None:
        """Show `next_slot_at`, unless it was computed from an older version of the job than the one shown."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "UPDATE jobs SET next_slot_at = $3, schedule_version = $2 WHERE id = $1 AND schedule_version <= $2",
                job_id, job_version, next_slot_at,
            )  # fmt: skip

    async def note_run(
        self, tenant: str, job_id: UUID, run_id: UUID, state: RunState, version: int, seen_at: datetime
    ) -> None:
        """Keep the state with the greatest version; terminal is final."""
        async with self._database.transaction() as connection:
            await connection.execute(
                """INSERT INTO runs (run_id, tenant, job_id, state, version, seen_at, started_at)
                   VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN $4 = 'running' THEN $6::timestamptz END)
                   ON CONFLICT (run_id) DO UPDATE
                   SET state = excluded.state, version = excluded.version,
                       started_at = coalesce(excluded.started_at, runs.started_at)
                   WHERE runs.version < excluded.version
                     AND runs.state NOT IN ('succeeded', 'failed', 'cancelled')""",
                run_id, tenant, job_id, state, version, seen_at,
            )  # fmt: skip

    async def note_progress(self, run_id: UUID, progress: Progress) -> None:
        """Keep the newest progress of a running run; a run not known yet has none to show."""
        async with self._database.transaction() as connection:
            await connection.execute(
                """UPDATE runs SET attempt = $2, sequence = $3, percent = $4, remaining_seconds = $5
                   WHERE run_id = $1 AND state = 'running' AND (attempt, sequence) < ($2, $3)""",
                run_id, progress.attempt, progress.sequence, progress.percent, progress.remaining_seconds,
            )  # fmt: skip


def _job(row: asyncpg.Record) -> Job:
    return Job(
        id=row["id"],
        version=row["version"],
        state=row["state"],
        suspended_reason=row["suspended_reason"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        created_by=row["created_by"],
        settings=JobSettings.model_validate(row["settings"]),
    )


def _job_row(row: Any) -> JobRow:
    run = (
        None
        if row["run_id"] is None
        else LatestRun(
            row["run_id"], RunState(row["run_state"]), row["started_at"], row["percent"], row["remaining_seconds"]
        )
    )
    job = _job(row)
    # Only an active job has a next slot, however late or often the scheduler's word about an earlier one comes.
    return JobRow(job, row["next_slot_at"] if job.state is JobState.ACTIVE else None, run)
