"""Who did what."""

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from services.history.domain.listing import AuditFilter
from services.history.store.statement import Conditions, Reading

CHUNK: Final = 1000
"""Rows of one look while all are streamed; each look is a transaction, so that a slow reader holds none open."""


class AuditStore(Reading):
    """The events that somebody caused."""

    async def list_audit(
        self, tenant: str, only: AuditFilter, limit: int, after: tuple[datetime, UUID] | None
    ) -> list[asyncpg.Record]:
        """At most `limit` deeds of `tenant`, newest first, beginning behind `after`."""
        conditions = Conditions(tenant)
        conditions.add("actor IS NOT NULL")
        conditions.add_equal("actor", only.actor)
        conditions.add_equal("type", only.action)
        conditions.add_equal("job_id", only.job_id)
        conditions.add_equal("run_id", only.run_id)
        conditions.add_range("occurred_at", only.at)
        if after is not None:
            conditions.add("(occurred_at, event_id) < ({}, {})", *after)
        async with self.reading(tenant) as connection:
            return await connection.fetch(
                f"""SELECT event_id, occurred_at, actor, type, job_id, run_id, body FROM events
                    WHERE {conditions.text} ORDER BY occurred_at DESC, event_id DESC LIMIT {limit}""",
                *conditions.arguments,
            )

    async def whole_audit(self, tenant: str, only: AuditFilter) -> AsyncGenerator[list[asyncpg.Record]]:
        """All deeds of `tenant`, newest first, a thousand at a time."""
        after: tuple[datetime, UUID] | None = None
        while rows := await self.list_audit(tenant, only, CHUNK, after):
            yield rows
            if len(rows) < CHUNK:
                return
            after = rows[-1]["occurred_at"], rows[-1]["event_id"]
