"""What every part of the store shares: rows as domain types, idempotency keys, the audit, and a job under its lock."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

from services.job_api.domain.certificates import Certificate
from services.job_api.domain.errors import IdempotencyKeyReused
from services.job_api.domain.jobs import Facts
from services.job_api.domain.runs import Run, RunStatus
from shared.database import Connection, Database
from shared.events import Job
from shared.jobs import JobSettings

Once: TypeAlias = tuple[str, bytes] | None
"""An idempotency key and the fingerprint of the request it came with; None when the caller does not care."""


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job with what is known about its schedule and runs."""

    job: Job
    next_slot_at: datetime | None
    latest_run: Run | None


class Part:
    """A part of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database


JOB: Final = """
  id, version, state, suspended_reason, created_at, updated_at, created_by, settings, next_slot_at,
  latest_run_id, latest_status, latest_started_at, latest_percent, latest_remaining_seconds"""


def job_of(row: Any) -> Job:
    """A job in a row of `JOB`."""
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


def job_row(row: Any) -> JobRow:
    """A job with what is known around it in a row of `JOB`."""
    run = None
    if row["latest_run_id"] is not None:
        run = Run(
            row["latest_run_id"], row["id"], RunStatus(row["latest_status"]), row["latest_started_at"],
            row["latest_percent"], row["latest_remaining_seconds"],
        )  # fmt: skip
    return JobRow(job_of(row), row["next_slot_at"], run)


async def clock(connection: Connection) -> datetime:
    """The database's clock now, not at the transaction's start: what waited for a lock comes after what held it."""
    now: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return now


async def locked_facts(connection: Connection, job_id: UUID) -> Facts | None:
    """A job, locked until the transaction ends, with what decisions about it need; None when there is none."""
    row = await connection.fetchrow("SELECT * FROM jobs WHERE id = $1 FOR UPDATE", job_id)
    if row is None:
        return None
    # A statement of its own, begun after the lock was given, sees what its last holder committed.
    around = await connection.fetchrow(
        """SELECT clock_timestamp() AS now,
                  (SELECT run_id FROM runs
                   WHERE job_id = $1 AND state IN ('waiting', 'requested', 'queued', 'running')
                   ORDER BY seen_at LIMIT 1) AS open_run,
                  (SELECT backfill_id FROM backfills
                   WHERE job_id = $1 AND cancelled_at IS NULL
                     AND (slots IS NULL OR succeeded + failed + cancelled < slots)
                   LIMIT 1) AS open_backfill""",
        job_id,
    )
    assert around is not None
    return Facts(
        tenant=row["tenant"],
        job=job_of(row),
        now=around["now"],
        stopped_at=row["stopped_at"],
        certificates=await certificates(connection, row["tenant"]),
        open_run=around["open_run"],
        open_backfill=around["open_backfill"],
    )


async def certificates(connection: Connection, tenant: str) -> list[Certificate]:
    """All certificates of `tenant`, the one that lasts longest first."""
    rows = await connection.fetch(
        """SELECT fingerprint, pem, subject, not_before, not_after
           FROM certificates WHERE tenant = $1 ORDER BY not_after DESC, fingerprint""",
        tenant,
    )
    return [Certificate(**row) for row in rows]


async def claim(connection: Connection, tenant: str, once: Once, reference: object) -> str | None:
    """Take an idempotency key for `reference`; if it was taken before, what for. Raises IdempotencyKeyReused.

    A request that holds the key keeps a second one waiting here until it has committed.
    """
    if once is None:
        return None
    key, fingerprint = once
    taken = await connection.fetchval(
        """INSERT INTO idempotency_keys (tenant, key, fingerprint, reference) VALUES ($1, $2, $3, $4)
           ON CONFLICT DO NOTHING RETURNING true""",
        tenant, key, fingerprint, str(reference),
    )  # fmt: skip
    if taken:
        return None
    row = await connection.fetchrow(
        "SELECT fingerprint, reference FROM idempotency_keys WHERE tenant = $1 AND key = $2", tenant, key
    )
    if row is None or row["fingerprint"] != fingerprint:
        raise IdempotencyKeyReused(key)
    return row["reference"]


async def write_audit(
    connection: Connection, *, tenant: str, at: datetime, actor: str, action: str, subject: object,
    job_id: UUID | None, detail: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write down who did what."""
    await connection.execute(
        """INSERT INTO audit (tenant, at, actor, action, subject, job_id, detail)
           VALUES ($1, $2, $3, $4, $5, $6, $7)""",
        tenant, at, actor, action, str(subject), job_id, dict(detail or {}),
    )  # fmt: skip
