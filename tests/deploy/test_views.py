"""What the role of dashboards can read, and that it can do nothing else."""

import re
from collections.abc import AsyncIterator
from importlib import resources

import asyncpg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from shared.database import DirectConnection
from tests.conftest import fresh_database

VIEWS = {
    "dashboard_artifacts", "dashboard_executions", "dashboard_progress", "dashboard_slots_not_run",
    "dashboard_statistics",
}  # fmt: skip


async def test_it_reads_all_tenants_and_only_what_history_shows(grafana: DirectConnection) -> None:
    rows = await grafana.fetch(
        "SELECT tenant, state, count(*) FROM dashboard_executions GROUP BY tenant, state ORDER BY tenant, state"
    )
    of_each = [("cancelled", 1), ("failed", 1), ("queued", 1), ("running", 2), ("succeeded", 2)]
    assert [tuple(row) for row in rows] == [(tenant, *each) for tenant in ("t1", "t2") for each in of_each]
    files = await grafana.fetch("SELECT tenant, deletion_reason FROM dashboard_artifacts ORDER BY 1, 2")
    assert [tuple(row) for row in files] == [(t, why) for t in ("t1", "t2") for why in ("expired", None, None, None)]


async def test_current_executions_tell_how_far_their_current_attempt_is(grafana: DirectConnection) -> None:
    rows = await grafana.fetch(
        "SELECT state, attempt, rows, total, percent FROM dashboard_progress WHERE tenant = 't1'"
    )
    assert sorted(map(tuple, rows), key=str) == [
        ("queued", 0, None, None, None),
        ("running", 2, 1, 10, 10.0),
        ("running", 2, None, None, None),
    ]


async def test_durations_waits_and_slots_are_in_their_units(grafana: DirectConnection) -> None:
    row = await grafana.fetchrow(
        """SELECT started_at - requested_at = wait_seconds * interval '1 s' AS wait,
                  finished_at - started_at = duration_seconds * interval '1 s' AS duration, wait_seconds, reason
           FROM dashboard_executions WHERE state = 'failed' AND tenant = 't1'"""
    )
    assert row is not None
    assert dict(row) == {"wait": True, "duration": True, "wait_seconds": 2.0, "reason": "source_refused"}
    slots = await grafana.fetch("SELECT outcome, sum(count) FROM dashboard_slots_not_run GROUP BY 1 ORDER BY 1")
    assert [tuple(slot) for slot in slots] == [("missed", 14), ("skipped", 4)]
    days = await grafana.fetch(
        "SELECT succeeded, failed, cancelled, rows FROM dashboard_statistics ORDER BY day, tenant"
    )
    assert [tuple(day) for day in days] == [(1, 1, 1, 10)] * 2 + [(1, 0, 0, 10)] * 2


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT body FROM events",
        "SELECT count(*) FROM events",
        "SELECT settings FROM job_versions",
        "SELECT labels FROM job_versions",
        "SELECT question FROM executions",
        "SELECT * FROM executions",
        "SELECT worker FROM executions",
        "SELECT cancelled_by FROM executions",
        "SELECT sha256 FROM artifacts",
        "SELECT deleted_by FROM artifacts",
        "SELECT * FROM slots_waiting",
        "SELECT * FROM applied_migrations",
        "SELECT nextval('positions')",
    ],
)
async def test_it_can_not_read_what_is_in_no_view(grafana: DirectConnection, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await grafana.fetch(statement)


async def test_the_columns_it_can_read_are_those_of_the_views(operator: DirectConnection) -> None:
    async def columns(condition: str) -> set[tuple[str, str]]:
        rows = await operator.fetch(
            f"""SELECT relname, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
                WHERE relnamespace = 'history'::regnamespace AND attnum > 0 AND NOT attisdropped
                  AND relkind IN ('r', 'p', 'v') AND {condition}"""
        )
        return {(row["relname"], row["attname"]) for row in rows}

    readable = await columns("has_column_privilege('history_dashboards', pg_class.oid, attnum, 'SELECT')")
    in_views = await columns("relkind = 'v' AND relname LIKE 'dashboard%'")
    assert {relation for relation, _ in in_views} == VIEWS
    assert {each for each in readable if each[0] in VIEWS} == in_views
    shown = {
        (view.removeprefix("dashboard_"), {"told_at": "occurred_at"}.get(column, column))
        for view, column in in_views
        if column != "wait_seconds"
    }
    # The view of what is current joins two tables.
    assert readable - in_views - shown == set()


@pytest.mark.parametrize(
    "statement",
    [
        *(f"DELETE FROM {view}" for view in sorted(VIEWS)),
        "INSERT INTO dashboard_statistics (day, tenant, source, type) VALUES ('2026-01-01', 't1', 'ucs', 'x')",
        "UPDATE dashboard_executions SET state = 'failed'",
        "UPDATE executions SET title = 'x'",
        "INSERT INTO events (occurred_at, event_id, tenant, type, body) VALUES (now(), gen_random_uuid(), '', '', '1')",
        "TRUNCATE statistics",
        "CREATE TABLE history.mine (id int)",
        "DROP VIEW dashboard_executions",
        "SET ROLE history_worker",
    ],
)
async def test_it_can_not_write_even_if_it_asks_for_a_writable_transaction(
    grafana: DirectConnection, statement: str
) -> None:
    await grafana.execute("SET default_transaction_read_only = off")
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ObjectNotInPrerequisiteStateError)):
        await grafana.execute(statement)


