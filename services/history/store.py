"""The only SQL of history: one transaction per batch in, paged queries out."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from operator import attrgetter, itemgetter
from typing import Final
from uuid import UUID

import asyncpg
import orjson

from services.history import domain
from shared.database import Connection, Database
from shared.events import ArtifactDeleted, ArtifactStored, Event, RunEvent, RunProgressed, RunRequested

COLUMNS: Final = """
    run_id, job_id, title, source, type, trigger, slot_key, slot_at, question, requested_at, state, attempt, worker,
    started_at, finished_at, rows, bytes, parts, snapshot, manifest_id, manifest_sha256, schema_id, reason, message,
    progress
"""


class Store:
    """Executions, artifacts and the timeline of events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def project(self, events: Sequence[Event]) -> None:
        """Apply a batch in one transaction; events that were applied before change nothing."""
        ticks = [event for event in events if isinstance(event, RunProgressed)]
        async with self._database.transaction() as connection:
            new = await self._extend_timeline(connection, [e for e in events if not isinstance(e, RunProgressed)])
            await self._apply_requests(connection, [e for e in new if isinstance(e, RunRequested)])
            await self._apply_changes(connection, [e for e in new if isinstance(e, RunEvent)])
            await self._apply_ticks(connection, ticks)
            await self._apply_artifacts(connection, [e for e in new if isinstance(e, ArtifactStored)])
            await self._apply_deletions(connection, [e for e in new if isinstance(e, ArtifactDeleted)])

    # --- queries -----------------------------------------------------------------------------------------------

    async def list_executions(
        self, tenant: str, limit: int, after: tuple[datetime, UUID] | None, job_id: UUID | None, state: str | None
    ) -> list[asyncpg.Record]:
        """At most `limit` executions of `tenant`, newest first, beginning behind `after`."""
        async with self._database.tenant(tenant) as connection:
            return await connection.fetch(
                f"""SELECT {COLUMNS} FROM executions
                    WHERE tenant = $1 AND requested_at IS NOT NULL
                      AND ($2::timestamptz IS NULL OR (requested_at, run_id) < ($2, $3::uuid))
                      AND ($4::uuid IS NULL OR job_id = $4)
                      AND ($5::text IS NULL OR state = $5)
                    ORDER BY requested_at DESC, run_id DESC LIMIT $6""",
                tenant, *(after or (None, None)), job_id, state, limit,
            )  # fmt: skip

    async def execution(self, tenant: str, run_id: UUID) -> tuple[asyncpg.Record, list[asyncpg.Record]] | None:
        """One execution with its artifacts, in the order of the parts."""
        async with self._database.tenant(tenant) as connection:
            row = await connection.fetchrow(f"SELECT {COLUMNS} FROM executions WHERE run_id = $1", run_id)
            if row is None:
                return None
            artifacts = await self._artifacts(connection, tenant, 10_000, None, run_id)
            return row, sorted(artifacts, key=itemgetter("number"))

    async def list_artifacts(
        self, tenant: str, limit: int, after: tuple[datetime, UUID] | None, run_id: UUID | None
    ) -> list[asyncpg.Record]:
        """At most `limit` artifacts of `tenant`, newest first, beginning behind `after`."""
        async with self._database.tenant(tenant) as connection:
            return await self._artifacts(connection, tenant, limit, after, run_id)

    async def _artifacts(
        self, connection: Connection, tenant: str, limit: int, after: tuple[datetime, UUID] | None, run_id: UUID | None
    ) -> list[asyncpg.Record]:
        return await connection.fetch(
            """SELECT artifacts.*, deleted_at, artifact_deletions.reason AS deletion_reason, title, source, type,
                      CASE WHEN deleted_at IS NULL
                           THEN greatest(0, ceil(extract(epoch FROM expires_at - now()) / 86400))::int
                           ELSE 0 END AS remaining_days
               FROM artifacts
               LEFT JOIN artifact_deletions USING (artifact_id)
               LEFT JOIN LATERAL (
                 SELECT title, source, type FROM executions WHERE executions.run_id = artifacts.run_id
               ) execution ON true
               WHERE artifacts.tenant = $1
                 AND ($2::timestamptz IS NULL OR (stored_at, artifact_id) < ($2, $3::uuid))
                 AND ($4::uuid IS NULL OR artifacts.run_id = $4)
               ORDER BY stored_at DESC, artifact_id DESC LIMIT $5""",
            tenant, *(after or (None, None)), run_id, limit,
        )  # fmt: skip

    # --- steps of a batch --------------------------------------------------------------------------------------

    async def _extend_timeline(self, connection: Connection, events: Sequence[Event]) -> list[Event]:
        """Write down the events; returns those that were not known."""
        by_id = {event.event_id: event for event in events}
        rows = await connection.fetch(
            """INSERT INTO events (event_id, tenant, type, occurred_at, job_id, run_id, actor, body)
               SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::uuid[], $6::uuid[],
                                    $7::text[], $8::jsonb[])
               ON CONFLICT DO NOTHING RETURNING event_id""",
            list(by_id),
            [e.tenant for e in by_id.values()],
            [type(e).__name__ for e in by_id.values()],
            [e.occurred_at for e in by_id.values()],
            [getattr(e, "job_id", None) for e in by_id.values()],
            [getattr(e, "run_id", None) for e in by_id.values()],
            [getattr(e, "actor", None) for e in by_id.values()],
            [orjson.loads(e.model_dump_json()) for e in by_id.values()],
        )
        fresh = {row["event_id"] for row in rows}
        return [event for event_id, event in by_id.items() if event_id in fresh]

    async def _apply_requests(self, connection: Connection, requests: Sequence[RunRequested]) -> None:
        await connection.executemany(
            """INSERT INTO executions (run_id, tenant, job_id, title, source, type, trigger, slot_key, slot_at,
                                       question, requested_at)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
               ON CONFLICT (run_id) DO UPDATE
               SET title = excluded.title, source = excluded.source, type = excluded.type,
                   trigger = excluded.trigger, slot_key = excluded.slot_key, slot_at = excluded.slot_at,
                   question = excluded.question, requested_at = excluded.requested_at""",
            [
                (r.run_id, r.tenant, r.job_id, r.title, r.question.source, r.question.type, r.slot.trigger, r.slot.key,
                 r.slot.at, r.question.model_dump(mode="json"), r.occurred_at)
                for r in requests
            ],
        )  # fmt: skip

    async def _apply_changes(self, connection: Connection, events: Sequence[RunEvent]) -> None:
        """The greater version says the state until it is terminal; facts of one event are kept whenever it comes."""
        changes = [change for event in events if (change := domain.change(event)) is not None]
        await connection.executemany(
            """INSERT INTO executions AS known (run_id, tenant, job_id, state, version, attempt, worker, started_at,
                 finished_at, rows, bytes, parts, snapshot, manifest_id, manifest_sha256, schema_id, reason, message)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
               ON CONFLICT (run_id) DO UPDATE
               SET state = CASE WHEN known.version < excluded.version AND known.finished_at IS NULL
                                THEN excluded.state ELSE known.state END,
                   version = greatest(known.version, excluded.version),
                   attempt = greatest(known.attempt, excluded.attempt),
                   worker = coalesce(excluded.worker, known.worker),
                   started_at = least(known.started_at, excluded.started_at),
                   finished_at = coalesce(known.finished_at, excluded.finished_at),
                   rows = coalesce(known.rows, excluded.rows),
                   bytes = coalesce(known.bytes, excluded.bytes),
                   parts = coalesce(known.parts, excluded.parts),
                   snapshot = coalesce(known.snapshot, excluded.snapshot),
                   manifest_id = coalesce(known.manifest_id, excluded.manifest_id),
                   manifest_sha256 = coalesce(known.manifest_sha256, excluded.manifest_sha256),
                   schema_id = coalesce(known.schema_id, excluded.schema_id),
                   reason = coalesce(excluded.reason, known.reason),
                   message = coalesce(excluded.message, known.message)""",
            [_values(change) for change in changes],
        )

    async def _apply_ticks(self, connection: Connection, ticks: Sequence[RunProgressed]) -> None:
        await connection.executemany(
            """INSERT INTO executions AS known (run_id, tenant, job_id, progress_attempt, progress_sequence, progress)
               VALUES ($1, $2, $3, $4, $5, $6)
               ON CONFLICT (run_id) DO UPDATE
               SET progress_attempt = excluded.progress_attempt, progress_sequence = excluded.progress_sequence,
                   progress = excluded.progress
               WHERE known.state NOT IN ('succeeded', 'failed', 'cancelled')
                 AND (known.progress_attempt, known.progress_sequence)
                   < (excluded.progress_attempt, excluded.progress_sequence)""",
            [
                (
                    t.run_id,
                    t.tenant,
                    t.job_id,
                    t.progress.attempt,
                    t.progress.sequence,
                    t.progress.model_dump(mode="json"),
                )
                for t in domain.newest_ticks(ticks)
            ],
        )

    async def _apply_artifacts(self, connection: Connection, events: Sequence[ArtifactStored]) -> None:
        await connection.executemany(
            """INSERT INTO artifacts (artifact_id, tenant, run_id, job_id, number, file_name, size_bytes, rows, sha256,
                                      stored_at, expires_at, entity)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING""",
            [
                (e.part.artifact_id, e.tenant, e.run_id, e.job_id, e.part.number, e.part.file_name, e.part.size_bytes,
                 e.part.rows, e.part.sha256, e.occurred_at, e.expires_at, e.part.entity)
                for e in events
            ],
        )  # fmt: skip

    async def _apply_deletions(self, connection: Connection, events: Sequence[ArtifactDeleted]) -> None:
        await connection.executemany(
            """INSERT INTO artifact_deletions (artifact_id, tenant, reason, deleted_at)
               VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING""",
            [(e.artifact_id, e.tenant, e.reason, e.occurred_at) for e in events],
        )


_values = attrgetter(*(field.name for field in fields(domain.Change)))
"""The columns of a change, in their order; `dataclasses.astuple` copies deeply and took a tenth of the projection."""
