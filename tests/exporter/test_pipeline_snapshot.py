"""What others do to a table while an export waits for its lock: no row is lost to a snapshot that came too early."""

import json
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.exporter.pipeline.errors import Cancelled, FieldUnknown
from services.exporter.pipeline.extract import Extraction, Query
from tests.conftest import fresh_database
from tests.exporter.queries import query, records

ROWS = "SELECT i AS id, timestamptz '2026-01-01' AS at, 't1' AS tenant FROM generate_series(1, 9) i"
TABLES = (
    f"CREATE TABLE plain AS {ROWS}",
    "CREATE VIEW seen AS SELECT * FROM plain",
    "CREATE TABLE parted (id int, at timestamptz, tenant text) PARTITION BY RANGE (id)",
    "CREATE TABLE first PARTITION OF parted FOR VALUES FROM (0) TO (5)",
    "CREATE TABLE second PARTITION OF parted FOR VALUES FROM (5) TO (10)",
    f"INSERT INTO parted {ROWS}",
)
LOADED_AGAIN = ("CREATE TEMP TABLE kept ON COMMIT DROP AS TABLE {0}", "TRUNCATE {0}", "INSERT INTO {0} TABLE kept")
REPLACED = ("CREATE TABLE new AS TABLE {0}", "DROP TABLE {0}", "ALTER TABLE new RENAME TO {0}")
RETYPED = ("ALTER TABLE {0} ALTER at TYPE timestamptz(3)",)
CASES = [
    pytest.param(RETYPED, "parted", {}, id="retyped"),
    pytest.param(LOADED_AGAIN, "plain", {}, id="loaded-again"),
    pytest.param(LOADED_AGAIN, "plain", {"table": "seen"}, id="loaded-again-below-a-view"),
    pytest.param(LOADED_AGAIN, "plain", {"type_query": "SELECT * FROM seen"}, id="loaded-again-below-a-query"),
    pytest.param(LOADED_AGAIN, "second", {"table": "parted"}, id="loaded-again-in-a-partition"),
    pytest.param(REPLACED, "parted", {}, id="replaced"),
    pytest.param(REPLACED, "parted", {"type_query": "SELECT * FROM parted"}, id="replaced-below-a-query"),
]


@pytest.fixture
async def dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    async with fresh_database(postgres) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for statement in TABLES:
                connection.execute(statement)
        yield dsn


def read(question: Query) -> list[int]:
    with Extraction(question) as source:
        return sorted(json.loads(line)["id"] for line in records(source))


def somebody_waits(dsn: str) -> None:
    """Return once a session waits for the lock of a table."""
    waiting = "SELECT FROM pg_locks WHERE locktype = 'relation' AND NOT granted"
    with psycopg.connect(dsn, autocommit=True) as connection:
        while not connection.execute(waiting).fetchall():
            connection.execute("SELECT pg_sleep(0.02)")


@pytest.mark.parametrize(("changes", "changed", "asked"), CASES)
def test_a_table_that_was_rewritten_while_the_export_waited_for_it_is_read_whole(
    dsn: str, changes: Sequence[str], changed: str, asked: dict[str, str]
) -> None:
    question = query(dsn, **{"table": changed, **asked})
    with ThreadPoolExecutor(1) as threads:
        with psycopg.connect(dsn) as somebody:
            for change in changes:
                somebody.execute(change.format(changed))  # pyright: ignore[reportArgumentType]
            reading = threads.submit(read, question)
            somebody_waits(dsn)
        assert reading.result(60) == list(range(1, 10))


def test_a_column_that_was_dropped_while_the_export_waited_for_it_is_missed(dsn: str) -> None:
    question = query(dsn, "plain", fields=["id", "tenant"], tenant_column=None, tenant="t1")
    with ThreadPoolExecutor(1) as threads:
        with psycopg.connect(dsn) as somebody:
            somebody.execute("ALTER TABLE plain DROP COLUMN tenant CASCADE")
            # As everything that replaces the table's files it makes the export look again.
            somebody.execute("ALTER TABLE plain ALTER id TYPE bigint")
            reading = threads.submit(read, question)
            somebody_waits(dsn)
        with pytest.raises(FieldUnknown, match="tenant"):
            reading.result(60)


@pytest.mark.parametrize("asked", [{}, {"type_query": "SELECT * FROM plain"}])
def test_an_export_that_waits_for_a_lock_is_cancelled_before_it_has_begun(dsn: str, asked: dict[str, str]) -> None:
    question = query(dsn, "plain", statement_timeout=timedelta(seconds=60), **asked)
    source = Extraction(question)

    def enter() -> None:
        with source:
            raise AssertionError("it was not to begin")

    with ThreadPoolExecutor(1) as threads, psycopg.connect(dsn) as somebody:
        somebody.execute("LOCK TABLE plain")
        entering = threads.submit(enter)
        somebody_waits(dsn)
        over = threading.Event()
        entering.add_done_callback(lambda _: over.set())
        while not over.wait(0.05):
            source.cancel()
        with pytest.raises(Cancelled):
            entering.result()
