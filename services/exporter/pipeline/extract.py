"""Rows of a data interval as JSON lines, from one read-only snapshot of the source.

The server writes the JSON (`row_to_json`) and `COPY` carries it: the client parses nothing. `COPY`'s text format
would double backslashes, so the format is csv with U+0001 and U+0002 as quote and delimiter, which can't occur inside
JSON; the only fields that come quoted are those with a raw line break, and only `json` columns (not `jsonb`) hold one.
"""

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from services.exporter.pipeline.errors import Cancelled, PipelineError, RowTooLarge, SourceRefused, SourceUnavailable

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

_DESCRIBE = """
    SELECT n.nspname, c.relname, array_agg(a.attname::text ORDER BY a.attnum)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.oid = pg_catalog.to_regclass(%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    GROUP BY n.nspname, c.relname
"""

_COPY: LiteralString = "COPY ({}) TO STDOUT (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')"
# `r.*` and not `r`: a column named `r` would win over the row.
_ROWS: LiteralString = "SELECT row_to_json(r.*) FROM (SELECT {columns} FROM {table} WHERE {filter} ORDER BY {order}) r"
_QUOTE = 0x01
_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")


@dataclass(frozen=True, slots=True)
class Query:
    """Which rows: those of `tenant` with `interval_from <= time < interval_to`, ordered by time and id.

    `table` is written as in SQL (`schema.name`, quoted where needed); column names are exact. Rows without a time
    belong to no interval and are never exported. An empty `media_types` selects nothing, None everything. Without a
    `tenant_column` the whole table belongs to `tenant`.
    """

    dsn: str
    table: str
    columns: Sequence[str] | None
    id_column: str
    time_column: str
    tenant_column: str | None
    tenant: str
    media_type_column: str | None
    media_types: Sequence[str] | None
    interval_from: datetime | None
    interval_to: datetime
    statement_timeout: timedelta = timedelta(0)
    """Zero means none."""


