"""What `make bench-export` reads: interactions of one tenant, of which any number can be asked for by their time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg
import uvloop
from psycopg import sql

from deploy.local.data import END, START, create_schema, load_interactions

TENANT: Final = "acme"


@dataclass(frozen=True, slots=True)
class Slice:
    """The `rows` interactions from START up to `until`."""

    rows: int
    until: datetime

    @property
    def select(self) -> sql.Composed:
        statement = sql.SQL(
            """SELECT * FROM ucs.interactions WHERE "tenantId" = {} AND "startDate" >= {} AND "startDate" < {}"""
        )
        return statement.format(sql.Literal(TENANT), sql.Literal(START), sql.Literal(self.until))


@dataclass(frozen=True, slots=True)
class Described:
    """What was loaded, and slices of it by the numbers of rows that were asked for."""

    columns: int
    json_bytes_per_row: float
    """With the end of the line; the average of the smallest slice."""
    slices: dict[int, Slice]


def load(dsn: str, rows: int) -> None:
    """Fill the source, on disk and with hint bits and statistics set."""

    async def fill() -> None:
        await create_schema(dsn)
        await load_interactions(dsn, "ucs", rows=rows, tenants={TENANT: 100})

    uvloop.run(fill())
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE ucs.interactions")
        connection.execute("CHECKPOINT")


def describe(dsn: str, sizes: Sequence[int]) -> Described:
    """Look at what was loaded, and find slices of `sizes` rows; those of one millisecond stay together."""
    with psycopg.connect(dsn) as connection:
        slices = {size: _slice(connection, size) for size in sizes}
        few = slices[min(sizes)].select
        described = connection.execute(sql.SQL("SELECT * FROM ({}) r LIMIT 0").format(few)).description
        width = _one(
            connection, sql.SQL("SELECT avg(octet_length(row_to_json(r.*)::text))::float8 + 1 FROM ({}) r").format(few)
        )
    assert described is not None
    assert isinstance(width, float)
    return Described(len(described), width, slices)


def _slice(connection: psycopg.Connection, size: int) -> Slice:
    following = sql.SQL(
        """SELECT max("startDate") FROM (SELECT "startDate" FROM ucs.interactions
           WHERE "tenantId" = {} ORDER BY "startDate" OFFSET {} LIMIT 1) r"""
    ).format(sql.Literal(TENANT), sql.Literal(size))
    until = _one(connection, following) or END
    assert isinstance(until, datetime)
    rows = _one(connection, sql.SQL("SELECT count(*) FROM ({}) r").format(Slice(size, until).select))
    assert isinstance(rows, int)
    return Slice(rows, until)


def _one(connection: psycopg.Connection, statement: sql.Composed) -> object:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return row[0]
