"""What job_api forgets: runs, backfills and deleted jobs of long ago, old keys, and an audit older than 400 days.

Jobs that live and certificates that were not removed stay, and so do the events that say how they are now: history
knows jobs by them, however long ago they were written. What is told of a run that was forgotten is too old to be
followed (the inbox drops it), or makes a row about its end, which is forgotten in its turn.
"""

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Final

from services.job_api.store.rows import Part
from shared.purge import Step, delete

KEYS_KEPT: Final = timedelta(days=7)
"""Nobody repeats a request after that."""
AUDIT_KEPT: Final = timedelta(days=400)
"""The database lets nobody delete what is younger, see the policy `aged`."""

NEEDED_EVENTS: Final = """
  CASE WHEN topic = 'job_api.certificates.v1' THEN EXISTS (
    SELECT FROM certificates AS known
    WHERE known.tenant = outbox.tenant AND known.fingerprint = value::json ->> 'fingerprint')
  WHEN type IN ('cdds.JobCreated.v1', 'cdds.JobUpdated.v1', 'cdds.JobSuspended.v1', 'cdds.JobResumed.v1') THEN
    NOT EXISTS (
      SELECT FROM outbox AS newer
      WHERE newer.key = outbox.key AND newer.id > outbox.id AND newer.occurred_at < now() - $3::interval
        AND newer.type IN ('cdds.JobCreated.v1', 'cdds.JobUpdated.v1', 'cdds.JobSuspended.v1', 'cdds.JobResumed.v1',
                           'cdds.JobDeleted.v1'))
  ELSE false END"""
"""Of each job the version that was in force when the events that are kept begin; none of one that was deleted then.
$3 is how long events are kept."""


class ForgettingStore(Part):
    """Deletes what was over long ago."""

    def forgetting(self, age: timedelta) -> Mapping[str, Step]:
        """The steps that delete what is older than `age`, in this order."""
        return {
            "idempotency_keys": self.forget_keys,
            "audit": self.forget_audit,
            "runs": partial(self.forget_runs, age),
            "backfills": partial(self.forget_backfills, age),
            "jobs": partial(self.forget_jobs, age),
        }

    async def forget_keys(self, most: int) -> int:
        """Idempotency keys that nobody repeats any more."""
        return await delete(
            self._database,
            """DELETE FROM idempotency_keys WHERE (tenant, key) IN (
                 SELECT tenant, key FROM idempotency_keys WHERE taken_at < now() - $1::interval
                 ORDER BY taken_at LIMIT $2)""",
            KEYS_KEPT, most,
        )  # fmt: skip

    async def forget_audit(self, most: int) -> int:
        """What was done longer ago than the audit goes back; history has its own account."""
        return await delete(
            self._database,
            """DELETE FROM audit WHERE id IN (
                 SELECT id FROM audit WHERE at < now() - $1::interval ORDER BY at LIMIT $2)""",
            AUDIT_KEPT, most,
        )  # fmt: skip

    async def forget_runs(self, age: timedelta, most: int) -> int:
        """Runs that have ended, and slots that never ran, first heard of `age` ago."""
        return await delete(
            self._database,
            """DELETE FROM runs WHERE run_id IN (
                 SELECT run_id FROM runs
                 WHERE state IN ('succeeded', 'failed', 'cancelled', 'skipped') AND seen_at < now() - $1::interval
                 ORDER BY seen_at LIMIT $2 FOR UPDATE SKIP LOCKED)""",
            age, most,
        )  # fmt: skip

    async def forget_backfills(self, age: timedelta, most: int) -> int:
        """Backfills that are over; a late word about a run of theirs counts nowhere."""
        return await delete(
            self._database,
            """DELETE FROM backfills WHERE backfill_id IN (
                 SELECT backfill_id FROM backfills AS old
                 WHERE requested_at < now() - $1::interval
                   AND (cancelled_at IS NOT NULL OR succeeded + failed + cancelled >= slots)
                   AND NOT EXISTS (SELECT FROM runs
                                   WHERE runs.job_id = old.job_id AND runs.backfill_id = old.backfill_id
                                     AND state IN ('waiting', 'requested', 'queued', 'running'))
                 LIMIT $2 FOR UPDATE OF old SKIP LOCKED)""",
            age, most,
        )  # fmt: skip

    async def forget_jobs(self, age: timedelta, most: int) -> int:
        """Jobs that were deleted `age` ago, and of which nothing is in progress."""
        return await delete(
            self._database,
            """DELETE FROM jobs WHERE id IN (
                 SELECT id FROM jobs AS old
                 WHERE state = 'deleted' AND updated_at < now() - $1::interval
                   AND NOT EXISTS (SELECT FROM runs
                                   WHERE runs.job_id = old.id
                                     AND runs.state IN ('waiting', 'requested', 'queued', 'running'))
                   AND NOT EXISTS (SELECT FROM backfills WHERE backfills.job_id = old.id)
                 LIMIT $2 FOR UPDATE OF old SKIP LOCKED)""",
            age, most,
        )  # fmt: skip
