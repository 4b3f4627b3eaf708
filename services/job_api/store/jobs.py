"""Jobs: written, read and listed."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from services.job_api.domain.certificates import Certificate
from services.job_api.domain.errors import KeyTaken, NotFound
from services.job_api.domain.jobs import Decision, Facts, next_slot
from services.job_api.domain.listing import Filter, Order, Place
from services.job_api.domain.transitions import states_that_allow
from services.job_api.store.listing import STATEMENTS
from services.job_api.store.rows import (
    JOB,
    JobRow,
    Once,
    Part,
    certificates,
    claim,
    clock,
    job_row,
    locked_facts,
    write_audit,
)
from shared import outbox
from shared.database import Connection
from shared.events import Job, JobCreated
from shared.jobs import JobSettings
from shared.listing import folded

Decide = Callable[[Facts], Decision | None]


class JobStore(Part):
    """Jobs of all tenants."""

    async def create_job(
        self, tenant: str, job_id: UUID, decide: Callable[[datetime, list[Certificate]], Job], once: Once = None
    ) -> JobRow:
        """Store the job that `decide` makes of the database's clock and the tenant's certificates.

        Raises what `decide` raises, and KeyTaken.
        """
        async with self._database.tenant(tenant) as connection:
            if earlier := await claim(connection, tenant, once, job_id):
                return await self._read(connection, UUID(earlier))
            job = decide(await clock(connection), await certificates(connection, tenant))
            next_slot_at = next_slot(job, job.created_at)
            try:
                await connection.execute(
                    """INSERT INTO jobs (id, tenant, version, state, suspended_reason, created_at, updated_at,
                                         created_by, stopped_at, next_slot_at,
                                         key, settings, title_folded, search_text, source, type, labels)
                       VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)""",
                    job.id, tenant, job.version, job.state, job.suspended_reason, job.created_at, job.created_by,
                    None if job.suspended_reason is None else job.created_at, next_slot_at, *_written(job.settings),
                )  # fmt: skip
            except asyncpg.UniqueViolationError as error:
                raise KeyTaken(job.settings.key) from error
            event = JobCreated(occurred_at=job.created_at, tenant=tenant, job_id=job.id, actor=job.created_by, job=job)
            await outbox.append(connection, [event])
            await write_audit(
                connection, tenant=tenant, at=job.created_at, actor=job.created_by, action="job.create",
                subject=job.id, job_id=job.id, detail={"version": job.version},
            )  # fmt: skip
        return JobRow(job, next_slot_at, None)

    async def change_job(self, tenant: str, job_id: UUID, decide: Decide, once: Once = None) -> JobRow:
        """Store and tell what `decide` makes of the locked job, and how it is then.

        Raises what `decide` raises, NotFound, and KeyTaken.
        """
        async with self._database.tenant(tenant) as connection:
            if not await claim(connection, tenant, once, job_id):
                facts = await locked_facts(connection, job_id)
                if facts is None:
                    raise NotFound
                if decision := decide(facts):
                    await _apply(connection, facts, decision)
            return await self._read(connection, job_id, deleted=True)

    async def follow(self, job_id: UUID, decide: Decide) -> bool:
        """Store and tell what `decide` makes of a job of any tenant; False when there was nothing to do."""
        async with self._database.transaction() as connection:
            facts = await locked_facts(connection, job_id)
            decision = None if facts is None else decide(facts)
            if facts is None or decision is None:
                return False
            await _apply(connection, facts, decision)
        return True

    async def job(self, tenant: str, job_id: UUID) -> JobRow:
        """One job of `tenant`; raises NotFound, also for a deleted one."""
        async with self._database.tenant(tenant) as connection:
            return await self._read(connection, job_id)

    async def facts(self, tenant: str, job_id: UUID) -> Facts:
        """A job with what decisions about it need, for a look without a change; raises NotFound."""
        async with self._database.tenant(tenant) as connection:
            facts = await locked_facts(connection, job_id)
        if facts is None:
            raise NotFound
        return facts

    async def list_jobs(
        self, tenant: str, order: Order, only: Filter, limit: int, after: Place | None
    ) -> list[tuple[JobRow, Place]]:
        """At most `limit` jobs of `tenant` behind `after`, each with its place."""
        arguments: list[Any] = [
            tenant, only.source, only.type, only.state, only.status, None if only.text is None else folded(only.text),
            dict(only.labels) or None, limit,
        ]  # fmt: skip
        if after is not None:
            arguments += [after.value, after.job_id]
        async with self._database.tenant(tenant) as connection:
            rows: Sequence[Any] = await connection.fetch(STATEMENTS[order, after is not None], *arguments)
        return [(job_row(row), Place(row["value"], row["id"])) for row in rows]

    async def now_and_certificates(self, tenant: str) -> tuple[datetime, list[Certificate]]:
        """The database's clock, and all certificates of `tenant`, the one that lasts longest first."""
        async with self._database.tenant(tenant) as connection:
            return await clock(connection), await certificates(connection, tenant)

    async def note_next_slot(
        self, job_id: UUID, job_version: int, next_slot_at: datetime | None, said_at: datetime
    ) -> None:
        """Show the next slot of the job as it is now, by the scheduler's latest word on it.

        Until then it is our own, computed when the job was written. A word about an older version is followed by one
        about this one, and a job that is not active has no next slot.
        """
        async with self._database.transaction() as connection:
            await connection.execute(
                """UPDATE jobs SET next_slot_at = $3, schedule_version = $2, schedule_at = $4
                   WHERE id = $1 AND version = $2 AND state = 'active'
                     AND (schedule_version < $2 OR schedule_at <= $4)""",
                job_id, job_version, next_slot_at, said_at,
            )  # fmt: skip

    async def _read(self, connection: Connection, job_id: UUID, *, deleted: bool = False) -> JobRow:
        row = await connection.fetchrow(
            f"SELECT {JOB} FROM jobs WHERE id = $1 AND (state <> 'deleted' OR $2)", job_id, deleted
        )
        if row is None:
            raise NotFound
        return job_row(row)


