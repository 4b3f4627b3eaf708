"""The way to a source: connections that can't harm it, and what its catalogue says about a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from services.exporter.pipeline.errors import (
    PipelineError,
    RowTooLarge,
    SourceRefused,
    SourceTooSlow,
    SourceUnavailable,
)

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

# The category of a domain is that of its base type.
_DESCRIBE = """
    SELECT n.nspname, c.relname, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod),
           NOT a.attnotnull, t.typcategory::text
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    WHERE c.oid = pg_catalog.to_regclass(%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    ORDER BY a.attnum
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalogue describes it; `type` is written as in SQL, `category` is `pg_type.typcategory`."""

    name: str
    type: str
    nullable: bool
    category: str

    @property
    def is_number(self) -> bool:
        return self.category == "N"

    @property
    def is_moment(self) -> bool:
        """Whether it holds a date or a time."""
        return self.category == "D"


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view with its columns, as the catalogue spells them."""

    identifier: sql.Identifier
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
        raise translation(error) from error
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    return connection


def pin_output(connection: SourceConnection, statement_timeout: timedelta) -> None:
    """Make what the transaction returns depend on nothing but the rows; a timeout of zero is none."""
    connection.execute(_PIN_OUTPUT, (f"{int(statement_timeout.total_seconds() * 1000)}ms",))


def describe(connection: SourceConnection, table: str) -> Table:
    """The table of this name, written as in SQL. Raises SourceRefused when there is none."""
    found = connection.execute(_DESCRIBE, (table,)).fetchall()
    if not found:
        raise SourceRefused(f"there is no table {table}")
    schema, name = found[0][:2]
    return Table(sql.Identifier(schema, name), tuple(Column(*row[2:]) for row in found))


def translation(error: psycopg.Error) -> PipelineError:
    """Our error for the driver's: what an operator can mend is SourceRefused, what may pass is SourceUnavailable."""
    reason = error.diag.message_primary or str(error).strip()
    match error:
        case errors.ProgramLimitExceeded():
            return RowTooLarge(reason)
        # PostgreSQL builds a row in at most 1 GiB, and says so in two ways; this one is never translated.
        case errors.InternalError_() if "invalid memory alloc request size" in reason:
            return RowTooLarge(reason)
        case errors.QueryCanceled():
            return SourceTooSlow(reason)
        case psycopg.OperationalError() | psycopg.InterfaceError():
            return SourceUnavailable(reason)
        case _:
            return SourceRefused(reason)
