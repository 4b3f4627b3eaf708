"""The way to a source: connections that can't harm it, and what its catalogue says about a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, LiteralString, cast

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from services.exporter.pipeline.errors import (
    PipelineError,
    RowTooLarge,
    SourceExhausted,
    SourceRefused,
    SourceTooSlow,
    SourceUnavailable,
)
from shared.sources import DataType

SourceConnection = psycopg.Connection[tuple[Any, ...]]

_CONNECTION: dict[str, str | int] = {
    "application_name": "cdds-exporter",
    "connect_timeout": 10,
    # A source that vanished without a word is noticed after 30 + 3 * 10 = 60 s.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
"""libpq settings, in seconds where they are times; the DSN overrides each of them."""

# Local to the transaction, because a connection pooler between us and the source may drop start-up options. Each
# is PostgreSQL's default (the time zone apart), so that a setting of the role or database can't change the bytes.
_PIN_OUTPUT = """
    SELECT set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, MDY', true),
           set_config('IntervalStyle', 'postgres', true), set_config('bytea_output', 'hex', true),
           set_config('extra_float_digits', '1', true), set_config('statement_timeout', %s, true)
"""

_TABLE = """
    SELECT n.nspname, c.relname, a.attname::text, a.atttypid, a.atttypmod, NOT a.attnotnull
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.oid = pg_catalog.to_regclass(%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    ORDER BY a.attnum
"""

# Tables the transaction has locked whose files are others than in its snapshot, or that are not in it at all. What is
# read from pg_class is as old as the snapshot, what the function says is as new as the lock.
_CHANGED = """
    SELECT EXISTS (
      SELECT FROM pg_catalog.pg_locks l
      LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation
      WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation'
        AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
        AND (c.oid IS NULL OR c.relfilenode <> 0 AND c.relfilenode <> pg_catalog.pg_relation_filenode(c.oid))
    )
"""

# From each type to what it is made of: a domain's base, an array's elements. The category of a domain is its base's.
# An enum that was given a cast to json is written by that cast.
_TYPES = """
    WITH RECURSIVE made_of AS (
      SELECT asked.position, asked.modifier, 0 AS depth, t.*
      FROM unnest(%s::oid[], %s::int4[]) WITH ORDINALITY AS asked(type, modifier, position)
      JOIN pg_catalog.pg_type t ON t.oid = asked.type
      UNION ALL
      SELECT m.position, m.modifier, m.depth + 1, t.*
      FROM made_of m
      JOIN pg_catalog.pg_type t
        ON t.oid = CASE WHEN m.typtype = 'd' THEN m.typbasetype WHEN m.typcategory = 'A' THEN m.typelem END
    )
    SELECT (array_agg(pg_catalog.format_type(oid, modifier) ORDER BY depth))[1],
           (array_agg(CASE WHEN typnamespace = 'pg_catalog'::regnamespace THEN typname::text
                           WHEN typtype = 'e' AND NOT EXISTS (
                             SELECT FROM pg_catalog.pg_cast
                             WHERE castsource = made_of.oid AND casttarget = 'pg_catalog.json'::regtype) THEN 'enum'
                           ELSE '' END ORDER BY depth) FILTER (WHERE typtype <> 'd'))[1],
           (array_agg(typtype::text ORDER BY depth) FILTER (WHERE typtype <> 'd'))[1],
           (array_agg(typcategory::text ORDER BY depth))[1],
           (array_agg(typtype <> 'b' OR typnamespace = 'pg_catalog'::regnamespace ORDER BY depth DESC))[1]
    FROM made_of GROUP BY position ORDER BY position
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalogue describes it.

    `type` is written as in SQL. Of it, or of what it is a domain over, `base` is the name in `pg_type` if it is built
    in, `enum`, or empty for others; `kind` and `category` are `typtype` and `typcategory`. `is_known` is false for what
    is made of types of extensions.
    """

    name: str
    type: str
    nullable: bool
    base: str
    kind: str
    category: str
    is_known: bool = True

    @property
    def is_number(self) -> bool:
        return self.category == "N"

    @property
    def is_moment(self) -> bool:
        """Whether it holds a date or a time."""
        return self.category == "D"


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, view or query as it stands behind FROM, with its columns."""

    rows: sql.Composable
    columns: Sequence[Column]


def connect(dsn: str, **settings: str | int) -> SourceConnection:
    """A connection that only reads, in one snapshot per transaction; `settings` are libpq's, and win over the DSN.

    Raises SourceUnavailable, SourceRefused.
    """
    try:
        chosen: dict[str, Any] = {**_CONNECTION, **conninfo_to_dict(dsn), **settings, "client_encoding": "UTF8"}
        conninfo = make_conninfo("", **chosen)
    except psycopg.ProgrammingError:
        # libpq quotes the DSN, password included, in its message.
        raise SourceRefused("the DSN can't be read") from None
    try:
        connection = psycopg.connect(conninfo, prepare_threshold=None)
    except psycopg.Error as error:
        # Address and role, which libpq names, are the operator's business: they are in the log, as the cause.
        raise SourceUnavailable("no connection, see the exporter's log") from error
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    return connection


def pin_output(connection: SourceConnection, statement_timeout: timedelta) -> None:
    """Make what the transaction returns depend on nothing but the rows; a timeout of zero is none."""
    connection.execute(_PIN_OUTPUT, (f"{int(statement_timeout.total_seconds() * 1000)}ms",))


def has_changed_since(connection: SourceConnection) -> bool:
    """Whether a table that is locked by now was rewritten, emptied or replaced after the snapshot was taken."""
    row = connection.execute(_CHANGED).fetchone()
    assert row is not None
    return row[0]


def describe(connection: SourceConnection, type_: DataType) -> Relation:
    """What a type of the operator's file stands for. Raises SourceRefused, psycopg.Error."""
    if type_.query is not None:
        return _query(connection, type_.query)
    assert type_.table is not None, "a type is a table or a query"
    return describe_table(connection, type_.table)


def describe_table(connection: SourceConnection, table: str) -> Relation:
    """The table of this name, written as in SQL. Raises SourceRefused when there is none."""
    try:
        found = connection.execute(_TABLE, (table,)).fetchall()
    except errors.InvalidName:  # what can't be a name at all; until PostgreSQL 15 that is an error
        found = []
    if not found:
        raise SourceRefused(f"there is no table {table}")
    schema, name = found[0][:2]
    columns = [(column, type_, modifier, nullable) for *_, column, type_, modifier, nullable in found]
    return Relation(sql.Identifier(schema, name), _described(connection, columns))


def _query(connection: SourceConnection, query: str) -> Relation:
    """The result of the operator's query. Raises psycopg.Error where the server refuses it."""
    # The line feed ends a comment in the last line. The operator writes the query, in a file of their own.
    rows = sql.SQL("({}\n)").format(sql.SQL(cast(LiteralString, query)))
    found = connection.execute(sql.SQL("SELECT * FROM {} q LIMIT 0").format(rows)).description or ()
    return Relation(rows, _described(connection, [(column.name, column.type_code, -1, True) for column in found]))


def _described(connection: SourceConnection, columns: Sequence[tuple[str, int, int, bool]]) -> tuple[Column, ...]:
    """What the catalogue says about columns of these names, type oids, type modifiers and nullabilities."""
    types = connection.execute(_TYPES, ([oid for _, oid, _, _ in columns], [mod for _, _, mod, _ in columns]))
    return tuple(
        Column(name, type_, nullable, base, kind, category, is_known)
        for (name, _, _, nullable), (type_, base, kind, category, is_known) in zip(columns, types, strict=True)
    )


def translation(error: psycopg.Error) -> PipelineError:
    """Our error for the driver's: what an operator can mend is SourceRefused, what may pass is SourceUnavailable."""
    reason = error.diag.message_primary or " ".join(str(error).split())
    match error:
        case errors.ProgramLimitExceeded():
            return RowTooLarge(reason)
        # PostgreSQL builds a row in at most 1 GiB, and says so in two ways; this one is never translated.
        case errors.InternalError_() if "invalid memory alloc request size" in reason:
            return RowTooLarge(reason)
        case errors.DiskFull() | errors.OutOfMemory() | errors.ConfigurationLimitExceeded():
            return SourceExhausted(reason)
        case errors.QueryCanceled():
            return SourceTooSlow(reason)
        case psycopg.OperationalError() | psycopg.InterfaceError():
            return SourceUnavailable(reason)
        case _:
            return SourceRefused(reason)
