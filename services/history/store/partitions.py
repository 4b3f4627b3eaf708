"""The months that are kept: partitions are made ahead of time, and dropped as a whole when they are too old."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final

import asyncpg

from services.history.store.part import Part
from shared.database import Connection, Database, database_now
from shared.observability import log

TABLES: Final = ("executions", "artifacts", "slots_not_run", "events", "statistics")
"""The first one says which months are kept: it loses them first."""
AHEAD: Final = 2
"""Months after the current one that have partitions already."""


class PartitionStore(Part):
    """Keeps house; says which events are too old to be kept."""

    def __init__(self, database: Database, retention: timedelta = timedelta(days=400)) -> None:
        super().__init__(database)
        self._retention = retention
        self._oldest = datetime.min.replace(tzinfo=UTC)
        """The first month there is, once somebody looked; what belongs to an earlier one is not kept."""

    async def keep_partitions(self) -> int:
        """Make the partitions of all months that are kept, drop those of older ones, and say how many it were.

        Behind a table that somebody reads for seconds it does not wait; the rest is left to the next call.
        """
        changed = 0
        try:
            for table in TABLES:
                # Nobody who waits for this table, and uses others, can wait for us in a circle.
                async with self._database.transaction() as connection:
                    changed += await self.keep_partitions_of(connection, await database_now(connection), [table])
        except asyncpg.LockNotAvailableError as error:
            log.warning("partitions are left as they are for now", error=repr(error))
        await self.look_at_partitions()
        return changed

    async def keep_partitions_of(self, connection: Connection, now: datetime, tables: Sequence[str] = TABLES) -> int:
        """The same for tables of the connection's schema, in its transaction; raises LockNotAvailableError."""
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('cdds.history.partitions'))")
        # Whoever reads a month that is to be dropped has time to finish; the others do not queue behind us for long.
        await connection.execute("SET LOCAL lock_timeout = '5s'")
        existing = {
            row["name"]
            for row in await connection.fetch(
                """SELECT child.relname AS name FROM pg_inherits
                   JOIN pg_class child ON child.oid = inhrelid JOIN pg_class parent ON parent.oid = inhparent
                   WHERE parent.relnamespace = current_schema()::regnamespace AND parent.relname = ANY($1)
                     AND child.relkind = 'r'""",
                tables,
            )
        }
        months = list(_months(now - self._retention, AHEAD, now))
        wanted = {_name(table, month): (table, month) for table in tables for month in months}
        for name in sorted(wanted.keys() - existing):
            table, month = wanted[name]
            await connection.execute("SELECT make_month(current_schema(), $1, $2)", table, month.date())
        too_old = sorted(name for name in existing - wanted.keys() if name < _name(_table(name), months[0]))
        for name in too_old:
            await connection.execute("SELECT drop_month(current_schema(), $1, $2)", _table(name), _month(name))
        return len(wanted.keys() - existing) + len(too_old)

    async def look_at_partitions(self) -> None:
        """Learn which month is the first one that is kept."""
        async with self._database.transaction() as connection:
            first: str = await connection.fetchval(
                """SELECT min(child.relname) FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid
                   WHERE inhparent = 'executions'::regclass"""
            )
        self._oldest = datetime.strptime(first + "+0000", "executions_%Y_%m%z")

    async def tidy(self, schema: str | None = None) -> int:
        """Remove what nobody looks at any more: slots that were decided, old versions of jobs, ticks of ended runs."""
        async with self._database.transaction() as connection:
            await connection.execute(f"SET LOCAL search_path = {schema or self._database.schema}")
            removed = [
                await connection.execute(
                    """DELETE FROM slots_waiting AS waiting
                       WHERE EXISTS (SELECT FROM executions AS run
                                     WHERE (run.tenant, run.job_id, run.slot_key)
                                           = (waiting.tenant, waiting.job_id, waiting.slot_key)
                                       AND run.title IS NOT NULL AND run.requested_at >= waiting.waiting_at)
                          OR EXISTS (SELECT FROM slots_not_run AS slot
                                     WHERE (slot.tenant, slot.job_id, slot.slot_key)
                                           = (waiting.tenant, waiting.job_id, waiting.slot_key)
                                       AND slot.decided_at >= waiting.waiting_at)"""
                ),
                await connection.execute(
                    """DELETE FROM progress WHERE occurred_at < now() - interval '1 hour'
                       AND (requested_at < $1
                            OR EXISTS (SELECT FROM executions AS run
                                       WHERE run.requested_at = progress.requested_at
                                         AND run.run_id = progress.run_id AND finished_at IS NOT NULL))""",
                    self._oldest,
                ),
                await connection.execute(
                    """DELETE FROM job_versions AS old
                       WHERE occurred_at < $1
                         AND (deleted
                              OR EXISTS (SELECT FROM job_versions AS newer
                                         WHERE newer.job_id = old.job_id AND newer.version > old.version
                                           AND newer.occurred_at < $1))""",
                    self._oldest,
                ),
            ]
        return sum(int(status.rpartition(" ")[2]) for status in removed)


def _months(since: datetime, ahead: int, now: datetime) -> Iterator[datetime]:
    """The first moments of the months from that of `since` to `ahead` months after that of `now`."""
    month = since.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    last = now
    for _ in range(ahead):
        last = _following(last.replace(day=1))
    while month <= last:
        yield month
        month = _following(month)


def _following(month: datetime) -> datetime:
    """
    >>> _following(datetime(2026, 12, 1, tzinfo=UTC)).isoformat()
    '2027-01-01T00:00:00+00:00'
    """
    return (month + timedelta(days=31)).replace(day=1)


def _name(table: str, month: datetime) -> str:
    return f"{table}_{month:%Y_%m}"


def _table(partition: str) -> str:
    return partition[: -len("_2026_11")]


def _month(partition: str) -> date:
    """
    >>> _month("slots_not_run_2026_11")
    datetime.date(2026, 11, 1)
    """
    return date(int(partition[-7:-3]), int(partition[-2:]), 1)
