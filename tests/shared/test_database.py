"""Migrations, roles and row-level security, on the schemas of all services."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from shared import database, migration
from shared.database import Database, is_outage, outlast
from shared.migration import Migration, MigrationChanged
from tests.conftest import PUBLISHES, DatabaseOf, fresh_database

each_service = pytest.mark.parametrize("service", PUBLISHES)


@pytest.fixture
async def dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    async with fresh_database(postgres) as address:
        yield address


async def applied(dsn: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch("SELECT * FROM scheduler.applied_migrations ORDER BY applied_at")
    finally:
        await connection.close()


async def test_migrations_are_applied_once_however_many_replicas_start_together(dsn: str) -> None:
    await asyncio.gather(*(migration.migrate(dsn, "scheduler", outbox=True) for _ in range(4)))
    first = await applied(dsn)
    assert [row["name"] for row in first] == [file.name for file in migration.of_service("scheduler", outbox=True)]
    await migration.migrate(dsn, "scheduler", outbox=True)
    assert await applied(dsn) == first


async def test_services_that_start_together_on_one_database_do_not_disturb_each_other(dsn: str) -> None:
    await asyncio.gather(*(migration.migrate(dsn, name, outbox=outbox) for name, outbox in PUBLISHES.items()))


async def test_services_that_start_together_on_databases_of_one_server_do_not_disturb_each_other(
    postgres: EmbeddedPostgres,
) -> None:
    async with fresh_database(postgres) as one, fresh_database(postgres) as two, fresh_database(postgres) as three:
        await asyncio.gather(
            *(
                migration.migrate(dsn, name, outbox=outbox)
                for dsn in (one, two, three)
                for name, outbox in PUBLISHES.items()
            )
        )


async def test_a_schema_beside_the_live_one_gets_the_same_migrations_and_the_roles_of_the_service(dsn: str) -> None:
    await migration.migrate(dsn, "history", outbox=False, schema="beside")
    async with database.connect(dsn, "history") as pool, pool.transaction() as connection:
        names = "SELECT array_agg(name ORDER BY name) FROM {}.applied_migrations"
        assert await connection.fetchval(names.format("beside")) == await connection.fetchval(names.format("history"))
        assert await connection.fetchval("SELECT count(*) FROM beside.events") == 0


async def test_an_applied_migration_that_was_changed_is_refused_by_name(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migration.migrate(dsn, "scheduler", outbox=True)
    files = migration.of_service("scheduler", outbox=True)
    edited = [Migration(f.name, f.text + ("-- edited" if f.name.startswith("0001") else "")) for f in files]
    monkeypatch.setattr(migration, "of_service", lambda *_, **__: edited)
    with pytest.raises(MigrationChanged, match=r"scheduler: migration 0001_\w+\.sql was changed"):
        await migration.migrate(dsn, "scheduler", outbox=True)


async def test_a_migration_that_fails_leaves_nothing_behind(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        migration,
        "of_service",
        lambda *_, **__: [Migration("0001_broken.sql", "CREATE TABLE left_over (); SELECT 1 / 0")],
    )
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migration.migrate(dsn, "scheduler", outbox=True)
    assert await applied(dsn) == []
    connection = await asyncpg.connect(dsn)
    try:
        assert await connection.fetchval("SELECT to_regclass('scheduler.left_over')") is None
    finally:
        await connection.close()


# --- row-level security -------------------------------------------------------------------------------------------


NOBODYS = {"applied_migrations", "migration_steps", "sweeps", "replays", "rebuilds"}
"""Tables that hold nothing of any tenant's: what was migrated, when the object store is looked through, rebuilds."""


@each_service
async def test_every_table_with_a_tenant_is_guarded_even_against_its_owner(
    database_of: DatabaseOf, service: str
) -> None:
    pool = await database_of(service)
    async with pool.session() as connection:
        tables = await connection.fetch(
            """SELECT relname, relrowsecurity, relforcerowsecurity, EXISTS (
                        SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'tenant' AND NOT attisdropped
                      ) AS has_tenant,
                      (SELECT array_agg(DISTINCT role::regrole::text) FROM pg_policy, unnest(polroles) AS role
                       WHERE polrelid = c.oid) AS roles
               FROM pg_class c WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'p')""",
            service,
        )
    assert tables
    for table in tables:
        if table["has_tenant"]:
            assert table["relrowsecurity"], table["relname"]
            assert table["relforcerowsecurity"], table["relname"]
            assert f"{service}_worker" in table["roles"], table["relname"]
            known = {f"{service}_{role}" for role in ("worker", "tenant", "dashboards")}
            assert set(table["roles"]) <= known, table["relname"]
        else:
            assert table["relname"] in NOBODYS


@each_service
async def test_views_show_what_the_asker_may_see_and_not_what_their_owner_may(
    database_of: DatabaseOf, service: str
) -> None:
    pool = await database_of(service)
    async with pool.session() as connection:
        careless = await connection.fetch(
            """SELECT relname FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind IN ('v', 'm')
                 AND NOT coalesce('security_invoker=true' = ANY(reloptions), false)""",
            service,
        )
    assert careless == []


