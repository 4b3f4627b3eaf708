"""PostgreSQL: the pool, its two roles, and what counts as an outage.

Every service has one schema. Migrations (`shared.migration`) run as its owner; everything else runs as
`<schema>_worker`, which sees all tenants, or, for one transaction at an HTTP edge, as `<schema>_tenant`, which sees
one. Neither owns anything, so row-level security binds both. The login may be the owner, or one that may act as these
two and nothing else (deploy/postgres/roles.sql).
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final, TypeAlias, TypeVar

import asyncpg
import orjson

from shared import migration
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
async def connect(
    dsn: str, service: str, *, outbox: bool = False, connections: int = 10, migrate: bool = True
) -> AsyncGenerator[Database]:
    """Migrate the schema of `service`, or wait until somebody has, and open its pool in the worker role.

    The pool has at most so many `connections`.
    """
    if migrate:
        await migration.migrate(dsn, service, outbox=outbox)
    else:
        await migration.wait_for_schema(dsn, service, outbox=outbox)
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