class Extraction:
    """One repeatable-read, read-only transaction on the source; everything read inside belongs to one snapshot.

    Entering connects and checks table and columns. Raises SourceUnavailable, SourceRefused, RowTooLarge, Cancelled.
    """

    snapshot: str
    """PostgreSQL's name of the snapshot, `xmin:xmax:in-progress`; set on entering."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._cancelled = threading.Event()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._table: sql.Composable = sql.SQL("")
        self._columns: Sequence[str] = ()

    def __enter__(self) -> Self:
        connection = self._connection = _connect(self._query.dsn)
        try:
            with self._translated():
                timeout = f"{int(self._query.statement_timeout.total_seconds() * 1000)}ms"
                connection.execute(_PIN_OUTPUT, (timeout,))
                row = connection.execute("SELECT pg_catalog.pg_current_snapshot()::text").fetchone()
                assert row is not None
                self.snapshot = row[0]
                self._table, self._columns = self._described(connection)
        except BaseException:
            connection.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    def estimate(self) -> int:
        """How many rows `rows` will give; exact today, and no more than an estimate by contract."""
        statement = sql.SQL("SELECT count(*) FROM {table} WHERE {filter}").format(
            table=self._table, filter=self._filter()
        )
        with self._translated():
            row = self._open().execute(statement).fetchone()
        assert row is not None
        return row[0]

    def rows(self) -> Generator[bytes, None, None]:
        """One JSON object per item, on exactly one line that ends in a line feed. Close it before leaving early."""
        select = sql.SQL(_ROWS).format(
            columns=sql.SQL(", ").join(map(sql.Identifier, self._columns)),
            table=self._table,
            filter=self._filter(),
            order=sql.SQL(", ").join(map(sql.Identifier, (self._query.time_column, self._query.id_column))),
        )
        is_cancelled = self._cancelled.is_set
        with self._translated(), self._open().cursor() as cursor, cursor.copy(sql.SQL(_COPY).format(select)) as copy:
            for line in copy:
                if is_cancelled():
                    raise Cancelled
                yield _unquoted(bytes(line)) if line[0] == _QUOTE else bytes(line)

    def cancel(self) -> None:
        """End `estimate` and `rows` with Cancelled; for any thread, any number of times.

        A request that arrives between two statements is lost to the server, so a watcher repeats it until the
        extraction is over.
        """
        self._cancelled.set()
        connection = self._connection
        if connection is None:
            return
        try:
            connection.cancel_safe(timeout=5)
        except psycopg.Error:
            # The flag is set: the next row ends the extraction, whether or not the server listened.
            return

    def _open(self) -> psycopg.Connection[tuple[Any, ...]]:
        assert self._connection is not None, "use the extraction as a context manager"
        if self._cancelled.is_set():
            raise Cancelled
        return self._connection

    def _described(self, connection: psycopg.Connection[tuple[Any, ...]]) -> tuple[sql.Identifier, Sequence[str]]:
        """Table and columns as the catalogue spells them."""
        query = self._query
        found = connection.execute(_DESCRIBE, (query.table,)).fetchone()
        if found is None:
            raise SourceRefused(f"there is no table {query.table}")
        schema, name, existing = found
        wanted = [*(query.columns or ()), query.id_column, query.time_column]
        if query.tenant_column is not None:
            wanted.append(query.tenant_column)
        if query.media_types is not None and query.media_type_column is not None:
            wanted.append(query.media_type_column)
        missing = [column for column in wanted if column not in existing]
        if missing:
            raise SourceRefused(f"table {query.table} has no column {', '.join(dict.fromkeys(missing))}")
        return sql.Identifier(schema, name), query.columns or existing

    def _filter(self) -> sql.Composable:
        """The rows of the question, as SQL; `COPY` takes no parameters, hence literals."""
        query = self._query
        time = sql.Identifier(query.time_column)
        conditions: list[sql.Composable] = [sql.SQL("{} < {}").format(time, sql.Literal(query.interval_to))]
        if query.tenant_column is not None:
            conditions.append(sql.SQL("{} = {}").format(sql.Identifier(query.tenant_column), sql.Literal(query.tenant)))
        if query.interval_from is not None:
            conditions.append(sql.SQL("{} >= {}").format(time, sql.Literal(query.interval_from)))
        if query.media_types is not None:
            conditions.append(_is_one_of(query.media_type_column, query.media_types))
        return sql.SQL(" AND ").join(conditions)

    @contextmanager
    def _translated(self) -> Generator[None, None, None]:
        try:
            yield
        except psycopg.Error as error:
            raise Cancelled if self._cancelled.is_set() else _translation(error) from error


def _connect(dsn: str) -> psycopg.Connection[tuple[Any, ...]]:
    try:
        settings: dict[str, Any] = {**_CONNECTION, **conninfo_to_dict(dsn), "client_encoding": "UTF8"}
        conninfo = make_conninfo("", **settings)
    except psycopg.ProgrammingError:
        # libpq quotes the DSN, password included, in its message.
        raise SourceRefused("the DSN can't be read") from None
    try:
        connection = psycopg.connect(conninfo, prepare_threshold=None)
    except psycopg.Error as error:
        raise _translation(error) from error
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    return connection


def _is_one_of(column: str | None, values: Sequence[str]) -> sql.Composable:
    if column is None or not values:
        return sql.SQL("false")
    # Literals without a type, so that text, enum and integer columns all compare, and by their index.
    return sql.SQL("{} IN ({})").format(sql.Identifier(column), sql.SQL(", ").join(map(sql.Literal, values)))


def _unquoted(field: bytes) -> bytes:
    """The JSON inside a quoted csv field, on one line.

    A raw line break in JSON can only be white space between tokens (RFC 8259, section 7), so a blank says the same.

    >>> _unquoted(bytes([1]) + b'{"a":' + bytes([10]) + b' 1}' + bytes([1, 10]))
    b'{"a":  1}\\n'
    """
    return field[1:-2].translate(_LINE_BREAKS) + b"\n"


def _translation(error: psycopg.Error) -> PipelineError:
    """Our error for the driver's: what an operator can mend is SourceRefused, what may pass is SourceUnavailable."""
    reason = error.diag.message_primary or str(error).strip()
    match error:
        case errors.ProgramLimitExceeded():
            return RowTooLarge(reason)
        # PostgreSQL builds a row in at most 1 GiB, and says so in two ways; this one is never translated.
        case errors.InternalError_() if "invalid memory alloc request size" in reason:
            return RowTooLarge(reason)
        case psycopg.OperationalError() | psycopg.InterfaceError():
            return SourceUnavailable(reason)
        case _:
            return SourceRefused(reason)
