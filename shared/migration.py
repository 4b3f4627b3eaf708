"""Migrations: the numbered files of each service, applied forward only, by one process at a time, or waited for.

A file is one transaction, which gives up and tries again rather than let all other traffic queue behind a lock it waits
for. One that begins with `-- concurrently` is applied statement by statement, each in a transaction of its own, and its
indexes are built while everybody reads and writes; killed midway, it goes on where it was. One that says
`-- replaces <sha256>` is taken for applied where an earlier text of it was, whose result is the same.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final, TypeAlias

import asyncpg

from shared.connecting import connect
from shared.observability import log

_Direct: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

CONCURRENTLY: Final = "-- concurrently"
"""The first line of a file whose statements are transactions of their own."""

_REPLACES: Final = re.compile(r"^-- replaces ([0-9a-f]{64})$", re.MULTILINE)
_CREATE_INDEX: Final = re.compile(
    r"CREATE (?P<unique>UNIQUE )?INDEX (?P<name>\w+)\s+ON (?P<table>\w+)\s+(?P<rest>.*)", re.DOTALL
)
_LOCK: Final = "hashtext('cdds.migrate')"
"""One lock for all services: they share the cluster-wide roles that the bookkeeping makes."""

LOCK_PATIENCE: Final = "2s"
"""How long traffic may queue behind a statement of ours that waits for a lock."""
TRIES: Final = 60
"""With pauses of 0.2 s, 0.4 s … 5 s about six minutes, and half as long again in the queues for locks."""
LOOK_SECONDS: Final = 0.5
TELL_SECONDS: Final = 30.0
"""Between two lines that say what is waited for."""


_NOT_YET: Final = (
    # Nobody has ever migrated: there is no table, schema or role, or it is not ours yet.
    asyncpg.UndefinedTableError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.InvalidParameterValueError,
    asyncpg.InsufficientPrivilegeError,
    # PostgreSQL is not there yet.
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    ConnectionRefusedError,
)


class MigrationChanged(Exception):
    """An applied migration file was edited; write a new one instead."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """What it is recognised by where it was applied."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def is_the_one(self, sha256: str) -> bool:
        """Whether this text, or one that it replaces, was applied."""
        return sha256 == self.sha256 or sha256 in _REPLACES.findall(self.text)

    @property
    def steps(self) -> Sequence[str]:
        """The statements of one that is applied concurrently; empty for one that is a single transaction.

        >>> Migration("", "-- concurrently\\nDROP INDEX a; -- old\\nCREATE INDEX b\\n  ON t (c);\\n").steps
        ['DROP INDEX a', 'CREATE INDEX b\\n  ON t (c)']
        """
        if not self.text.startswith(f"{CONCURRENTLY}\n"):
            return []
        bare = re.sub(r"--.*", "", self.text)
        return [statement for part in bare.split(";") if (statement := part.strip())]


def of_service(service: str, *, outbox: bool) -> list[Migration]:
    """The migrations of a service in their order; those of `shared.outbox` first where it publishes."""
    folders = [resources.files("shared.migrations")] if outbox else []
    return [
        Migration(file.name, file.read_text(encoding="utf-8"))
        for folder in [*folders, resources.files(f"services.{service}").joinpath("migrations")]
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".sql")
    ]


async def migrate(dsn: str, service: str, *, outbox: bool, schema: str | None = None) -> list[str]:
    """Apply the migrations of `service` that are new, one replica at a time, and say which they were.

    It is called as the service unless `schema` is given, for tables beside the live ones; the roles are the service's.
    What a newer version has applied is left alone. Raises MigrationChanged when an applied file differs.
    """
    schema = schema or service
    connection = await connect(dsn, server_settings={"timezone": "UTC", "application_name": f"cdds-migrate-{service}"})
    try:
        await _take_lock(connection)
        await _bookkeeping(connection, service, schema)
        rows = await connection.fetch(f"SELECT name, sha256 FROM {schema}.applied_migrations")
        applied = {row["name"]: row["sha256"] for row in rows}
        new: list[str] = []
        for migration in of_service(service, outbox=outbox):
            if migration.name not in applied:
                await _apply(connection, schema, migration)
                log.info("migration applied", schema=schema, migration=migration.name)
                new.append(migration.name)
            else:
                _refuse_changed(schema, migration, applied[migration.name])
        return new
    finally:
        await connection.close()


