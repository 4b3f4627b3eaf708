"""Fills a source's tables: one transaction per call, so a reader sees the old rows or the new ones.

Only the generator needs numpy, which is therefore imported when something is generated.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias

import asyncpg

Source = Literal["ucs", "contact_history"]
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
TENANTS: Mapping[str, int] = MappingProxyType({"acme": 80, "globex": 20})

# A bulk load into indexes takes longer than building them afterwards; ANALYZE gives estimates their row counts.
_AROUND_LOAD = """
SELECT format('TRUNCATE %s', $1::regclass) AS before, format('ANALYZE %s', $1::regclass) AS after, 1 AS rank
UNION ALL
SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),
       format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid)), 2
  FROM pg_constraint WHERE conrelid = $1::regclass AND contype = 'p'
UNION ALL
SELECT format('DROP INDEX %s', indexrelid::regclass), pg_get_indexdef(indexrelid), 3
  FROM pg_index WHERE indrelid = $1::regclass AND NOT indisprimary
 ORDER BY rank, before
"""


@dataclass(frozen=True, slots=True)
class Loaded:
    interactions: int
    attachments: int


async def create_schema(dsn: str) -> None:
    """Creates what is missing of the schemas `ucs`, `contact_history` and `flights`."""
    async with _connection(dsn) as connection, connection.transaction():
        for statement, source, tables in (
            ("CREATE SCHEMA IF NOT EXISTS ucs", "ucs", "schema.sql"),
            ("CREATE SCHEMA IF NOT EXISTS contact_history", "contact_history", "schema.sql"),
            ("CREATE SCHEMA IF NOT EXISTS flights", "flights", "flights.sql"),
        ):
            await connection.execute(statement)
            await _use(connection, source)
            await connection.execute(Path(__file__).with_name(tables).read_text("utf-8"))


async def load_interactions(
    dsn: str,
    source: Source = "ucs",
    *,
    rows: int = 500_000,
    seed: int = 1,
    start: datetime = START,
    end: datetime = END,
    tenants: Mapping[str, int] = TENANTS,
) -> Loaded:
    """Replaces the source's interactions and their attachments."""
    from deploy.local.data.generator import Generator, Population

    generator = Generator(Population(source, rows, seed, start, end, tenants))
    async with _connection(dsn) as connection, connection.transaction():
        await _use(connection, source)
        return Loaded(
            interactions=await _replace(connection, "interactions", generator.interactions()),
            attachments=await _replace(connection, "attachments", generator.attachments()),
        )


async def load_contacts(
    dsn: str,
    source: Source = "ucs",
    *,
    rows: int = 125_000,
    seed: int = 1,
    start: datetime = START,
    end: datetime = END,
    tenants: Mapping[str, int] = TENANTS,
) -> int:
    """Replaces the source's contacts; a quarter as many as its interactions are all that those can name."""
    from deploy.local.data.generator import Generator, Population

    generator = Generator(Population(source, rows, seed, start, end, tenants))
    async with _connection(dsn) as connection, connection.transaction():
        await _use(connection, source)
        return await _replace(connection, "contacts", generator.contacts())


async def load_flights(dsn: str, rows: int | None = None) -> int:
    """Replaces the flights by the data set's first `rows`, all 336,776 if None."""
    from deploy.local.data.flights import columns, lines

    async with _connection(dsn) as connection, connection.transaction():
        await _use(connection, "flights")
        await connection.execute("TRUNCATE flights RESTART IDENTITY")
        copied = await connection.copy_to_table(
            "flights", source=_ahead(lines(rows)), columns=columns(), format="csv", null="NA"
        )
        await connection.execute("ANALYZE flights")
        return _count(copied)


@asynccontextmanager
async def _connection(dsn: str) -> AsyncGenerator[Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def _use(connection: Connection, schema: str) -> None:
    await connection.execute("SELECT set_config('search_path', $1, true)", schema)


async def _replace(connection: Connection, table: str, chunks: Iterator[bytes]) -> int:
    around = await connection.fetch(_AROUND_LOAD, table)
    for step in around:
        await connection.execute(step["before"])
    copied = await connection.copy_to_table(table, source=_ahead(chunks), freeze=True)
    for step in reversed(around):
        await connection.execute(step["after"])
    return _count(copied)


async def _ahead(chunks: Iterator[bytes]) -> AsyncGenerator[bytes]:
    """Produces the next chunk in a thread while the server reads this one."""
    following = asyncio.create_task(asyncio.to_thread(next, chunks, None))
    try:
        while (chunk := await following) is not None:
            following = asyncio.create_task(asyncio.to_thread(next, chunks, None))
            yield chunk
    finally:
        await following


def _count(command_tag: str) -> int:
    return int(command_tag.removeprefix("COPY "))
