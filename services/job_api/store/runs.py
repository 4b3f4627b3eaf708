"""The projection of runs: what `job_api` knows of them, whoever tells it first."""

from typing import Any, Final
from uuid import UUID

from services.job_api.domain.runs import ENDED, RunStatus, Sighting
from services.job_api.store.rows import Part
from shared.database import Connection
from shared.events import Progress

_COUNTED: Final = {
    RunStatus.SUCCEEDED: "succeeded",
    RunStatus.FAILED: "failed",
    RunStatus.CANCELLED: "cancelled",
    RunStatus.SKIPPED: "cancelled",
}
"""How a backfill counts the ends of its runs."""


class RunStore(Part):
    """Runs of all tenants."""

    async def note_run(self, sighting: Sighting) -> None:
        """Keep what `sighting` tells beyond what is known of its run; the end of a run is final."""
        async with self._database.transaction() as connection:
            await connection.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", sighting.job_id)
            await note(connection, sighting)

    async def note_progress(self, job_id: UUID, run_id: UUID, progress: Progress) -> None:
        """Keep the newest progress of a running run; a run not known yet has none to show."""
        async with self._database.transaction() as connection:
            await connection.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", job_id)
            newer = await connection.fetchval(
                """UPDATE runs SET attempt = $2, sequence = $3, percent = $4, remaining_seconds = $5
                   WHERE run_id = $1 AND state = 'running' AND (attempt, sequence) < ($2, $3)
                   RETURNING true""",
                run_id, progress.attempt, progress.sequence, progress.percent, progress.remaining_seconds,
            )  # fmt: skip
            if newer:
                await connection.execute(
                    """UPDATE jobs SET latest_percent = $3, latest_remaining_seconds = $4
                       WHERE id = $1 AND latest_run_id = $2""",
                    job_id, run_id, progress.percent, progress.remaining_seconds,
                )  # fmt: skip

    async def note_backfill(self, backfill_id: UUID, slots: int) -> None:
        """Keep how many slots the scheduler has divided a backfill into."""
        async with self._database.transaction() as connection:
            await connection.execute("UPDATE backfills SET slots = $2 WHERE backfill_id = $1", backfill_id, slots)


async def note(connection: Connection, sighting: Sighting) -> None:
    """Merge a sighting into the runs while the job's row is locked, and with it what is shown of the job.

    The state is that of the greatest version until the run has ended; everything else is merged by itself, so that it
    is the same at the end whatever was told first.
    """
    before = await connection.fetchrow("SELECT state, backfill_id FROM runs WHERE run_id = $1", sighting.run_id)
    if before is None:
        after = await connection.fetchrow(
            """INSERT INTO runs (run_id, tenant, job_id, state, version, seen_at, requested_at, started_at, attempt,
                                 trigger, backfill_id, interval_from, interval_to)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
               RETURNING state, backfill_id""",
            sighting.run_id, sighting.tenant, sighting.job_id, sighting.status, sighting.version, *_facts(sighting),
        )  # fmt: skip
    else:
        after = await connection.fetchrow(
            """UPDATE runs SET
                 state = CASE WHEN version < $3 AND NOT state = ANY ($4) THEN $2 ELSE state END,
                 version = CASE WHEN NOT state = ANY ($4) THEN greatest(version, $3) ELSE version END,
                 seen_at = least(seen_at, $5),
                 requested_at = coalesce(requested_at, $6),
                 started_at = least(started_at, $7),
                 sequence = CASE WHEN attempt < $8 THEN 0 ELSE sequence END,
                 percent = CASE WHEN attempt >= $8 THEN percent END,
                 remaining_seconds = CASE WHEN attempt >= $8 THEN remaining_seconds END,
                 attempt = greatest(attempt, $8),
                 trigger = coalesce(trigger, $9),
                 backfill_id = coalesce(backfill_id, $10),
                 interval_from = coalesce(interval_from, $11),
                 interval_to = coalesce(interval_to, $12)
               WHERE run_id = $1
               RETURNING state, backfill_id""",
            sighting.run_id, sighting.status, sighting.version, _FINAL, *_facts(sighting),
        )  # fmt: skip
    await _count(connection, before, after)
    await _show_latest(connection, sighting.job_id)


_FINAL: Final = sorted(ENDED - {RunStatus.SKIPPED})
"""A skipped slot ends by its version alone: if its run was requested all the same, that is what counts."""


def _facts(sighting: Sighting) -> tuple[Any, ...]:
    return (
        sighting.seen_at, sighting.requested_at, sighting.started_at, sighting.attempt, sighting.trigger,
        sighting.backfill_id, sighting.interval_from, sighting.interval_to,
    )  # fmt: skip


async def _count(connection: Connection, before: Any, after: Any) -> None:
    """Count an ended run of a backfill once, also when its end was heard of before the backfill it belongs to."""
    backfill_id = after["backfill_id"]
    was = None if before is None or before["backfill_id"] is None else _COUNTED.get(RunStatus(before["state"]))
    now = _COUNTED.get(RunStatus(after["state"]))
    if backfill_id is None or was == now:
        return
    await connection.execute(
        """UPDATE backfills SET
             succeeded = succeeded + ($3 = 'succeeded')::int - ($2 = 'succeeded')::int,
             failed = failed + ($3 = 'failed')::int - ($2 = 'failed')::int,
             cancelled = cancelled + ($3 = 'cancelled')::int - ($2 = 'cancelled')::int
           WHERE backfill_id = $1""",
        backfill_id, was or "", now or "",
    )  # fmt: skip


async def _show_latest(connection: Connection, job_id: UUID) -> None:
    """Work out the run a job is listed with: the one requested last, or while nothing is open a slot that waits."""
    await connection.execute(
        """WITH newest AS (
             SELECT run_id, state, started_at, percent, remaining_seconds,
                    state IN ('requested', 'queued', 'running') AS open
             FROM runs WHERE job_id = $1 AND state NOT IN ('waiting', 'skipped')
             ORDER BY coalesce(requested_at, seen_at) DESC, run_id DESC LIMIT 1
           ), waiting AS (
             SELECT run_id, state, started_at, percent, remaining_seconds, true AS open
             FROM runs WHERE job_id = $1 AND state = 'waiting'
             ORDER BY seen_at, run_id LIMIT 1
           ), shown AS (
             SELECT * FROM (SELECT * FROM newest UNION ALL SELECT * FROM waiting) AS either
             ORDER BY open DESC, (state = 'waiting') LIMIT 1
           )
           UPDATE jobs
           SET (latest_run_id, latest_status, latest_started_at, latest_percent, latest_remaining_seconds) = (
                 SELECT run_id, state, started_at, CASE WHEN state = 'running' THEN percent END,
                        CASE WHEN state = 'running' THEN remaining_seconds END
                 FROM shown)
           WHERE id = $1""",
        job_id,
    )
