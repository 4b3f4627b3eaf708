"""What the purge deletes is put aside by triggers, and put back at the end: nothing escapes the check.

So every promise is checked for all that ever happened, and what came back after it had been forgotten is found.
"""

from typing import Final

import asyncpg

from tests.soak.world import World

KEYS: Final = {
    "scheduler.backfills": "backfill_id",
    "scheduler.schedules": "job_id",
    "scheduler.slots": "job_id, slot_key",
    "scheduler.outbox": "event_id",
    "job_api.jobs": "id",
    "job_api.backfills": "backfill_id",
    "job_api.runs": "run_id",
    "job_api.outbox": "event_id",
    "exporter.runs": "run_id",
    "exporter.artifacts": "artifact_id",
    "exporter.documents": "document_id",
    "exporter.outbox": "event_id",
}
"""The purged tables in the order in which they are put back, and what names a row."""
MAY_COME_BACK: Final = {"job_api.runs"}
"""A late word about a run makes a row about its end, which is forgotten in its turn."""


async def begin(world: World) -> None:
    """Put aside from now on what is deleted."""
    connection = await asyncpg.connect(world.stack.dsn())
    try:
        await connection.execute("CREATE SCHEMA soak")
        for table in KEYS:
            aside = _aside(table)
            await connection.execute(
                f"""CREATE TABLE {aside} AS TABLE {table} WITH NO DATA;
                    CREATE FUNCTION {aside}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
                    BEGIN
                      INSERT INTO {aside} SELECT OLD.*;
                      RETURN NULL;
                    END $$;
                    CREATE TRIGGER soak AFTER DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {aside}()"""
            )
    finally:
        await connection.close()


async def put_back(world: World) -> None:
    """Give every table back what it lost, and tell what had come back by itself; nobody purges any more."""
    connection = await asyncpg.connect(world.stack.dsn())
    try:
        async with connection.transaction():
            for table, key in KEYS.items():
                aside = _aside(table)
                await connection.execute(f"DROP TRIGGER soak ON {table}")
                world.count(f"rows purged of {table}", await connection.fetchval(f"SELECT count(*) FROM {aside}"))
                again = await connection.fetch(f"SELECT {key} FROM {aside} INTERSECT SELECT {key} FROM {table}")
                if again and table not in MAY_COME_BACK:
                    world.wrong.append(f"forgotten rows of {table} came back: {[tuple(row) for row in again[:3]]}")
                await connection.execute(
                    f"""INSERT INTO {table} OVERRIDING SYSTEM VALUE
                        SELECT DISTINCT ON ({key}) * FROM {aside} AS lost
                        WHERE ({key}) NOT IN (SELECT {key} FROM {table})"""
                )
    finally:
        await connection.close()


def _aside(table: str) -> str:
    return f"soak.{table.replace('.', '_')}"
