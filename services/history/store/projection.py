"""How events get into the tables: a batch at a time, in one transaction, whatever came before."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Final
from uuid import UUID

import asyncpg

from services.history.domain import facts
from services.history.domain.batch import Batch, Entry
from services.history.domain.facts import Execution, File
from services.history.store import upserts
from services.history.store.partitions import PartitionStore
from shared import failpoints
from shared.database import Connection, is_outage
from shared.events import JobEvent, JobState, RunProgressed, RunRequested, SlotMissed, SlotSkipped, SlotWaiting
from shared.observability import log

SHADOW: Final = "history_shadow"
"""The schema that a rebuild fills beside the live one."""

_COUNTED: Final = [RunRequested.__name__, *(end.__name__ for end in facts.ENDS)]


class ProjectionStore(PartitionStore):
    """Applies batches of events; the same events in any order, any number of times, make the same rows."""

    async def project(self, batch: Batch) -> None:
        """Apply a batch in one transaction; raises Unplaceable."""
        try:
            await self._project_once(batch)
        except asyncpg.CheckViolationError:
            # Another replica may have dropped a month since we looked; what belongs to it is not kept any more.
            known = self._oldest
            await self.look_at_partitions()
            if self._oldest == known:
                raise
            await self._project_once(batch)

    async def _project_once(self, batch: Batch) -> None:
        async with self._database.transaction() as connection:
            # A rebuild swaps the tables while nobody writes into them.
            await connection.execute("SELECT pg_advisory_xact_lock_shared(hashtext('cdds.history.projection'))")
            await self._place(connection, batch)
            await self._project(connection, batch, shadow=False)
            if await self._shadow_ready(connection):
                await self._project_beside(connection, batch)
            failpoints.reached("history.projected")

    async def project_into_shadow(self, batch: Batch) -> bool:
        """Apply a batch to the tables of a rebuild only; False when there are none any more. Raises Unplaceable."""
        async with self._database.transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock_shared(hashtext('cdds.history.projection'))")
            if not await self._shadow_ready(connection):
                return False
            await self._enter_shadow(connection)
            await self._place(connection, batch)
            await self._project(connection, batch, shadow=True)
            return True

    async def _project_beside(self, connection: Connection, batch: Batch) -> None:
        """Apply a batch to the tables of a rebuild, too; a fault in them ends the rebuild and not the batch."""
        try:
            async with connection.transaction():
                await self._enter_shadow(connection)
                await self._project(connection, batch, shadow=True)
        except asyncpg.PostgresError as error:
            if is_outage(error):
                raise
            log.exception("rebuild given up")
            await connection.execute(
                """UPDATE rebuilds SET state = 'failed', finished_at = now(), reason = $1 WHERE state = 'copying'""",
                f"a live event could not be projected into it: {error!r}",
            )
        else:
            await connection.execute(f"SET LOCAL search_path = {self._database.schema}")

    async def _shadow_ready(self, connection: Connection) -> bool:
        """Whether a rebuild wants all events; holds as long as the transaction has the lock on the projection."""
        return await connection.fetchval("SELECT EXISTS (SELECT FROM rebuilds WHERE state = 'copying')")

    async def _enter_shadow(self, connection: Connection) -> None:
        """Work on the tables of the rebuild, one transaction at a time: live and copied events touch the same rows."""
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('cdds.history.shadow'))")
        await connection.execute(f"SET LOCAL search_path = {SHADOW}")

    async def _project(self, connection: Connection, batch: Batch, *, shadow: bool) -> None:
        oldest = self._oldest
        runs = [run for run in batch.executions.values() if run.requested_at >= oldest]
        await self._apply_versions(
            connection, batch.jobs.values(), [run for run in runs if run.job_version is not None]
        )
        await self._apply_executions(connection, runs)
        if not shadow:  # whose progress is live's
            ticks = [tick for tick in batch.newest_ticks() if (tick.requested_at or oldest) >= oldest]
            await self._apply_ticks(connection, ticks)
        await self._apply_files(connection, [file for file in batch.files.values() if file.requested_at >= oldest])
        await self._apply_slots(connection, batch, oldest)
        # Last, because from here on the replicas wait for each other.
        new = await self._extend_timeline(connection, [entry for entry in batch.timeline if entry[0] >= oldest], shadow)
        bounds = [batch.bounds[event_id] for event_id in new]
        await self._count(connection, {run_id: at for at, run_id in bounds if at >= oldest})

    # --- steps of a batch --------------------------------------------------------------------------------------

    async def _place(self, connection: Connection, batch: Batch) -> None:
        """Let each event say when its run was requested; older exporters did not tell."""
        if batch.unplaced:
            rows = await connection.fetch(
                "SELECT run_id, requested_at FROM executions WHERE run_id = ANY($1)",
                [event.run_id for event, _ in batch.unplaced],
            )
            known = {row["run_id"]: row["requested_at"] for row in rows}
            batch.place(known | {row.run_id: row.requested_at for row in batch.executions.values()})

    async def _apply_executions(self, connection: Connection, rows: Sequence[Execution]) -> None:
        if rows:
            await connection.execute(upserts.EXECUTIONS, *upserts.execution_columns(rows))
        if ended := [row.run_id for row in rows if row.finished_at is not None]:
            await connection.execute("DELETE FROM progress WHERE run_id = ANY($1)", ended)

    async def _apply_files(self, connection: Connection, rows: Sequence[File]) -> None:
        if rows:
            await connection.execute(upserts.FILES, *upserts.file_columns(rows))

    async def _apply_ticks(self, connection: Connection, ticks: Sequence[RunProgressed]) -> None:
        """The greatest of each run that has not ended."""
        if not ticks:
            return
        await connection.execute(
            """INSERT INTO progress AS known (run_id, requested_at, tenant, job_id, attempt, sequence, rows, bytes,
                                              total, percent, remaining_seconds, occurred_at, position)
               SELECT tick.*, nextval('positions')
               FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::uuid[], $5::integer[], $6::integer[],
                           $7::bigint[], $8::bigint[], $9::bigint[], $10::double precision[], $11::double precision[],
                           $12::timestamptz[]) AS tick (run_id, requested_at)
               WHERE NOT EXISTS (SELECT FROM executions
                                 WHERE executions.requested_at = tick.requested_at
                                   AND executions.run_id = tick.run_id AND finished_at IS NOT NULL)
               ORDER BY tick.run_id
               ON CONFLICT (run_id) DO UPDATE
               SET attempt = excluded.attempt, sequence = excluded.sequence, rows = excluded.rows,
                   bytes = excluded.bytes, total = excluded.total, percent = excluded.percent,
                   remaining_seconds = excluded.remaining_seconds, occurred_at = excluded.occurred_at,
                   position = excluded.position
               WHERE (known.attempt, known.sequence) < (excluded.attempt, excluded.sequence)""",
            *zip(
                *(
                    (t.run_id, t.requested_at, t.tenant, t.job_id, t.progress.attempt, t.progress.sequence,
                     t.progress.rows, t.progress.bytes, t.progress.total, t.progress.percent,
                     t.progress.remaining_seconds, t.occurred_at)
                    for t in ticks
                ),
                strict=True,
            ),
        )  # fmt: skip

    async def _apply_versions(
        self, connection: Connection, jobs: Iterable[JobEvent], requested: Iterable[Execution]
    ) -> None:
        """Jobs as they were, however long ago; a request names a version that may not have been heard of."""
        told = {(e.job_id, e.job.version): e for e in jobs}
        named = {(r.job_id, r.job_version): r for r in sorted(requested, key=_requested_at, reverse=True)}
        rows = [
            (e.job_id, e.job.version, e.tenant, e.job.settings.title, e.job.settings.title.casefold(),
             dict(e.job.settings.labels), e.job.settings.model_dump_json(), e.occurred_at,
             e.job.state is JobState.DELETED)
            for e in told.values()
        ] + [
            (r.job_id, r.job_version, r.tenant, r.title, r.title_folded, {}, None, r.requested_at, False)
            for key, r in named.items() if key not in told
        ]  # fmt: skip
        if not rows:
            return
        await connection.execute(
            """INSERT INTO job_versions AS known (job_id, version, tenant, title, title_folded, labels, settings,
                                                  occurred_at, deleted)
               SELECT job_id, version, tenant, title, title_folded, labels, settings::json, occurred_at, deleted
               FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::jsonb[], $7::text[],
                           $8::timestamptz[], $9::boolean[])
                    AS said (job_id, version, tenant, title, title_folded, labels, settings, occurred_at, deleted)
               ORDER BY job_id, version
               ON CONFLICT (job_id, version) DO UPDATE
               SET title = excluded.title, title_folded = excluded.title_folded, labels = excluded.labels,
                   settings = excluded.settings, occurred_at = excluded.occurred_at, deleted = excluded.deleted
               WHERE known.settings IS NULL
                 AND (excluded.settings IS NOT NULL OR excluded.occurred_at < known.occurred_at)""",
            *zip(*rows, strict=True),
        )

    async def _apply_slots(self, connection: Connection, batch: Batch, oldest: datetime) -> None:
        if not_run := [e for e in batch.not_run if e.occurred_at >= oldest]:
            await connection.executemany(
                """INSERT INTO slots_not_run (decided_at, job_id, slot_key, tenant, job_version, slot_at, trigger,
                                              outcome, reason, count)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING""",
                [
                    (e.occurred_at, e.job_id, e.slot.key, e.tenant, e.job_version, e.slot.at, e.slot.trigger,
                     "missed" if isinstance(e, SlotMissed) else "skipped", e.reason,
                     e.count if isinstance(e, SlotMissed) else 1)
                    for e in sorted(not_run, key=_slot_key)
                ],
            )  # fmt: skip
        if waiting := [e for e in batch.waiting if e.occurred_at >= oldest]:
            await connection.executemany(
                """INSERT INTO slots_waiting (job_id, slot_key, tenant, job_version, slot_at, trigger, waiting_at)
                   VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING""",
                [
                    (e.job_id, e.slot.key, e.tenant, e.job_version, e.slot.at, e.slot.trigger, e.occurred_at)
                    for e in sorted(waiting, key=_slot_key)
                ],
            )

    async def _extend_timeline(self, connection: Connection, entries: Sequence[Entry], shadow: bool) -> set[UUID]:
        """Write the events down; of those that are about beginning and end of runs, the ids that were not known.

        Positions become visible in their order. In a rebuild they are those that live gave, or none yet.
        """
        if not entries:
            return set()
        if shadow:
            position, live = "live.position", "LEFT JOIN history.events AS live USING (occurred_at, event_id)"
        else:
            position, live = "nextval('positions')", ""
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('cdds.history.positions'))")
        rows = await connection.fetch(
            f"""WITH new AS (
                  INSERT INTO events (occurred_at, event_id, tenant, type, job_id, run_id, actor, body, position)
                  SELECT occurred_at, event_id, said.tenant, said.type, said.job_id, said.run_id, said.actor,
                         said.body::json, {position}
                  FROM unnest($1::timestamptz[], $2::uuid[], $3::text[], $4::text[], $5::uuid[], $6::uuid[],
                              $7::text[], $8::text[])
                       AS said (occurred_at, event_id, tenant, type, job_id, run_id, actor, body) {live}
                  ON CONFLICT DO NOTHING RETURNING event_id, type)
                SELECT event_id FROM new WHERE type = ANY($9)""",
            *zip(*entries, strict=True),
            _COUNTED,
        )  # fmt: skip
        return {row["event_id"] for row in rows}

    async def _count(self, connection: Connection, runs: Mapping[UUID, datetime]) -> None:
        """Count the runs whose request and end are both known now: the later one of the two events finds that so.

        The rows of the runs are locked by this transaction, so no other one can find the same.
        """
        if not runs:
            return
        await connection.execute(
            f"""INSERT INTO statistics AS known (day, tenant, source, type, succeeded, failed, cancelled, rows, bytes,
                                                 duration_seconds, longest_seconds)
                {_STATISTICS}
                JOIN unnest($1::timestamptz[], $2::uuid[]) AS new (requested_at, run_id) USING (requested_at, run_id)
                WHERE title IS NOT NULL AND finished_at IS NOT NULL
                GROUP BY day, tenant, source, type ORDER BY day, tenant, source, type
                ON CONFLICT (day, tenant, source, type) DO UPDATE
                SET succeeded = known.succeeded + excluded.succeeded, failed = known.failed + excluded.failed,
                    cancelled = known.cancelled + excluded.cancelled, rows = known.rows + excluded.rows,
                    bytes = known.bytes + excluded.bytes,
                    duration_seconds = known.duration_seconds + excluded.duration_seconds,
                    longest_seconds = greatest(known.longest_seconds, excluded.longest_seconds)""",
            list(runs.values()), list(runs),
        )  # fmt: skip

    async def recount(self, connection: Connection, seconds: float | None = None) -> None:
        """Count all runs anew. A rebuild needs it: it may hear of an end before the start, which gives the duration."""
        await connection.execute("DELETE FROM statistics")
        await connection.execute(
            f"""INSERT INTO statistics (day, tenant, source, type, succeeded, failed, cancelled, rows, bytes,
                                        duration_seconds, longest_seconds)
                {_STATISTICS} WHERE title IS NOT NULL AND finished_at IS NOT NULL
                GROUP BY day, tenant, source, type""",
            timeout=seconds,
        )


_STATISTICS: Final = """
    SELECT (finished_at AT TIME ZONE 'UTC')::date AS day, tenant, source, type,
           count(*) FILTER (WHERE state = 'succeeded'), count(*) FILTER (WHERE state = 'failed'),
           count(*) FILTER (WHERE state = 'cancelled'), coalesce(sum(rows), 0), coalesce(sum(bytes), 0),
           coalesce(sum(extract(epoch FROM finished_at - started_at)) FILTER (WHERE state = 'succeeded'), 0),
           coalesce(max(extract(epoch FROM finished_at - started_at)) FILTER (WHERE state = 'succeeded'), 0)
    FROM executions"""


_requested_at = attrgetter("requested_at")


def _slot_key(event: SlotSkipped | SlotMissed | SlotWaiting) -> tuple[datetime, UUID, str]:
    return event.occurred_at, event.job_id, event.slot.key