@each_service
async def test_the_roles_of_a_service_own_nothing_and_may_not_pass_by_row_level_security(
    database_of: DatabaseOf, service: str
) -> None:
    pool = await database_of(service)
    async with pool.session() as connection:
        roles = await connection.fetch(
            """SELECT rolname, rolsuper OR rolbypassrls OR rolcreaterole OR rolcanlogin AS mighty,
                      EXISTS (SELECT FROM pg_class WHERE relowner = r.oid)
                      OR EXISTS (SELECT FROM pg_namespace WHERE nspowner = r.oid) AS owns
               FROM pg_roles r WHERE rolname = ANY($1)""",
            [f"{service}_worker", f"{service}_tenant"],
        )
    assert len(roles) == 2
    assert not any(role["mighty"] or role["owns"] for role in roles)


async def tenants_seen(connection: Any) -> set[str]:
    return {row["tenant"] for row in await connection.fetch("SELECT tenant FROM certificates")}


async def add_certificate(connection: Any, tenant: str) -> None:
    await connection.execute(
        """INSERT INTO certificates (tenant, fingerprint, pem, subject, not_before, not_after, added_by)
           VALUES ($1, 'f', '', '', now(), now(), 'test')""",
        tenant,
    )


@pytest.fixture
async def pool(database_of: DatabaseOf) -> Database:
    """A database with a row of each of two tenants."""
    made = await database_of("job_api")
    async with made.transaction() as connection:
        for tenant in ("acme", "globex"):
            await add_certificate(connection, tenant)
    return made


async def test_a_tenant_sees_and_writes_its_own_rows_and_no_others(pool: Database) -> None:
    async with pool.tenant("acme") as connection:
        assert await tenants_seen(connection) == {"acme"}
    async with pool.transaction() as connection:
        assert await tenants_seen(connection) == {"acme", "globex"}

    async def write_for_another() -> None:
        async with pool.tenant("acme") as connection:
            await add_certificate(connection, "initech")

    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await write_for_another()


async def test_without_a_tenant_the_tenants_role_sees_nothing(pool: Database) -> None:
    async with pool.transaction() as connection:
        await connection.execute("SELECT set_config('role', 'job_api_tenant', true)")
        assert await tenants_seen(connection) == set()


@pytest.mark.parametrize("failing", [False, True], ids=["committed", "rolled back"])
async def test_neither_role_nor_tenant_leaks_to_the_next_user_of_the_connection(pool: Database, failing: bool) -> None:
    async def state(connection: Any) -> tuple[int, str, str]:
        row = await connection.fetchrow(
            "SELECT pg_backend_pid(), current_user, coalesce(current_setting('cdds.tenant', true), '')"
        )
        return tuple(row)

    async with pool.session() as connection:
        before = await state(connection)
    try:
        async with pool.tenant("acme") as connection:
            assert await state(connection) == (before[0], "job_api_tenant", "acme")
            if failing:
                await connection.execute("SELECT 1 / 0")
    except asyncpg.DivisionByZeroError:
        pass
    async with pool.session() as connection:
        # The very same connection: it was the only one.
        assert await state(connection) == before == (before[0], "job_api_worker", "")


# --- outages ------------------------------------------------------------------------------------------------------


async def test_a_killed_connection_and_a_refused_one_are_outages(pool: Database) -> None:
    async def killed() -> None:
        async with pool.transaction() as connection:
            await connection.execute("SET ROLE NONE")  # only the login role may end connections
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(Exception) as lost:  # noqa: PT011 - which of asyncpg's it is does not matter
        await killed()
    assert is_outage(lost.value)
    with pytest.raises(OSError) as refused:  # noqa: PT011
        await asyncpg.connect("postgresql://nobody@127.0.0.1:1/nothing", timeout=5)
    assert is_outage(refused.value)


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [
        pytest.param("SELECT $1::integer", [2**40], id="a number too large for its column"),
        pytest.param("SELECT $1::integer", ["x"], id="text for a number"),
        pytest.param("SELECT $1::uuid", ["x"], id="no uuid"),
        pytest.param("SELECT $1::text", ["a\0b"], id="a NUL character"),
        pytest.param("SELECT $1::text", ["\ud800"], id="a lone surrogate"),
        pytest.param("SELECT 1 / $1::integer", [0], id="division by zero"),
        pytest.param("SELECT missing", [], id="no such column"),
    ],
)
async def test_a_fault_of_ours_is_not_taken_for_an_outage(pool: Database, statement: str, arguments: list[Any]) -> None:
    async with pool.session() as connection:
        with pytest.raises(Exception) as failed:  # noqa: PT011
            await connection.fetchval(statement, *arguments)
    assert not is_outage(failed.value), failed.value


async def test_an_outage_is_outlasted_and_anything_else_is_raised_at_once() -> None:
    outages: list[Exception] = [ConnectionResetError(), asyncpg.AdminShutdownError("stopping")]

    async def call() -> str:
        if outages:
            raise outages.pop()
        return "answer"

    assert await outlast(call, timedelta(seconds=20)) == "answer"
    outages[:] = [ValueError("ours")]
    with pytest.raises(ValueError, match="ours"):
        await outlast(call, timedelta(seconds=20))
    outages[:] = [ConnectionResetError(), ConnectionResetError("again")]
    with pytest.raises(ConnectionResetError, match="again"):
        await outlast(call, timedelta(seconds=-1))