async def _apply(connection: Connection, facts: Facts, decision: Decision) -> None:
    """Write the job, its event and its audit row; the guard can't fail while the lock is held."""
    job = decision.job
    next_slot_at = next_slot(job, facts.now)
    try:
        written = await connection.fetchval(
            """UPDATE jobs
               SET version = $4, state = $5, suspended_reason = $6, updated_at = $7, stopped_at = $8,
                   next_slot_at = $9, key = $10, settings = $11, title_folded = $12, search_text = $13,
                   source = $14, type = $15, labels = $16
               WHERE id = $1 AND version = $2 AND state = ANY ($3)
               RETURNING true""",
            job.id, facts.job.version, states_that_allow(decision.command),
            job.version, job.state, job.suspended_reason, job.updated_at, decision.stopped_at, next_slot_at,
            *_written(job.settings),
        )  # fmt: skip
    except asyncpg.UniqueViolationError as error:
        raise KeyTaken(job.settings.key) from error
    assert written, f"{decision.command} of job {job.id} was decided on what is not stored"
    await outbox.append(connection, [decision.event])
    await write_audit(
        connection, tenant=facts.tenant, at=facts.now, actor=decision.event.actor, action=f"job.{decision.command}",
        subject=job.id, job_id=job.id, detail={"version": job.version, **decision.detail},
    )  # fmt: skip


def _written(settings: JobSettings) -> tuple[Any, ...]:
    """Key and settings, and the columns made of them: `key` to `labels`, in the order of both statements above."""
    return (
        settings.key,
        settings.model_dump(mode="json"),
        folded(settings.title),
        folded(f"{settings.title}\n{settings.description}"),
        settings.source,
        settings.type,
        dict(settings.labels),
    )
