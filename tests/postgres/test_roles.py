"""What the logins of deploy/postgres may, and what they may not."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from cli.installation import STATEFUL
from shared import migration
from shared.database import DirectConnection
from tests.postgres.server import ROLES, SOURCE, SecureServer

each_service = pytest.mark.parametrize("service", STATEFUL)
MAKER = {"job_api": "jobs", "scheduler": "slots", "exporter": "runs", "history": "executions"}


@asynccontextmanager
async def logged_in(server: SecureServer, login: str) -> AsyncGenerator[DirectConnection]:
    connection = await asyncpg.connect(server.dsn_of(login))
    try:
        yield connection
    finally:
        await connection.close()


@each_service
async def test_a_login_works_as_its_own_two_roles_and_as_no_other(migrated: SecureServer, service: str) -> None:
    async with logged_in(migrated, f"{service}_login") as connection:
        for role in ("worker", "tenant"):
            await connection.execute(f"SET ROLE {service}_{role}")
            await connection.fetch(f"SELECT count(*) FROM {service}.{MAKER[service]}") if role == "worker" else None
            await connection.execute("RESET ROLE")
        others = {f"{other}_{role}" for other in STATEFUL for role in ("worker", "tenant", "owner", "login")}
        mine = {f"{service}_{role}" for role in ("worker", "tenant", "login")}
        for role in [*sorted(others - mine), "postgres", "history_dashboards", "dashboards_login"]:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied to set role"):
                await connection.execute(f"SET ROLE {role}")


@each_service
async def test_a_login_reads_no_other_schema_and_nothing_without_becoming_its_role(
    migrated: SecureServer, service: str
) -> None:
    async with logged_in(migrated, f"{service}_login") as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch(f"SELECT FROM {service}.{MAKER[service]}")
        await connection.execute(f"SET ROLE {service}_worker")
        for other in set(STATEFUL) - {service}:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match=f"permission denied for schema {other}"):
                await connection.fetch(f"SELECT FROM {other}.{MAKER[other]}")


@each_service
async def test_a_login_can_not_change_what_tables_are(migrated: SecureServer, service: str) -> None:
    table = f"{service}.{MAKER[service]}"
    async with logged_in(migrated, f"{service}_login") as connection:
        for role in (f"{service}_login", f"{service}_worker", f"{service}_tenant"):
            await connection.execute(f"SET ROLE {role}")
            for statement in (
                f"ALTER TABLE {table} ADD COLUMN more text", f"DROP TABLE {table}", f"TRUNCATE {table}",
                f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY", f"DROP SCHEMA {service} CASCADE",
                f"CREATE TABLE {service}.own ()", "CREATE TABLE public.own ()", "CREATE SCHEMA own",
                "CREATE TEMPORARY TABLE own ()", "CREATE ROLE own",
                f"DELETE FROM {service}.applied_migrations",
            ):  # fmt: skip
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)


async def test_months_of_history_are_made_and_dropped_by_its_worker_only_as_they_may(migrated: SecureServer) -> None:
    async with logged_in(migrated, "history_login") as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SELECT history.make_month('history', 'executions', '2031-01-01')")
        await connection.execute("SET ROLE history_worker")
        await connection.execute("SET search_path = history")
        await connection.execute("SELECT make_month('history', 'executions', '2001-01-01')")
        await connection.execute("SELECT drop_month('history', 'executions', '2001-01-01')")
        for schema, table, month in (
            ("history", "executions", "2031-01-01"), ("history", "job_versions", "2001-01-01"),
            ("scheduler", "executions", "2001-01-01"), ("history", "executions", "2001-01-02"),
        ):  # fmt: skip
            with pytest.raises(asyncpg.RaiseError):
                await connection.execute(f"SELECT drop_month('{schema}', '{table}', '{month}')")
        with pytest.raises(asyncpg.RaiseError):
            await connection.execute("SELECT make_month('scheduler', 'slots', '2001-01-01')")


async def test_dashboards_read_the_views_of_history_and_nothing_else(migrated: SecureServer) -> None:
    async with logged_in(migrated, "dashboards_login") as connection:
        await connection.fetch("SELECT * FROM history.dashboard_executions")
        for forbidden in ("history.events", "history.job_versions", "exporter.runs", "job_api.certificates"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(f"SELECT FROM {forbidden}")


async def test_a_reader_of_a_source_reads_what_is_named_and_changes_nothing(server: SecureServer) -> None:
    administrator = await asyncpg.connect(server.dsn)
    await administrator.execute('CREATE SCHEMA "Calls"; CREATE TABLE "Calls".rows (); CREATE TABLE "Calls".secret ()')
    for _ in range(2):
        await server.psql(SOURCE, "-v", "reader=reader", "-v", 'tables="Calls".rows')
    async with logged_in(server, "reader") as connection:
        await connection.fetch('SELECT FROM "Calls".rows')
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch('SELECT FROM "Calls".secret')
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute('DELETE FROM "Calls".rows')
    await administrator.close()


async def test_roles_may_be_made_again_and_unknown_services_are_refused(migrated: SecureServer) -> None:
    await migrated.psql(ROLES)
    code, said = await migrated.try_psql(ROLES, "-v", "services=history,hsitory")
    assert code == 3
    assert "services: write some of" in said


async def test_an_administrator_who_is_no_superuser_hands_over_what_the_services_owned_themselves(
    migrated: SecureServer,
) -> None:
    """A database of one login that owned everything; the roles are the server's and exist already."""

    async def administer(*statements: str, database: str = "cdds") -> None:
        connection = await asyncpg.connect(migrated.postgres.dsn(database))
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    await administer(
        "CREATE ROLE old LOGIN CREATEROLE",
        "CREATE DATABASE before OWNER old",
        # What one has who made the roles.
        "GRANT scheduler_worker, scheduler_tenant, scheduler_owner, scheduler_login TO old WITH ADMIN OPTION",
    )
    try:
        old, owner = (migrated.dsn_of(login).replace("/cdds", "/before", 1) for login in ("old", "scheduler_owner"))
        await migration.migrate(old, "scheduler", outbox=True)
        if not migrated.tls:
            await migrated.psql(ROLES, "-v", "services=scheduler", user="old", database="before")
        else:
            await migrated.psql(ROLES, "-v", "services=scheduler", database="before")
        assert await migration.migrate(owner, "scheduler", outbox=True) == []
        connection = await asyncpg.connect(migrated.postgres.dsn("before"))
        owners = await connection.fetch(
            """SELECT DISTINCT pg_get_userbyid(relowner) AS name FROM pg_class
               WHERE relnamespace = 'scheduler'::regnamespace"""
        )
        await connection.close()
        assert [row["name"] for row in owners] == ["scheduler_owner"]
    finally:
        await migrated.postgres.drop_database("before")
        await administer("DROP OWNED BY old", "DROP ROLE old")
