"""Rows of a data interval as lines of a file, from one read-only snapshot of the source."""

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg
from psycopg import sql

from services.exporter.pipeline.content import AS_IT_IS, Content, encoder, selected
from services.exporter.pipeline.errors import Cancelled, FieldUnknown, SourceRefused
from services.exporter.pipeline.source import Column, SourceConnection, connect, describe, pin_output, translation
from shared.events import Question
from shared.sources import DataType, Source


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
    connect_timeout: timedelta | None = None
    """None means what the DSN says, or 10 s."""

    @classmethod
    def answering(cls, question: Question, tenant: str, source: Source, data_type: DataType) -> Self:
        """The rows that `question` asks for. Raises SourcesInvalid."""
        return cls(
            dsn=source.resolve_dsn(),
            table=data_type.table,
            columns=question.fields,
            id_column=data_type.id_column,
            time_column=data_type.time_column,
            tenant_column=data_type.tenant_column,
            tenant=tenant,
            media_type_column=data_type.media_type_column,
            media_types=None if question.media_types == "all" else question.media_types,
            interval_from=question.interval_from,
            interval_to=question.interval_to,
        )


class Extraction:
    """One repeatable-read, read-only transaction on the source; everything read inside belongs to one snapshot.

    Entering connects and checks table and columns. Raises SourceUnavailable, SourceRefused, RowTooLarge, Cancelled.
    """

    snapshot: str
    """PostgreSQL's name of the snapshot, `xmin:xmax:in-progress`; set on entering."""

    def __init__(self, query: Query, content: Content = AS_IT_IS) -> None:
        self._query = query
        self._content = content
        self._encoder = encoder((), content)
        self._cancelled = threading.Event()
        self._connection: SourceConnection | None = None
        self._table: sql.Composable = sql.SQL("")
        self._columns: Sequence[Column] = ()

    def __enter__(self) -> Self:
        wait = self._query.connect_timeout
        settings = {} if wait is None else {"connect_timeout": int(wait.total_seconds())}
        connection = self._connection = connect(self._query.dsn, **settings)
        try:
            with self._translated():
                pin_output(connection, self._query.statement_timeout)
                row = connection.execute("SELECT pg_catalog.pg_current_snapshot()::text").fetchone()
                assert row is not None
                self.snapshot = row[0]
                self._table, self._columns = self._described(connection)
                self._encoder = encoder(self._columns, self._content)
        except BaseException:
            connection.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    @property
    def header(self) -> bytes:
        """What each file begins with."""
        return self._encoder.header

    @property
    def fields(self) -> list[str]:
        """The columns that are exported, in their order."""
        return [column.name for column in self._columns]

    def estimate(self) -> int:
        """How many rows `rows` will give; exact today, and no more than an estimate by contract."""
        return self._one("SELECT count(*) FROM {table} t WHERE {filter}")

    def planned(self) -> int:
        """How many rows the source's planner expects; takes milliseconds."""
        return self._one("EXPLAIN (FORMAT json) SELECT FROM {table} t WHERE {filter}")[0]["Plan"]["Plan Rows"]

    def width(self) -> int | None:
        """Bytes of a row's values as the source's statistics have it; None where it has none, as for a view."""
        return self._one(
            """SELECT sum(s.avg_width)::int FROM pg_catalog.pg_stats s
               JOIN pg_catalog.pg_namespace n ON n.nspname = s.schemaname
               JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename
               WHERE c.oid = pg_catalog.to_regclass({name}) AND s.attname = ANY({columns})"""
        )

    def rows(self) -> Generator[bytes, None, None]:
        """One record per item, with its line feed. Close it before leaving early."""
        with self._translated():
            yield from self._copied(
                sql.SQL("ORDER BY {}, {}").format(
                    sql.Identifier("t", self._query.time_column), sql.Identifier("t", self._query.id_column)
                )
            )

    def sample(self, limit: int) -> list[bytes]:
        """At most `limit` records, whichever are found first; if it fails, the extraction can go on."""
        with self._translated(), self._open().transaction():
            return list(self._copied(sql.SQL("LIMIT {}").format(sql.Literal(limit))))

    def _copied(self, tail: sql.Composable) -> Generator[bytes, None, None]:
        rows = sql.SQL("SELECT {columns} FROM {table} t WHERE {filter} {tail}").format(
            columns=selected(self._columns, self._content), table=self._table, filter=self._filter(), tail=tail
        )
        is_cancelled = self._cancelled.is_set
        with self._open().cursor() as cursor, cursor.copy(self._encoder.statement(rows)) as copy:
            for line in self._encoder.lines(copy):
                if is_cancelled():
                    raise Cancelled
                yield line

    def _one(self, statement: LiteralString) -> Any:
        """The only value of a statement about the question."""
        whole = sql.SQL(statement).format(
            table=self._table, filter=self._filter(),
            name=sql.Literal(self._query.table), columns=sql.Literal(self.fields),
        )  # fmt: skip
        with self._translated():
            row = self._open().execute(whole).fetchone()
        assert row is not None
        return row[0]

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

    def _open(self) -> SourceConnection:
        assert self._connection is not None, "use the extraction as a context manager"
        if self._cancelled.is_set():
            raise Cancelled
        return self._connection

    def _described(self, connection: SourceConnection) -> tuple[sql.Identifier, Sequence[Column]]:
        """Table and columns as the catalogue spells them."""
        query = self._query
        table = describe(connection, query.table)
        existing = {column.name: column for column in table.columns}
        asked = [*(query.columns or ()), *self._content.masking]
        if missing := [name for name in asked if name not in existing]:
            raise FieldUnknown(", ".join(dict.fromkeys(missing)))
        needed = [query.id_column, query.time_column]
        if query.tenant_column is not None:
            needed.append(query.tenant_column)
        if query.media_types is not None and query.media_type_column is not None:
            needed.append(query.media_type_column)
        if missing := [name for name in needed if name not in existing]:
            raise SourceRefused(f"table {query.table} has no column {', '.join(missing)}")
        return table.identifier, [existing[name] for name in query.columns or existing]

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
            raise Cancelled if self._cancelled.is_set() else translation(error) from error


def _is_one_of(column: str | None, values: Sequence[str]) -> sql.Composable:
    if column is None or not values:
        return sql.SQL("false")
    # Literals without a type, so that text, enum and integer columns all compare, and by their index.
    return sql.SQL("{} IN ({})").format(sql.Identifier(column), sql.SQL(", ").join(map(sql.Literal, values)))
