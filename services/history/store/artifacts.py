"""Artifacts: lists of them, and the feed of those that arrived."""

from collections.abc import Mapping
from typing import Final, LiteralString
from uuid import UUID

import asyncpg

from services.history.domain.listing import ArtifactFilter, Order, Place
from services.history.store.statement import Conditions, Index, Listed, Reading
from shared.database import Connection
from shared.listing import folded

ARTIFACT: Final[LiteralString] = """
    artifact_id, run_id, job_id, title, title_folded, source, type, number, entity, file_name, size_bytes, rows, sha256,
    stored_at, expires_at, deleted_at, deletion_reason, deleted_by,
    CASE WHEN deleted_at IS NULL
         THEN greatest(0, ceil(extract(epoch FROM expires_at - now()) / 86400))::int
         ELSE 0 END AS remaining_days
"""
_SELECT: Final[LiteralString] = "SELECT " + ARTIFACT + " FROM artifacts"
_LISTED: Final = Listed("artifacts", ("requested_at", "artifact_id"), ARTIFACT)


def _ordered(value: LiteralString, *, nullable: bool = False) -> Index:
    return Index((value, "stored_at", "artifact_id"), nullable)


_INDEXES: Final[Mapping[str, Index]] = {
    "stored_at": Index(("stored_at", "artifact_id")),
    "expires_at": Index(("expires_at", "artifact_id")),
    "size_bytes": _ordered("size_bytes"),
    "rows": _ordered("rows"),
    # Older exporters did not tell these.
    "title": _ordered("title_folded", nullable=True),
    "source": _ordered("source", nullable=True),
    "type": _ordered("type", nullable=True),
}
"""As in the migrations."""


class ArtifactStore(Reading):
    """Which files were stored, and which are still there."""

    async def list_artifacts(
        self, tenant: str, order: Order, only: ArtifactFilter, limit: int, after: Place | None
    ) -> list[tuple[asyncpg.Record, Place]]:
        """At most `limit` artifacts of `tenant` behind `after`, each with its place."""
        index = _INDEXES[order.column]
        async with self.reading(tenant) as connection:
            conditions = await _conditions(connection, tenant, only)
            if conditions is None:
                return []
            rows = await self.page(
                connection, _LISTED, conditions, index, descending=order.descending, limit=limit, after=after
            )
        return [(row, Place(row[index.columns[0]], row["stored_at"], row["artifact_id"])) for row in rows]

    async def artifacts_after(self, tenant: str, position: int, limit: int) -> tuple[list[asyncpg.Record], int] | None:
        """At most `limit` artifacts of `tenant` that arrived after `position`, oldest first, and the position then.

        There are none only when none have arrived. Positions become visible in their order, so none is passed over.
        None for a position that is still to come: history was lost, and began anew.
        """
        async with self.reading(tenant) as connection:
            while True:
                events = await connection.fetch(
                    """SELECT position, run_id, body FROM events
                       WHERE tenant = $1 AND type = 'ArtifactStored' AND position > $2
                       ORDER BY position LIMIT $3""",
                    tenant, position, limit,
                )  # fmt: skip
                if not events:
                    newest = await connection.fetchval("SELECT max(position) FROM events WHERE tenant = $1", tenant)
                    return None if newest is not None and position > newest else ([], position)
                position = events[-1]["position"]
                # Those whose month was dropped meanwhile are not there any more.
                if rows := await _told_of(connection, tenant, events):
                    return rows, position


async def _told_of(connection: Connection, tenant: str, events: list[asyncpg.Record]) -> list[asyncpg.Record]:
    """The artifacts of these events, in their order."""
    ids = [UUID(event["body"]["part"]["artifact_id"]) for event in events]
    rows = await connection.fetch(
        f"{_SELECT} WHERE tenant = $1 AND run_id = ANY($2) AND artifact_id = ANY($3) AND file_name IS NOT NULL",
        tenant, list({event["run_id"] for event in events}), ids,
    )  # fmt: skip
    found = {row["artifact_id"]: row for row in rows}
    return [found[artifact_id] for artifact_id in ids if artifact_id in found]


async def _conditions(connection: Connection, tenant: str, only: ArtifactFilter) -> Conditions | None:
    """What `only` asks of artifacts; None when no job is called that."""
    conditions = Conditions(tenant)
    conditions.add("file_name IS NOT NULL")
    conditions.add_equal("job_id", only.job_id)
    conditions.add_equal("run_id", only.run_id)
    conditions.add_equal("source", only.source)
    conditions.add_equal("type", only.type)
    conditions.add_range("stored_at", only.stored)
    if only.available is not None:
        conditions.add("deleted_at IS NULL" if only.available else "deleted_at IS NOT NULL")
    if only.text is not None:
        titles = await connection.fetch(
            "SELECT DISTINCT title_folded FROM job_versions WHERE tenant = $1 AND strpos(title_folded, $2) > 0",
            tenant, folded(only.text),
        )  # fmt: skip
        if not titles:
            return None
        conditions.add_any("title_folded", [row["title_folded"] for row in titles])
    return conditions
