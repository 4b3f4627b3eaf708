"""Executions: lists of them, and one with all that belongs to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, LiteralString
from uuid import UUID

import asyncpg

from services.history.domain.attempts import TOLD_BY
from services.history.domain.listing import ExecutionFilter, Order, Place, Range
from services.history.store import statement
from services.history.store.artifacts import ARTIFACT
from services.history.store.statement import Conditions, Index, Listed, Reading, Way
from shared.database import Connection
from shared.events import RunState, Trigger
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
_LISTED: Final = Listed("executions", ("requested_at", "run_id"), _EXECUTION)


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

_UNSUCCESSFUL: Final = frozenset({RunState.FAILED, RunState.CANCELLED})
"""The states that have an index of their own."""
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


_NEAR: Final = 0.05
"""The runs of such a part of all jobs are among the next ones of all, unless they are of another time."""

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
            wanted = await _wanted(connection, tenant, only)
            if wanted is None:
                return []
            if order.column == "title":
                wanted.narrow_titles()
            rows = await self.page(
                connection, _LISTED, wanted.conditions, index, descending=order.descending, limit=limit, after=after,
                way=_way(order, only, wanted), jobs=wanted.jobs,
            )  # fmt: skip
        return [(row, Place(row[index.columns[0]], row["requested_at"], row["run_id"])) for row in rows]

    async def count_executions(self, tenant: str, only: ExecutionFilter) -> tuple[int, bool]:
        """How many executions of `tenant` there are, and whether that is an estimate."""
        async with self.reading(tenant) as connection:
            wanted = await _wanted(connection, tenant, only)
            if wanted is None:
                return 0, False
            if wanted.jobs:
                wanted.conditions.add_any("job_id", wanted.jobs)
            return await self.total(connection, "executions", wanted.conditions)

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


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a filter asks of executions, and of which jobs they can be when it asks for a text or labels."""

    conditions: Conditions
    jobs: Sequence[UUID] = ()
    """None when they are too many to be looked up one by one; `conditions` are enough then."""
    titles: Sequence[str] = ()
    share: float = 0
    """Which part of all jobs they are, if nothing else is asked of a run than to be one of theirs."""

    def narrow_titles(self) -> None:
        """Say which titles they have: one job's are all at one place of that order, and far from the next one's."""
        if 0 < len(self.titles) <= statement.LOOKED_UP:
            self.conditions.add_any("title_folded", self.titles)


async def _wanted(connection: Connection, tenant: str, only: ExecutionFilter) -> _Wanted | None:
    """What `only` asks of executions; None when no job is like that."""
    conditions = _conditions(tenant, only)
    if only.text is None and not only.labels:
        return _Wanted(conditions)
    versions = await _versions(connection, tenant, only)
    if not versions:
        return None
    wanted = [row for row in versions if row["wanted"]]
    jobs, share = sorted({row["job_id"] for row in wanted}), 0.0
    if len(wanted) < len(versions) or len(jobs) > statement.LOOKED_UP:
        # As a value it is a filter, not a join: PostgreSQL would begin with the versions, and sort what it finds.
        conditions.add(
            "((job_id, job_version) IN (SELECT * FROM unnest({}::uuid[], {}::integer[]))) IS TRUE",
            [row["job_id"] for row in wanted], [row["version"] for row in wanted],
        )  # fmt: skip
    elif replace(only, text=None, labels={}, states=tuple(only.states)) == ExecutionFilter():
        share = len(jobs) / versions[0]["all_jobs"]
    if len(jobs) > statement.LOOKED_UP:
        jobs = []
    return _Wanted(conditions, jobs, sorted({row["title_folded"] for row in wanted}), share)


def _way(order: Order, only: ExecutionFilter, wanted: _Wanted) -> Way:
    """How the rows of a page are found."""
    if order.column != "requested_at":
        if only.job_id is not None or len(wanted.jobs) == 1:
            return Way.ANEW
    elif 1 < len(wanted.jobs) <= statement.MERGED and not (
        only.states or only.trigger or _within(only.started, only.finished)
    ):
        return Way.MERGED
    if order.column != "title" and wanted.jobs and wanted.share >= _NEAR:
        return Way.NEXT
    others = only.source or only.type or wanted.jobs
    if order.column == "requested_at" and not others and sum(map(bool, (only.job_id, only.trigger, *only.states))) == 1:
        # An index has these in this order, and planning both halves of a statement would be in vain.
        return Way.WHOLE
    rare = bool(only.states) and _UNSUCCESSFUL.issuperset(only.states)
    rare |= only.trigger is not None and only.trigger is not Trigger.SCHEDULE
    of_title = order.column == "title" and (only.source or only.type)
    return Way.KEYS if only.job_id or wanted.jobs or rare or of_title else Way.WHOLE


def _within(*ranges: Range) -> bool:
    return any(range_ != Range() for range_ in ranges)


def _conditions(tenant: str, only: ExecutionFilter) -> Conditions:
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
    return conditions


async def _versions(connection: Connection, tenant: str, only: ExecutionFilter) -> list[asyncpg.Record]:
    """All versions of the jobs that were once as `only` says, and which were; far fewer than executions."""
    conditions = Conditions(tenant)
    conditions.add_equal("job_id", only.job_id)
    if only.text is not None:
        conditions.add("strpos(title_folded, {}) > 0", folded(only.text))
    if only.labels:
        conditions.add("labels @> {}", dict(only.labels))
    return await connection.fetch(
        f"""SELECT job_id, version, title_folded, {conditions.text} AS wanted,
                   (SELECT count(DISTINCT job_id) FROM job_versions WHERE tenant = $1) AS all_jobs
            FROM job_versions
            WHERE tenant = $1 AND job_id IN (SELECT job_id FROM job_versions WHERE {conditions.text})""",
        *conditions.arguments,
    )