async def test_it_has_no_right_to_change_anything_in_the_schema(operator: DirectConnection) -> None:
    rights = "INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"
    rows = await operator.fetch(
        f"""SELECT relname FROM pg_class
            WHERE relnamespace = 'history'::regnamespace AND relkind IN ('r', 'p', 'v')
              AND (has_table_privilege('history_dashboards', oid, '{rights}')
                   OR has_any_column_privilege('history_dashboards', oid, 'INSERT, UPDATE, REFERENCES'))"""
    )
    assert rows == []
    assert not await operator.fetchval("SELECT has_schema_privilege('history_dashboards', 'history', 'CREATE')")


async def test_views_run_with_the_rights_of_whoever_asks_and_are_documented(operator: DirectConnection) -> None:
    rows = await operator.fetch(
        """SELECT relname, reloptions, obj_description(oid, 'pg_class') AS says, attname,
                  col_description(oid, attnum) AS column_says
           FROM pg_class JOIN pg_attribute ON attrelid = oid AND attnum > 0
           WHERE relnamespace = 'history'::regnamespace AND relkind = 'v' AND relname LIKE 'dashboard%'"""
    )
    assert {row["relname"] for row in rows} == VIEWS
    for row in rows:
        assert row["reloptions"] == ["security_invoker=true"]
        assert row["says"]
        if re.search(r"seconds$|bytes$|percent$|total$", row["attname"]):
            assert row["column_says"], (row["relname"], row["attname"])


@pytest.fixture
async def two_schemas(postgres: EmbeddedPostgres, templates: dict[str, str]) -> AsyncIterator[DirectConnection]:
    """A database with history's schema, and a second one of the same migrations beside it."""
    async with fresh_database(postgres, templates["history"]) as dsn:
        connection = await asyncpg.connect(dsn)
        try:
            async with connection.transaction():
                await connection.execute("CREATE SCHEMA history_shadow; SET LOCAL search_path = history_shadow")
                migrations = resources.files("services.history").joinpath("migrations")
                for file in sorted(migrations.iterdir(), key=lambda file: file.name):
                    await connection.execute(file.read_text(encoding="utf-8"))
            yield connection
        finally:
            await connection.close()


async def test_a_schema_that_takes_the_place_of_history_has_views_of_its_own(two_schemas: DirectConnection) -> None:
    await two_schemas.execute(
        """CREATE TABLE history_shadow.statistics_all PARTITION OF history_shadow.statistics DEFAULT;
           INSERT INTO history_shadow.statistics (day, tenant, source, type) VALUES ('2026-01-01', 't1', 'new', 'x')"""
    )
    ask = "SET ROLE history_dashboards; SET search_path = history"
    await two_schemas.execute(ask)
    assert await two_schemas.fetch("SELECT source FROM dashboard_statistics") == []
    await two_schemas.execute(
        """RESET ROLE; ALTER SCHEMA history RENAME TO history_replaced; ALTER SCHEMA history_shadow RENAME TO history;
           DROP SCHEMA history_replaced CASCADE"""
    )
    await two_schemas.execute(ask)
    assert await two_schemas.fetchval("SELECT source FROM dashboard_statistics") == "new"
    await two_schemas.execute("RESET ROLE")
