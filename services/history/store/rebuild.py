"""The tables of a rebuild: made beside the live ones, compared with them, and put in their place.

Who may touch what is said by two locks. Every projection holds the one on the projection together with the others;
whoever ends a rebuild holds it alone, so that no batch is half in the old tables and half in the new ones. Readers take
none: to them the tables of one name become others between two statements.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from services.history.domain.rebuilds import Comparison, Rebuild
from services.history.store import requests
from services.history.store.projection import SHADOW, ProjectionStore
from shared.database import Connection, database_now

LIVE: Final = "history"
REPLACED: Final = "history_replaced"
PAUSE_SECONDS: Final = 0.5
HOURS: Final = 24 * 3600.0
"""The time-out, in seconds, of statements that read or write whole tables."""

NOT_COMPARED: Final = ("applied_migrations", "migration_steps", "rebuilds", "progress")
COLUMNS_NOT_COMPARED: Final = ("position", "deleted")
"""Whether a job was deleted only says when it is forgotten, and is not known of all that was projected long ago."""


class Outdated(Exception):
    """A newer version has changed the live tables since the rebuild began; ask for another one."""


class RebuildStore(ProjectionStore):
    """Makes, compares and swaps the tables of a rebuild."""

    @asynccontextmanager
    async def rebuilding(self) -> AsyncGenerator[bool]:
        """Whether this replica is the one that works on rebuilds, until it is done here; its login owns the tables."""
        async with self._database.session() as connection:
            # The lock ends with the pool's reset of the connection, or with the connection.
            yield await connection.fetchval(
                """SELECT pg_has_role(session_user, nspowner, 'USAGE')
                          AND pg_try_advisory_lock(hashtext('cdds.history.rebuild'))
                   FROM pg_namespace WHERE nspname = $1""",
                LIVE,
            )

    async def rebuild_under_way(self) -> Rebuild | None:
        """The one rebuild that has not ended."""
        async with self._database.session() as connection:
            return await requests.under_way(connection)

    async def make_shadow(self, rebuild: Rebuild) -> None:
        """Make the migrated schema ready for events; from now on every batch is projected into it, too."""
        async with self._database.transaction() as connection:
            await connection.execute(f"SET LOCAL search_path = {SHADOW}")
            await self.keep_partitions_of(connection, await database_now(connection))
            await connection.execute("SET LOCAL ROLE NONE")  # the login role owns the tables
            # conclude(): what live did not know. It is gone before the swap.
            await connection.execute(
                "CREATE INDEX events_without_position ON events (occurred_at, event_id) WHERE position IS NULL"
            )
            await connection.execute(f"SET LOCAL search_path = {LIVE}")
            await connection.execute(
                "UPDATE rebuilds SET state = 'copying' WHERE rebuild_id = $1 AND state = 'asked'", rebuild.rebuild_id
            )

    async def tell_progress(self, rebuild: Rebuild, progress: dict[str, int]) -> None:
        """Write down how many events of each topic were read."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "UPDATE rebuilds SET progress = $2 WHERE rebuild_id = $1", rebuild.rebuild_id, progress
            )

    async def recount_shadow(self) -> None:
        """Make the statistics of the rebuild anew, after all copied events were read."""
        async with self._database.transaction() as connection:
            await self._enter_shadow(connection)
            await self.recount(connection, HOURS)

    async def compare(self) -> list[Comparison]:
        """What live and rebuilt tables have in common at one moment; progress and positions aside.

        Rows are compared as text, whatever their order. Slots that waited are removed in time after they were decided,
        so those do not count, and sums of durations depend on the order of the runs, so they count in whole seconds.
        """
        for schema in (LIVE, SHADOW):
            await self.tidy(schema)
        async with self._database.transaction() as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            tables = await connection.fetch(
                """SELECT relname::text AS table, array_agg(
                            CASE WHEN atttypid = 'float8'::regtype THEN format('round(%I)', attname)
                                 ELSE quote_ident(attname) END ORDER BY attname) AS columns
                   FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
                   WHERE relnamespace = $1::text::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
                     AND attnum > 0 AND NOT attisdropped AND attname <> ALL ($3) AND relname <> ALL ($2)
                   GROUP BY relname ORDER BY relname""",
                SHADOW, NOT_COMPARED, COLUMNS_NOT_COMPARED,
            )  # fmt: skip
            return [await self._compare_table(connection, row["table"], row["columns"]) for row in tables]

    async def _compare_table(self, connection: Connection, table: str, columns: Sequence[str]) -> Comparison:
        only = _UNDECIDED if table == "slots_waiting" else ""
        live, rebuilt = [
            await connection.fetchrow(
                f"""SELECT count(*) AS rows, sum(hashtextextended(ROW({", ".join(columns)})::text, 0)) AS digest
                    FROM {schema}.{table} AS compared {only.format(schema)}""",
                timeout=HOURS,
            )
            for schema in (LIVE, SHADOW)
        ]
        assert live is not None
        assert rebuilt is not None
        return Comparison(table, live["rows"], rebuilt["rows"], live == rebuilt)

    async def conclude(self, rebuild: Rebuild, report: Mapping[str, object]) -> None:
        """End the rebuild, unless it was given up meanwhile, and put its tables in the place of the live ones.

        A rebuild that only checks leaves those. Raises Outdated.
        """
        async with self._alone() as connection:
            ended = await connection.fetchval(
                """UPDATE rebuilds SET state = 'finished', finished_at = now(), report = $2
                   WHERE rebuild_id = $1 AND state = 'copying' RETURNING true""",
                rebuild.rebuild_id, report,
            )  # fmt: skip
            if ended and not rebuild.checking:
                await self._swap(connection)

    async def give_up(self, rebuild: Rebuild, reason: str) -> None:
        """End the rebuild without result."""
        async with self._alone() as connection:
            await connection.execute(
                """UPDATE rebuilds SET state = 'failed', finished_at = now(), reason = $2
                   WHERE rebuild_id = $1 AND state IN ('asked', 'copying')""",
                rebuild.rebuild_id, reason,
            )  # fmt: skip

    async def clear(self) -> int:
        """Drop what ended or killed rebuilds left behind, and say how many schemas it were."""
        async with self._database.session() as connection:
            found = await connection.fetch(
                "SELECT nspname::text AS name FROM pg_namespace WHERE nspname = ANY($1)", [SHADOW, REPLACED]
            )
        for schema in found:
            while not await self._dropped(schema["name"]):  # noqa: ASYNC110 - other sessions' transactions
                await asyncio.sleep(PAUSE_SECONDS)
        return len(found)

    async def _dropped(self, schema: str) -> bool:
        """Drop a schema, or have patience with those who still read it; nobody begins to.

        A reader in the middle of a transaction may stumble over a table that we have locked already, while we wait for
        one that it has. We let go long before PostgreSQL would call that a deadlock, after 1 s, and end the reader.
        """
        try:
            async with self._database.transaction() as connection:
                await connection.execute("SET LOCAL ROLE NONE")
                await connection.execute("SET LOCAL lock_timeout = '200ms'")
                await connection.execute(f"DROP SCHEMA {schema} CASCADE", timeout=HOURS)
        except asyncpg.LockNotAvailableError:
            return False
        return True

    # --- the swap ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _alone(self) -> AsyncGenerator[Connection]:
        """One transaction of the tables' owner, while nobody projects or makes partitions."""
        async with self._database.transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('cdds.history.partitions'))", timeout=HOURS)
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('cdds.history.projection'))", timeout=HOURS)
            await connection.execute("SET LOCAL ROLE NONE")
            yield connection

    async def _swap(self, connection: Connection) -> None:
        if await connection.fetchval(
            f"""SELECT EXISTS (SELECT name FROM {LIVE}.applied_migrations
                               EXCEPT SELECT name FROM {SHADOW}.applied_migrations)"""
        ):
            raise Outdated
        await self._give_positions(connection)
        await connection.execute(
            f"""DROP INDEX {SHADOW}.events_without_position;
                INSERT INTO {SHADOW}.progress SELECT * FROM {LIVE}.progress;
                INSERT INTO {SHADOW}.rebuilds SELECT * FROM {LIVE}.rebuilds;
                ALTER SCHEMA {LIVE} RENAME TO {REPLACED};
                ALTER SCHEMA {SHADOW} RENAME TO {LIVE}""",
            timeout=HOURS,
        )

    async def _give_positions(self, connection: Connection) -> None:
        """Those of live, and new ones to the events that live did not know: who follows the timeline gets them now."""
        await connection.execute(
            f"""UPDATE {SHADOW}.events AS rebuilt SET position = live.position FROM {LIVE}.events AS live
                WHERE rebuilt.position IS NULL
                  AND live.occurred_at = rebuilt.occurred_at AND live.event_id = rebuilt.event_id;
                SELECT setval('{SHADOW}.positions', last_value, is_called) FROM {LIVE}.positions;
                UPDATE {SHADOW}.events AS rebuilt SET position = new.position
                FROM (SELECT occurred_at, event_id, nextval('{SHADOW}.positions') AS position
                      FROM (SELECT occurred_at, event_id FROM {SHADOW}.events WHERE position IS NULL
                            ORDER BY occurred_at, event_id) AS unknown) AS new
                WHERE rebuilt.occurred_at = new.occurred_at AND rebuilt.event_id = new.event_id""",
            timeout=HOURS,
        )


_UNDECIDED: Final = """
    WHERE NOT EXISTS (SELECT FROM {0}.executions AS run
                      WHERE run.tenant = compared.tenant AND run.job_id = compared.job_id
                        AND run.slot_key = compared.slot_key)
      AND NOT EXISTS (SELECT FROM {0}.slots_not_run AS slot
                      WHERE slot.tenant = compared.tenant AND slot.job_id = compared.job_id
                        AND slot.slot_key = compared.slot_key)
"""
