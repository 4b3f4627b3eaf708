"""Migrations beside traffic: indexes that nobody waits for, deaths in the middle, locks, schemas that are awaited."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.history.store import Store
from shared import database, migration
from shared.database import DirectConnection
from shared.migration import Migration
from tests.conftest import fresh_database
from tests.history.events import finished_run, project

TABLE = Migration(
    "0001_parts.sql",
    """CREATE TABLE parts (month date NOT NULL, n integer) PARTITION BY RANGE (month);
       CREATE TABLE parts_01 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
       CREATE TABLE parts_02 PARTITION OF parts FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
       CREATE TABLE whole (n integer);
       CREATE INDEX parts_n ON parts (n)""",
)
INDEXES = Migration(
    "0002_indexes.sql",
    """-- concurrently
-- A new one for an old one; and a plain table's.
CREATE INDEX parts_n_shown ON parts (n) WHERE n > 0;
DROP INDEX parts_n;
ALTER INDEX parts_n_shown RENAME TO parts_n;
CREATE UNIQUE INDEX whole_n ON whole (n);
""",
)


@pytest.fixture
async def dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    async with fresh_database(postgres) as address:
        yield address


@asynccontextmanager
async def connected(dsn: str) -> AsyncGenerator[DirectConnection]:
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "scheduler"})
    try:
        yield connection
    finally:
        await connection.close()


def files(monkeypatch: pytest.MonkeyPatch, *made: Migration) -> None:
    monkeypatch.setattr(migration, "of_service", lambda *_, **__: list(made))


async def migrate(dsn: str) -> list[str]:
    return await migration.migrate(dsn, "scheduler", outbox=True)


async def indexes(connection: DirectConnection) -> dict[str, bool]:
    rows = await connection.fetch(
        """SELECT relname AS name, indisvalid AS valid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
           WHERE relnamespace = 'scheduler'::regnamespace AND relname ~ '^(parts|whole)'"""
    )
    return {row["name"]: row["valid"] for row in rows}


ALL = {"parts_n": True, "parts_n_shown_01": True, "parts_n_shown_02": True, "whole_n": True}


async def test_indexes_are_built_while_others_write(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files(monkeypatch, TABLE)
    await migrate(dsn)
    files(monkeypatch, TABLE, INDEXES)
    async with connected(dsn) as writer, connected(dsn) as looker:
        await writer.execute("INSERT INTO parts VALUES ('2026-01-05', 1); INSERT INTO whole VALUES (1)")
        # Building waits for those that began before; nobody who comes meanwhile waits for the building.
        older = writer.transaction(isolation="repeatable_read")
        await older.start()
        await writer.fetch("SELECT FROM migration_steps")
        migrating = asyncio.create_task(migrate(dsn))
        while not await looker.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE command = 'CREATE INDEX CONCURRENTLY')"
        ):
            await asyncio.sleep(0.01)
        await looker.execute("INSERT INTO parts VALUES ('2026-01-07', 3)", timeout=5)
        assert not migrating.done()
        await older.commit()
        assert await migrating == [INDEXES.name]
        assert await indexes(looker) == ALL
        assert await looker.fetchval("SELECT count(*) FROM migration_steps") == 0
    assert await migrate(dsn) == []


async def test_one_that_was_interrupted_goes_on_where_it_was(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files(monkeypatch, TABLE)
    await migrate(dsn)
    files(monkeypatch, TABLE, INDEXES)
    async with connected(dsn) as connection:
        # Twice the same: the last statement fails and leaves an index behind that is not valid.
        await connection.execute("INSERT INTO whole VALUES (1), (1)")
        with pytest.raises(asyncpg.UniqueViolationError):
            await migrate(dsn)
        assert await indexes(connection) == {**ALL, "whole_n": False}
        assert await connection.fetchval("SELECT array_agg(step ORDER BY step) FROM migration_steps") == [0, 1, 2]
        await connection.execute("DELETE FROM whole")
        assert await migrate(dsn) == [INDEXES.name]
        assert await indexes(connection) == ALL


async def test_who_waits_for_a_lock_lets_others_pass(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files(monkeypatch, TABLE)
    await migrate(dsn)
    files(monkeypatch, TABLE, Migration("0003_more.sql", "ALTER TABLE whole ADD COLUMN more text"))
    async with connected(dsn) as reader, connected(dsn) as looker:
        reading = reader.transaction()
        await reading.start()
        await reader.fetch("SELECT FROM whole")
        migrating = asyncio.create_task(migrate(dsn))
        while not await looker.fetchval(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'scheduler.whole'::regclass)"
        ):
            await asyncio.sleep(0.01)
        # It is in the queue behind the migration, which gives up long before this does.
        await looker.fetch("SELECT FROM whole", timeout=30)
        assert not migrating.done()
        await reading.rollback()
        assert await migrating == ["0003_more.sql"]


async def test_a_text_that_replaces_an_applied_one_is_taken_for_applied(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(monkeypatch, TABLE)
    await migrate(dsn)
    files(monkeypatch, Migration(TABLE.name, f"-- replaces {TABLE.sha256}\nCREATE TABLE another ()"))
    assert await migrate(dsn) == []
    await migration.wait_for_schema(dsn, "scheduler", outbox=True)


async def test_an_older_version_starts_on_a_newer_schema(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = migration.of_service("scheduler", outbox=True)
    files(monkeypatch, *newer, Migration("9999_newer.sql", "CREATE TABLE newer ()"))
    await migrate(dsn)
    files(monkeypatch, *newer)
    assert await migrate(dsn) == []
    async with database.connect(dsn, "scheduler", outbox=True, migrate=False) as pool:
        await pool.ping()


async def test_a_schema_is_waited_for_until_it_has_all_of_this_version(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_of_it = migration.of_service("scheduler", outbox=True)
    waiting = asyncio.create_task(migration.wait_for_schema(dsn, "scheduler", outbox=True))
    files(monkeypatch, *all_of_it[:-1])
    await migrate(dsn)
    monkeypatch.undo()
    assert all_of_it[-1].name in str(await migration._lacking(dsn, "scheduler", outbox=True))
    await migrate(dsn)
    await asyncio.wait_for(waiting, 30)


async def test_history_as_it_was_before_its_lists_gets_their_indexes_beside_its_traffic(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partitions with rows, and a projection that goes on, get the indexes that a new history has."""
    whole = migration.of_service("history", outbox=False)
    # The functions that make months came later, and do not touch what is there.
    files(monkeypatch, *(file for file in whole if not file.name.startswith("0006")))
    async with database.connect(dsn, "history") as pool:
        store = Store(pool)
        await store.keep_partitions()
        await project(store, finished_run()[1])
        over = asyncio.Event()

        async def traffic() -> int:
            count = 0
            while not over.is_set():
                await project(store, finished_run()[1])
                count += 1
            return count

        projecting = asyncio.create_task(traffic())
        monkeypatch.undo()
        assert await migration.migrate(dsn, "history", outbox=False) == ["0006_lists.sql"]
        over.set()
        assert await projecting > 0
        async with connected(dsn) as connection:
            await migration.migrate(dsn, "history", outbox=False, schema="beside")
            assert await definitions(connection, "history") == await definitions(connection, "beside")


