"""What the scheduler forgets: the ledger of long ago, so that it does not grow for ever.

A slot is decided once because it is in the ledger. What could have it decided again is either too old to be followed
(the inbox drops it), or a schedule's own next slot, which only moves on; the slots of a suspension stay until it ends.
Where a job's exports have got to is kept with its schedule. To a backfill, data that was exported before is missing.
"""

from collections.abc import Mapping
from datetime import timedelta
from functools import partial

from services.scheduler.store.ledger import LedgerStore
from shared.purge import Step, delete


class ForgettingStore(LedgerStore):
    """Deletes what was over long ago."""

    def forgetting(self, age: timedelta) -> Mapping[str, Step]:
        """The steps that delete what is older than `age`, in this order."""
        return {
            "slots": partial(self.forget_slots, age),
            "backfills": partial(self.forget_backfills, age),
            "schedules": partial(self.forget_schedules, age),
        }

    async def forget_slots(self, age: timedelta, most: int) -> int:
        """Slots that are decided, and their runs over, since `age`."""
        return await delete(
            self._database,
            """DELETE FROM slots WHERE (job_id, slot_key) IN (
                 SELECT job_id, slot_key FROM slots AS old
                 WHERE outcome <> 'waiting' AND run_state IS DISTINCT FROM 'open'
                   AND decided_at < now() - $1::interval
                   AND NOT EXISTS (SELECT FROM schedules
                                   WHERE schedules.job_id = old.job_id AND NOT deleted AND trigger = 'schedule'
                                     AND old.slot_at >= least(stopped_at, next_slot_at))
                 ORDER BY decided_at LIMIT $2 FOR UPDATE OF old SKIP LOCKED)""",
            age, most,
        )  # fmt: skip

    async def forget_backfills(self, age: timedelta, most: int) -> int:
        """Backfills of which nothing waits or runs; their slots are forgotten by their own age."""
        return await delete(
            self._database,
            """DELETE FROM backfills WHERE backfill_id IN (
                 SELECT backfill_id FROM backfills AS old
                 WHERE started_at < now() - $1::interval
                   AND NOT EXISTS (SELECT FROM slots
                                   WHERE slots.job_id = old.job_id AND slots.backfill_id = old.backfill_id
                                     AND (outcome = 'waiting' OR run_state = 'open'))
                 LIMIT $2)""",
            age, most,
        )  # fmt: skip

    async def forget_schedules(self, age: timedelta, most: int) -> int:
        """Schedules of jobs that were deleted `age` ago, and of which nothing is left."""
        return await delete(
            self._database,
            """DELETE FROM schedules WHERE job_id IN (
                 SELECT job_id FROM schedules AS old
                 WHERE deleted_at < now() - $1::interval
                   AND NOT EXISTS (SELECT FROM slots WHERE slots.job_id = old.job_id)
                   AND NOT EXISTS (SELECT FROM backfills WHERE backfills.job_id = old.job_id)
                 LIMIT $2 FOR UPDATE OF old SKIP LOCKED)""",
            age, most,
        )  # fmt: skip