async def wait_for_schema(dsn: str, service: str, *, outbox: bool) -> None:
    """Return when somebody has applied at least the migrations of this version; newer ones do not matter.

    Raises MigrationChanged, and what asyncpg raises for a login or address that can't be right.
    """
    clock = asyncio.get_running_loop().time
    told_at = float("-inf")
    while (lack := await _lacking(dsn, service, outbox=outbox)) is not None:
        if clock() - told_at >= TELL_SECONDS:
            log.warning("waiting for the schema", schema=service, lacking=lack, remedy="run `cdds migrate`")
            told_at = clock()
        await asyncio.sleep(LOOK_SECONDS)


async def _lacking(dsn: str, service: str, *, outbox: bool) -> str | None:
    """What of this version's schema is not there yet, as the service's worker sees it."""
    try:
        connection = await connect(dsn, server_settings={"role": f"{service}_worker"}, timeout=10)
        try:
            rows = await connection.fetch(f"SELECT name, sha256 FROM {service}.applied_migrations")
        finally:
            await connection.close()
    except _NOT_YET as error:
        return str(error)
    applied = {row["name"]: row["sha256"] for row in rows}
    missing: list[str] = []
    for migration in of_service(service, outbox=outbox):
        if migration.name not in applied:
            missing.append(migration.name)
        else:
            _refuse_changed(service, migration, applied[migration.name])
    return f"{', '.join(missing)} is not applied" if missing else None


def _refuse_changed(schema: str, migration: Migration, applied: str) -> None:
    if not migration.is_the_one(applied):
        raise MigrationChanged(f"{schema}: migration {migration.name} was changed after it was applied")


async def _take_lock(connection: _Direct) -> None:
    """Wait for our turn without a transaction: an index that is built concurrently waits for the end of all of them."""
    while not await connection.fetchval(f"SELECT pg_try_advisory_lock({_LOCK})"):  # noqa: ASYNC110 - another process's
        await asyncio.sleep(LOOK_SECONDS)


async def _apply(connection: _Direct, schema: str, migration: Migration) -> None:
    if not migration.steps:

        async def all_of_it() -> None:
            await connection.execute(migration.text)
            await _mark_applied(connection, schema, migration)

        await _in_transaction(connection, schema, all_of_it)
        return
    rows = await connection.fetch(f"SELECT step, sha256 FROM {schema}.migration_steps WHERE name = $1", migration.name)
    for row in rows:
        _refuse_changed(schema, migration, row["sha256"])
    done = {row["step"] for row in rows}
    for number, statement in enumerate(migration.steps):
        if number not in done:
            await _step(connection, schema, migration, number, statement)
    await _in_transaction(connection, schema, lambda: _mark_applied(connection, schema, migration))


async def _step(connection: _Direct, schema: str, migration: Migration, number: int, statement: str) -> None:
    """Apply one statement, and remember that it was."""
    if index := _CREATE_INDEX.fullmatch(statement):
        await _Index(connection, schema, **index.groupdict()).build()

    async def apply() -> None:
        if not index:
            await connection.execute(statement)
        await connection.execute(
            f"INSERT INTO {schema}.migration_steps (name, step, sha256) VALUES ($1, $2, $3)",
            migration.name, number, migration.sha256,
        )  # fmt: skip

    await _in_transaction(connection, schema, apply)


async def _mark_applied(connection: _Direct, schema: str, migration: Migration) -> None:
    await connection.execute(f"DELETE FROM {schema}.migration_steps WHERE name = $1", migration.name)
    await connection.execute(
        f"INSERT INTO {schema}.applied_migrations (name, sha256) VALUES ($1, $2)", migration.name, migration.sha256
    )


async def _in_transaction(connection: _Direct, schema: str, work: Callable[[], Awaitable[None]]) -> None:
    async def once() -> None:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL search_path = {schema}")
            await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_PATIENCE}'")
            await work()

    await _retried(once)


async def _retried(work: Callable[[], Awaitable[None]]) -> None:
    """Do it again when a lock is not to be had, for longer than whoever has it may be expected to work."""
    pause = 0.2
    for left in reversed(range(TRIES)):
        try:
            await work()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if left == 0:
                raise
            log.warning("migration waits for a lock", error=str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)
        else:
            return


