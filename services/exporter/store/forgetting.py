"""What exporter forgets: runs of long ago with what they kept, once their files are gone.

A run is run once because its row is there. The request that made it is then too old to be followed (the inbox drops
it), and so is an order to cancel it. Removed certificates stay known, a hundred bytes each, because the event that
added one is followed however old it is; so do the heads of the jobs' chains of manifests.
"""

from collections.abc import Mapping
from datetime import timedelta
from functools import partial

from services.exporter.store.steps import Part
from shared.purge import Step, delete


class ForgettingStore(Part):
    """Deletes what was over long ago."""

    def forgetting(self, age: timedelta) -> Mapping[str, Step]:
        """The steps that delete what is older than `age`, in this order."""
        return {"runs": partial(self.forget_runs, age), "cancellations": partial(self.forget_cancellations, age)}

    async def forget_runs(self, age: timedelta, most: int) -> int:
        """Runs that have ended `age` ago, whose parts were all deleted, with manifest, schema and rows of parts."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(
                """SELECT run_id FROM runs AS old
                   WHERE finished_at < now() - $1::interval
                     AND (request ->> 'occurred_at')::timestamptz < now() - $1::interval
                     AND NOT EXISTS (SELECT FROM artifacts
                                     WHERE artifacts.run_id = old.run_id AND artifacts.state <> 'deleted')
                   ORDER BY finished_at LIMIT $2 FOR UPDATE OF old SKIP LOCKED""",
                age, most,
            )  # fmt: skip
            run_ids = [row["run_id"] for row in rows]
            await connection.execute("DELETE FROM documents WHERE run_id = ANY($1)", run_ids)
            await connection.execute("DELETE FROM artifacts WHERE run_id = ANY($1)", run_ids)
            await connection.execute("DELETE FROM runs WHERE run_id = ANY($1)", run_ids)
        return len(run_ids)

    async def forget_cancellations(self, age: timedelta, most: int) -> int:
        """Orders for runs that were still to come `age` ago."""
        return await delete(
            self._database,
            """DELETE FROM cancellations WHERE run_id IN (
                 SELECT run_id FROM cancellations WHERE ordered_at < now() - $1::interval
                 LIMIT $2)""",
            age, most,
        )  # fmt: skip
