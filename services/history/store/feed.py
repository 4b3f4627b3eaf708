"""What the event stream asks: whether there is something new, and what."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from services.history.store.part import Part


@dataclass(frozen=True, slots=True)
class Happened:
    """A row of the timeline; without a body where it was not asked for."""

    position: int
    type: str
    job_id: UUID | None
    run_id: UUID | None
    body: str | None


@dataclass(frozen=True, slots=True)
class Tick:
    """How far a run is."""

    position: int
    job_id: UUID
    run_id: UUID
    occurred_at: datetime
    progress: dict[str, Any]


class FeedStore(Part):
    """Reads events in the order of their positions: whoever has seen one can have missed none before it."""

    async def newest_positions(self, tenants: Sequence[str]) -> dict[str, tuple[int, int]]:
        """The greatest position of an event and of a tick of each of `tenants`; 0 where there is none."""
        async with self._database.session() as connection:
            rows = await connection.fetch(
                """SELECT asked.tenant, coalesce(newest.position, 0) AS event, coalesce(tick.position, 0) AS tick
                   FROM unnest($1::text[]) AS asked (tenant)
                   LEFT JOIN LATERAL (SELECT max(position) AS position FROM events
                                      WHERE events.tenant = asked.tenant) AS newest ON true
                   LEFT JOIN (SELECT tenant, max(position) AS position FROM progress
                              WHERE tenant = ANY($1) GROUP BY tenant) AS tick ON tick.tenant = asked.tenant""",
                tenants,
            )
        return {row["tenant"]: (row["event"], row["tick"]) for row in rows}

    async def newest_position(self, tenant: str) -> tuple[int, int]:
        """The same for one tenant, as it sees it."""
        async with self._database.tenant(tenant) as connection:
            row = await connection.fetchrow(
                """SELECT coalesce((SELECT max(position) FROM events WHERE tenant = $1), 0) AS event,
                          coalesce((SELECT max(position) FROM progress WHERE tenant = $1), 0) AS tick""",
                tenant,
            )
        assert row is not None
        return row["event"], row["tick"]

    async def events_after(
        self, tenant: str, position: int, limit: int, job_id: UUID | None = None, run_id: UUID | None = None
    ) -> list[Happened]:
        """The next `limit` events of `tenant` after `position`, in order; of another job or run without their bodies.

        The bound is on what is looked at, so that a filter that leaves nothing costs a page no more than any other.
        """
        async with self._database.tenant(tenant) as connection:
            rows = await connection.fetch(
                """SELECT position, type, job_id, run_id,
                          CASE WHEN ($4::uuid IS NULL OR job_id = $4) AND ($5::uuid IS NULL OR run_id = $5)
                               THEN body::text END AS body
                   FROM events WHERE tenant = $1 AND position > $2 ORDER BY position LIMIT $3""",
                tenant, position, limit, job_id, run_id,
            )  # fmt: skip
        return [Happened(*row) for row in rows]

    async def ticks_after(self, tenant: str, position: int) -> list[Tick]:
        """The runs of `tenant` that have come further since `position` and have not ended."""
        async with self._database.tenant(tenant) as connection:
            rows = await connection.fetch(
                """SELECT position, job_id, run_id, occurred_at, attempt, sequence, rows, bytes, total, percent,
                          remaining_seconds
                   FROM progress
                   WHERE tenant = $1 AND position > $2
                     AND NOT EXISTS (SELECT FROM executions
                                     WHERE executions.requested_at = progress.requested_at
                                       AND executions.run_id = progress.run_id AND finished_at IS NOT NULL)
                   ORDER BY position""",
                tenant, position,
            )  # fmt: skip
        return [Tick(*list(row.values())[:4], progress=dict(list(row.items())[4:])) for row in rows]
