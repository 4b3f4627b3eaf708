"""PostgreSQL: the pool, its two roles, forward-only migrations, and what counts as an outage.

Every service owns one schema. Migrations run as the login role; everything else runs as `<schema>_worker`, which sees
all tenants, or, for one transaction at an HTTP edge, as `<schema>_tenant`, which sees one. Neither owns anything, so
row-level security binds both.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from importlib import resources
from typing import Final, TypeAlias, TypeVar

import asyncpg
import orjson

from shared.observability import log

T = TypeVar("T")
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
DirectConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

_OUTAGES: Final = (
    OSError,  # TimeoutError and the refusals to connect among them
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,  # "connection is closed" has no class of its own
    asyncpg.InternalClientError,  # an idle connection says so between the server's farewell and its end
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
)


def is_outage(error: BaseException) -> bool:
    """Whether `error` is a fault of PostgreSQL or the way to it, so that trying again later can help."""
    # An argument that fits no column is an InterfaceError too; asyncpg makes those, and only those, ValueErrors.
    return isinstance(error, _OUTAGES) and not isinstance(error, ValueError)


async def outlast(call: Callable[[], Awaitable[T]], patience: timedelta) -> T:
    """Repeat `call` through an outage of at most `patience`, pausing 0.1 s, 0.2 s … 5 s; then raise what it raised."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience.total_seconds()
    pause = 0.1
    while True:
        try:
            return await call()
        except Exception as error:
            if not is_outage(error) or loop.time() > deadline:
                raise
            log.warning("waiting for PostgreSQL", error=repr(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)


class MigrationChanged(Exception):
    """An applied migration file was edited; write a new one instead."""


class Database:
    """A pool bound to one service's schema."""

    def __init__(self, pool: Pool, schema: str) -> None:
        self._pool = pool
        self.schema = schema
        self.committed = asyncio.Event()
        """Set after every commit of this process, so that the outbox relay need not wait for its next look."""

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Connection]:
        """One connection for as long as the caller needs it, outside any transaction."""
        async with self._pool.acquire() as connection:
            yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        """One transaction over all tenants, for loops and consumers."""
        async with self._pool.acquire() as connection:
            async with connection.transaction():
                yield connection
            self.committed.set()

    @asynccontextmanager
    async def tenant(self, tenant: str) -> AsyncGenerator[Connection]:
        """One transaction that sees and writes only `tenant`'s rows, for HTTP edges."""
        async with self.transaction() as connection:
            # Both settings are local: they end with the transaction, whatever happens to the connection.
            await connection.execute(
                "SELECT set_config('role', $1, true), set_config('cdds.tenant', $2, true)",
                f"{self.schema}_tenant",
                tenant,
            )
            yield connection

    async def ping(self) -> None:
        """Raise one of `OUTAGES` unless PostgreSQL answers."""
        await self._pool.fetchval("SELECT 1", timeout=5)


async def database_now(connection: Connection) -> datetime:
    """The start of the current transaction by the database's clock, the one clock that replicas share."""
    now: datetime = await connection.fetchval("SELECT now()")
    return now


async def _prepare(connection: DirectConnection) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name, schema="pg_catalog", encoder=_to_json, decoder=orjson.loads, format="text"
        )


def _to_json(value: object) -> str:
    return orjson.dumps(value).decode()


@asynccontextmanager
async def connect(dsn: str, service: str, *, outbox: bool = False, connections: int = 10) -> AsyncGenerator[Database]:
    """Migrate the schema of `service` and open its pool, of at most `connections`, in the worker role."""
    await migrate(dsn, service, outbox=outbox)
    async with asyncpg.create_pool(
        dsn,
        min_size=1,
        max_size=connections,
        command_timeout=60,
        init=_prepare,
        server_settings={
            "application_name": f"cdds-{service}",
            "role": f"{service}_worker",
            "search_path": service,
            "timezone": "UTC",
            # Transactions take milliseconds; one of a process that was frozen inside must not keep its locks.
            "idle_in_transaction_session_timeout": "30s",
        },
    ) as pool:
        yield Database(pool, service)


async def migrate(dsn: str, service: str, *, outbox: bool, schema: str | None = None) -> None:
    """Apply `services/<service>/migrations/NNNN_*.sql` that are new, one transaction each, one replica at a time.

    With `outbox` the schema gets `shared.outbox`'s table first. It is called as the service unless `schema` is given,
    for tables beside the live ones; the roles are the service's. Raises MigrationChanged when an applied file differs.
    """
    schema = schema or service
    connection = await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})
    try:
        # One lock for all services: they share the cluster-wide roles that the bookkeeping makes.
        await connection.execute("SELECT pg_advisory_lock(hashtext('cdds.migrate'))")
        await _bookkeeping(connection, service, schema)
        applied = {row["name"]: row["sha256"] for row in await connection.fetch(f"TABLE {schema}.applied_migrations")}
        for name, text in _migrations(service, outbox=outbox):
            sha256 = _sha256(text)
            if name not in applied:
                await _apply(connection, schema, name, text, sha256)
            elif applied[name] != sha256:
                raise MigrationChanged(f"{schema}: migration {name} was changed after it was applied")
    finally:
        await connection.close()


def fingerprints(service: str, *, outbox: bool) -> dict[str, str]:
    """The names of the migrations of `service`, and what each is recognised by where it was applied."""
    return {name: _sha256(text) for name, text in _migrations(service, outbox=outbox)}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _migrations(service: str, *, outbox: bool) -> Iterator[tuple[str, str]]:
    folders = [resources.files("shared.migrations")] if outbox else []
    for folder in [*folders, resources.files(f"services.{service}").joinpath("migrations")]:
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if file.name.endswith(".sql"):
                yield file.name, file.read_text(encoding="utf-8")


async def _apply(connection: DirectConnection, schema: str, name: str, text: str, sha256: str) -> None:
    async with connection.transaction():
        await connection.execute(f"SET LOCAL search_path = {schema}")
        await connection.execute(text)
        await connection.execute(
            f"INSERT INTO {schema}.applied_migrations (name, sha256) VALUES ($1, $2)", name, sha256
        )
    log.info("migration applied", schema=schema, migration=name)


async def _bookkeeping(connection: DirectConnection, service: str, schema: str) -> None:
    await connection.execute(f"""
        DO $$
        DECLARE
          name text;
        BEGIN
          FOREACH name IN ARRAY ARRAY['{service}_worker', '{service}_tenant'] LOOP
            BEGIN
              EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;  -- another database made it
            END;
            EXECUTE format('GRANT %I TO CURRENT_USER', name);
          END LOOP;
        END $$;
        CREATE SCHEMA IF NOT EXISTS {schema};
        GRANT USAGE ON SCHEMA {schema} TO {service}_worker, {service}_tenant;
        CREATE TABLE IF NOT EXISTS {schema}.applied_migrations (
          name text PRIMARY KEY,
          sha256 text NOT NULL,
          applied_at timestamptz NOT NULL DEFAULT now()
        );
    """)
