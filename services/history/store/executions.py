"""Executions: lists of them, and one with all that belongs to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, LiteralString
from uuid import UUID

import asyncpg

from services.history.domain.attempts import TOLD_BY
from services.history.domain.listing import ExecutionFilter, Order, Place
from services.history.store.artifacts import ARTIFACT
from services.history.store.statement import Conditions, Index, Reading
from shared.database import Connection
from shared.events import RunState
from shared.listing import folded

_EXECUTION: Final[LiteralString] = """
    run_id, job_id, job_version, title, title_folded, source, type, trigger, slot_key, slot_at, interval_from,
    interval_to, question, retry_of, requested_at, state, attempt, worker, started_at, finished_at, duration_seconds,
    rows, bytes, parts, snapshot, manifest_id, manifest_sha256, schema_id, reason, message, cancelled_by,
    (SELECT json_build_object('attempt', attempt, 'sequence', sequence, 'rows', rows, 'bytes', bytes, 'total', total,
                              'percent', percent, 'remaining_seconds', remaining_seconds)
     FROM progress WHERE progress.run_id = executions.run_id AND executions.finished_at IS NULL) AS progress
"""
_SELECT: Final[LiteralString] = "SELECT " + _EXECUTION + " FROM executions"


def _ordered(value: LiteralString, *, nullable: bool = False) -> Index:
    return Index((value, "requested_at", "run_id"), nullable)


_INDEXES: Final[Mapping[str, Index]] = {
    "requested_at": Index(("requested_at", "run_id")),
    "started_at": _ordered("started_at", nullable=True),
    "finished_at": _ordered("finished_at", nullable=True),
    "duration_seconds": _ordered("duration_seconds", nullable=True),
    "title": _ordered("title_folded"),
    "source": _ordered("source"),
    "type": _ordered("type"),
    "trigger": _ordered("trigger"),
    "state": _ordered("state"),
    "rows": _ordered("rows", nullable=True),
    "bytes": _ordered("bytes", nullable=True),
}
"""As in the migrations."""

_ENDED: Final = frozenset(state for state in RunState if state.terminal)
_TOLD_IN: Final[Mapping[str, frozenset[RunState]]] = {
    "finished_at": _ENDED,
    "rows": frozenset({RunState.SUCCEEDED}),
    "bytes": frozenset({RunState.SUCCEEDED}),
}
"""The states in which these columns have a value; in all others they have none."""


def _index(column: str, states: Sequence[RunState]) -> Index:
    """The index for an order, and whether rows in these states have a value there."""
    index, told_in = _INDEXES[column], _TOLD_IN.get(column)
    if not states or told_in is None:
        return index
    return replace(index, nullable=not told_in.issuperset(states), valued=not told_in.isdisjoint(states))


_EARLIER: Final = timedelta(days=1)
"""Clocks of two services differ by less."""


@dataclass(frozen=True, slots=True)
class ExecutionRows:
    """An execution, the settings its job had, its files, and the events that tell of its attempts."""

    execution: asyncpg.Record
    settings: Mapping[str, object] | None
    artifacts: Sequence[asyncpg.Record]
    events: Sequence[asyncpg.Record]


class ExecutionStore(Reading):
    """What happened to runs."""

    async def list_executions(
        self, tenant: str, order: Order, only: ExecutionFilter, limit: int, after: Place | None
    ) -> list[tuple[asyncpg.Record, Place]]:
        """At most `limit` executions of `tenant` behind `after`, each with its place."""
        index = _index(order.column, only.states)
        async with self.reading(tenant) as connection:
            conditions = await _conditions(connection, tenant, only)
            if conditions is None:
                return []
            rows = await self.page(
                connection, _SELECT, conditions, index, descending=order.descending, limit=limit, after=after,
                sorted_anew=only.job_id is not None and order.column != "requested_at",
            )  # fmt: skip
        return [(row, Place(row[index.columns[0]], row["requested_at"], row["run_id"])) for row in rows]

    async def count_executions(self, tenant: str, only: ExecutionFilter) -> tuple[int, bool]:
        """How many executions of `tenant` there are, and whether that is an estimate."""
        async with self.reading(tenant) as connection:
            conditions = await _conditions(connection, tenant, only)
            return (0, False) if conditions is None else await self.total(connection, "executions", conditions)

    async def execution(self, tenant: str, run_id: UUID) -> ExecutionRows | None:
        """One execution of `tenant` with all that belongs to it, files in the order of the parts."""
        async with self.reading(tenant) as connection:
            row = await connection.fetchrow(
                f"{_SELECT} WHERE tenant = $1 AND run_id = $2 AND title IS NOT NULL", tenant, run_id
            )
            if row is None:
                return None
            requested_at: datetime = row["requested_at"]
            settings = await connection.fetchval(
                "SELECT settings FROM job_versions WHERE tenant = $1 AND job_id = $2 AND version = $3",
                tenant, row["job_id"], row["job_version"],
            )  # fmt: skip
            artifacts = await connection.fetch(
                f"""SELECT {ARTIFACT} FROM artifacts
                    WHERE tenant = $1 AND requested_at = $2 AND run_id = $3 AND file_name IS NOT NULL
                    ORDER BY number""",
                tenant, requested_at, run_id,
            )  # fmt: skip
            events = await connection.fetch(
                """SELECT type, body FROM events
                   WHERE tenant = $1 AND run_id = $2 AND occurred_at >= $3 AND type = ANY($4)
                   ORDER BY occurred_at""",
                tenant, run_id, requested_at - _EARLIER, list(TOLD_BY),
            )  # fmt: skip
        return ExecutionRows(row, settings, artifacts, events)

    async def timeline(
        self, tenant: str, run_id: UUID, limit: int, after: tuple[datetime, UUID] | None
    ) -> list[asyncpg.Record] | None:
        """At most `limit` events of a run of `tenant`, oldest first, beginning behind `after`; None without the run."""
        only = Conditions(tenant)
        only.add("run_id = {}", run_id)
        async with self.reading(tenant) as connection:
            requested_at: datetime | None = await connection.fetchval(
                "SELECT requested_at FROM executions WHERE tenant = $1 AND run_id = $2 AND title IS NOT NULL",
                tenant, run_id,
            )  # fmt: skip
            if requested_at is None:
                return None
            only.add("occurred_at >= {}", requested_at - _EARLIER)
            if after is not None:
                only.add("(occurred_at, event_id) > ({}, {})", *after)
            return await connection.fetch(
                f"""SELECT event_id, type, occurred_at, job_id, run_id, actor, body FROM events
                    WHERE {only.text} ORDER BY occurred_at, event_id LIMIT {limit}""",
                *only.arguments,
            )

    async def intervals(
        self, tenant: str, job_id: UUID, begin: datetime, end: datetime, limit: int
    ) -> list[asyncpg.Record]:
        """At most `limit` runs of a job of `tenant` that export data of [`begin`, `end`)."""
        async with self.reading(tenant) as connection:
            return await connection.fetch(
                """SELECT run_id, interval_from, interval_to, state, requested_at, reason FROM executions
                   WHERE tenant = $1 AND job_id = $2 AND requested_at >= $3 AND title IS NOT NULL
                     AND (interval_from IS NULL OR interval_from < $5) AND interval_to > $4
                   ORDER BY requested_at DESC, run_id DESC LIMIT $6""",
                tenant, job_id, begin - _EARLIER, begin, end, limit,
            )  # fmt: skip


async def _conditions(connection: Connection, tenant: str, only: ExecutionFilter) -> Conditions | None:
    """What `only` asks of executions; None when no job is like that."""
    conditions = Conditions(tenant)
    conditions.add("title IS NOT NULL")
    conditions.add_equal("job_id", only.job_id)
    conditions.add_equal("source", only.source)
    conditions.add_equal("type", only.type)
    conditions.add_equal("trigger", only.trigger)
    if only.states:
        conditions.add_any("state", [state.value for state in RunState if state in only.states])
    conditions.add_range("requested_at", only.requested)
    conditions.add_range("started_at", only.started)
    conditions.add_range("finished_at", only.finished)
    if only.touching.end is not None:
        conditions.add("(interval_from IS NULL OR interval_from < {})", only.touching.end)
    if only.touching.begin is not None:
        # Data is exported when it is there, so what was requested before it needs no looking at.
        conditions.add("interval_to > {} AND requested_at >= {}", only.touching.begin, only.touching.begin - _EARLIER)
    if only.text is None and not only.labels:
        return conditions
    versions = await _versions(connection, tenant, only)
    if not versions:
        return None
    if only.text is not None:
        conditions.add_any("title_folded", sorted({row["title_folded"] for row in versions}))
    if only.labels:
        conditions.add_any("job_id", sorted({row["job_id"] for row in versions}))
        conditions.add(
            "(job_id, job_version) IN (SELECT * FROM unnest({}::uuid[], {}::integer[]))",
            [row["job_id"] for row in versions], [row["version"] for row in versions],
        )  # fmt: skip
    return conditions


async def _versions(connection: Connection, tenant: str, only: ExecutionFilter) -> list[asyncpg.Record]:
    """The jobs as they were when they were as `only` says; far fewer than executions."""
    conditions = Conditions(tenant)
    conditions.add_equal("job_id", only.job_id)
    if only.text is not None:
        conditions.add("strpos(title_folded, {}) > 0", folded(only.text))
    if only.labels:
        conditions.add("labels @> {}", dict(only.labels))
    return await connection.fetch(
        f"SELECT job_id, version, title_folded FROM job_versions WHERE {conditions.text}", *conditions.arguments
    )