async def definitions(connection: DirectConnection, schema: str) -> set[str]:
    rows = await connection.fetch(
        """SELECT relname || ': ' || replace(pg_get_indexdef(indexrelid), $1 || '.', '') AS text
           FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
           WHERE relnamespace = $1::text::regnamespace AND relkind = 'I' AND indisvalid""",
        schema,
    )
    return {row["text"] for row in rows}


# --- the rules of files -------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
BEFORE_THE_RULE = {
    "exporter/0002_cancellations.sql", "exporter/0003_lanes.sql", "exporter/0004_retention.sql",
    "history/0003_partitions.sql", "history/0005_dashboards.sql",
    "job_api/0002_commands.sql", "scheduler/0002_ledger.sql",
}  # fmt: skip
"""Files that no release has applied to tables with rows."""
BREAKS_THE_VERSION_BEFORE = ("DROP COLUMN", "RENAME COLUMN", "RENAME TO", "SET NOT NULL", "ALTER TYPE")
ALLOWED = "-- allowed since"


def faults(name: str, text: str) -> list[str]:
    """What of a file stops the version before, or traffic; `-- allowed since <release>` says why it may."""
    found = Migration(name, text)
    made = {word for word in text.replace("(", " ").split() if f"CREATE TABLE {word}" in text}
    faults: list[str] = []
    for statement in found.steps or text.split(";"):
        where = text.find(statement)
        if any(words in statement for words in BREAKS_THE_VERSION_BEFORE):
            is_index = statement.lstrip().startswith("ALTER INDEX")
            if not is_index and ALLOWED not in statement and ALLOWED not in text[:where].rpartition(";")[2]:
                faults.append(f"{name}: the version before fails with {' '.join(statement.split())[:60]}")
        if "CREATE INDEX" in statement or "CREATE UNIQUE INDEX" in statement:
            table = statement.partition(" ON ")[2].split()[0]
            if not found.steps and table not in made:
                faults.append(f"{name}: an index of {table} is built while nobody may write: use -- concurrently")
    return faults


def test_migrations_let_the_version_before_and_its_traffic_go_on() -> None:
    texts = {
        f"{path.parents[1].name}/{path.name}": path.read_text()
        for path in [*ROOT.glob("services/*/migrations/*.sql"), *ROOT.glob("shared/migrations/*.sql")]
    }
    assert set(texts) >= BEFORE_THE_RULE
    assert [fault for name, text in texts.items() if name not in BEFORE_THE_RULE for fault in faults(name, text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "ALTER TABLE jobs DROP COLUMN title;",
        "ALTER TABLE jobs ALTER title SET NOT NULL;",
        "ALTER TABLE jobs RENAME TO work;",
        "CREATE INDEX jobs_title ON jobs (title);",
    ],
)
def test_the_rule_finds_what_it_is_for(text: str) -> None:
    assert faults("0009_x.sql", text)
    assert not faults("0009_x.sql", f"{ALLOWED} 1.2, which reads it no more\n{text}") or "INDEX" in text
    assert not faults("0009_x.sql", f"CREATE TABLE jobs (title text);\n{text}") or "ALTER" in text