class _Index:
    """An index that is built while everybody reads and writes, on a table or on all partitions of one."""

    def __init__(
        self, connection: _Direct, schema: str, *, unique: str | None, name: str, table: str, rest: str
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._unique = unique or ""
        self._name = name
        self._table = table
        self._rest = rest

    async def build(self) -> None:
        """Make it, or finish it; one that an interrupted attempt left invalid is dropped first."""
        kind = await self._connection.fetchval(
            "SELECT relkind::text FROM pg_class WHERE oid = $1::text::regclass", f"{self._schema}.{self._table}"
        )
        if kind != "p":
            await self._build_on(self._name, self._table)
            return
        # Of the parent alone it is a word in the catalogue, and every partition that is made from now on has it.
        await _in_transaction(self._connection, self._schema, self._declare)
        for partition in await self._partitions_without():
            name = f"{self._name}{partition.removeprefix(self._table)}"
            await self._build_on(name, partition)
            await _in_transaction(self._connection, self._schema, lambda name=name: self._attach(name))

    async def _declare(self) -> None:
        await self._connection.execute(
            f"CREATE {self._unique}INDEX IF NOT EXISTS {self._name} ON ONLY {self._table} {self._rest}"
        )

    async def _attach(self, name: str) -> None:
        await self._connection.execute(f"ALTER INDEX {self._name} ATTACH PARTITION {name}")

    async def _partitions_without(self) -> list[str]:
        rows = await self._connection.fetch(
            """SELECT child.relname AS name FROM pg_inherits part JOIN pg_class child ON child.oid = part.inhrelid
               WHERE part.inhparent = $1::text::regclass AND NOT EXISTS (
                 SELECT FROM pg_index AS own JOIN pg_inherits AS attached ON attached.inhrelid = own.indexrelid
                 WHERE own.indrelid = child.oid AND attached.inhparent = $2::text::regclass)
               ORDER BY name""",
            f"{self._schema}.{self._table}", f"{self._schema}.{self._name}",
        )  # fmt: skip
        return [row["name"] for row in rows]

    async def _build_on(self, name: str, table: str) -> None:
        async def once() -> None:
            valid = await self._connection.fetchval(
                "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", f"{self._schema}.{name}"
            )
            if valid is False:
                await self._connection.execute(f"DROP INDEX CONCURRENTLY {self._schema}.{name}")
            if not valid:
                await self._connection.execute(
                    f"CREATE {self._unique}INDEX CONCURRENTLY {name} ON {self._schema}.{table} {self._rest}"
                )
                log.info("index built", schema=self._schema, index=name)

        # It waits for whoever has an older snapshot, and may be in a circle with one that waits for us.
        await _retried(once)


async def _bookkeeping(connection: _Direct, service: str, schema: str) -> None:
    """The roles, the schema and the list of migrations; what is there already takes no right to make it."""
    await connection.execute(f"""
        DO $$
        DECLARE
          name text;
        BEGIN
          FOREACH name IN ARRAY ARRAY['{service}_worker', '{service}_tenant'] LOOP
            IF to_regrole(name) IS NULL THEN
              BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
              EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;  -- another database made it
              END;
            END IF;
            IF NOT pg_has_role(current_user, name, 'USAGE') THEN
              EXECUTE format('GRANT %I TO CURRENT_USER', name);
            END IF;
          END LOOP;
          IF to_regnamespace('{schema}') IS NULL THEN
            CREATE SCHEMA {schema};
          END IF;
        END $$;
        GRANT USAGE ON SCHEMA {schema} TO {service}_worker, {service}_tenant;
        CREATE TABLE IF NOT EXISTS {schema}.applied_migrations (
          name text PRIMARY KEY,
          sha256 text NOT NULL,
          applied_at timestamptz NOT NULL DEFAULT now()
        );
        -- What a file that is applied concurrently has behind it, until all of it is.
        CREATE TABLE IF NOT EXISTS {schema}.migration_steps (
          name text,
          step integer,
          sha256 text NOT NULL,
          applied_at timestamptz NOT NULL DEFAULT now(),
          PRIMARY KEY (name, step)
        );
        GRANT SELECT ON {schema}.applied_migrations TO {service}_worker;
    """)
