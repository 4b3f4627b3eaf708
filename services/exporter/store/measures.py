"""How much there is to do, and how much is kept."""

from datetime import timedelta

from services.exporter.domain import Lane, OpenRuns
from services.exporter.store.steps import Part
from shared.events import RunState


class MeasureStore(Part):
    """Counts over all tenants."""

    async def open_runs(self) -> dict[tuple[RunState, Lane], OpenRuns]:
        """The queued and running runs of each lane that has any.

        A queued run that was tried before is as old as the end of its backoff.
        """
        async with self._database.session() as connection:
            rows = await connection.fetch(
                """SELECT state, lane, count(*) AS runs, now() - min(greatest(queued_at, not_before)) AS oldest
                   FROM runs WHERE state = 'queued' GROUP BY state, lane
                   UNION ALL
                   SELECT state, lane, count(*), now() - min(queued_at)
                   FROM runs WHERE state = 'running' GROUP BY state, lane"""
            )
        return {
            (RunState(row["state"]), Lane(row["lane"])): OpenRuns(row["runs"], max(row["oldest"], timedelta(0)))
            for row in rows
        }

    async def kept_files(self) -> dict[str, tuple[int, int]]:
        """How many parts have bytes, and how many bytes, by state; reads all of them."""
        async with self._database.session() as connection:
            rows = await connection.fetch(
                """SELECT state, count(*) AS files, sum(size_bytes)::bigint AS bytes
                   FROM artifacts WHERE state <> 'deleted' GROUP BY state"""
            )
        return {row["state"]: (row["files"], row["bytes"]) for row in rows}
