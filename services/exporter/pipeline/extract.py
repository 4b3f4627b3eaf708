"""Rows of a data interval as records of files, from one read-only snapshot of the source."""

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, LiteralString, Self

import psycopg
from psycopg import sql

from services.exporter.pipeline.batch import Batch
from services.exporter.pipeline.content import AS_IT_IS, Content, Encoder, delivered, encoder, selected
from services.exporter.pipeline.errors import Cancelled, FieldUnknown, SourceRefused, TypeUnknown
from services.exporter.pipeline.source import (
    Column,
    Relation,
    SourceConnection,
    connect,
    describe,
    describe_table,
    has_changed_since,
    pin_output,
    translation,
)
from shared.events import Question
from shared.sources import Attachments, DataType, Source

_UNORDERED: Final = sql.SQL("")


@dataclass(frozen=True, slots=True)
class Query:
    """Which rows: those of `tenant` with `interval_from <= time < interval_to`.

    Rows without a time belong to no interval and are never exported. An empty `media_types` selects nothing, None
    everything. Without a tenant column the whole table belongs to `tenant`. `fields` None means all columns.
    """

    dsn: str
    type: DataType
    tenant: str
    interval_from: datetime | None
    interval_to: datetime
    media_types: Sequence[str] | None = None
    fields: Sequence[str] | None = None
    attachments: bool = False
    """Whether the attachments of the rows come along, if the type has any."""
    statement_timeout: timedelta = timedelta(0)
    """Zero means none."""
    connect_timeout: timedelta | None = None
    """None means what the DSN says, or 10 s."""

    @classmethod
    def answering(cls, question: Question, tenant: str, source: Source, data_type: DataType) -> Self:
        """The rows that `question` asks for. Raises SourcesInvalid."""
        return cls(
            dsn=source.resolve_dsn(),
            type=data_type,
            tenant=tenant,
            interval_from=question.interval_from,
            interval_to=question.interval_to,
            media_types=None if question.media_types == "all" else question.media_types,
            fields=question.fields,
            attachments=question.attachments,
            statement_timeout=source.statement_timeout,
        )


@dataclass(frozen=True, slots=True)
class Entity:
    """One kind of rows, which gets files of its own; `name` is the noun in their names."""

    name: str
    columns: Sequence[Column]
    content: Content
    encoder: Encoder
    table: sql.Composable
    """What stands behind FROM, called `t`."""
    condition: sql.Composable
    order: sql.Composable
    base64: str | None
    """The column of bytes that is written in base64."""

    @property
    def fields(self) -> list[str]:
        """The columns that are exported, in their order."""
        return [column.name for column in self.columns]

    def statement(self, tail: sql.Composable) -> sql.Composed:
        """The `COPY` of the rows; `tail` follows the condition."""
        return self.encoder.statement(
            sql.SQL("SELECT {columns} FROM {table} t WHERE {condition} {tail}").format(
                columns=selected(self.columns, self.content, self.base64),
                table=self.table, condition=self.condition, tail=tail,
            )
        )  # fmt: skip


class Extraction:
    """One repeatable-read, read-only transaction on the source; everything read inside belongs to one snapshot.

    Entering connects and checks table and columns. Raises SourceUnavailable, SourceRefused, RowTooLarge, Cancelled.
    """

    snapshot: str
    """PostgreSQL's name of the snapshot, `xmin:xmax:in-progress`; set on entering."""
    entities: Sequence[Entity]
    """The rows themselves first; set on entering."""

    def __init__(self, query: Query, content: Content = AS_IT_IS) -> None:
        self._query = query
        self._content = content
        self._cancelled = threading.Event()
        self._connection: SourceConnection | None = None

    def __enter__(self) -> Self:
        wait = self._query.connect_timeout
        settings = {} if wait is None else {"connect_timeout": int(wait.total_seconds())}
        connection = self._connection = connect(self._query.dsn, **settings)
        try:
            with self._translated():
                while not self._begun(connection):
                    connection.rollback()
        except BaseException:
            connection.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    def total(self) -> int:
        """How many rows to expect, as the operator wants it found: counted, or estimated by the planner."""
        find = self.counted if self._query.type.total == "count" else self.planned
        return sum(find(entity) for entity in self.entities)

    def counted(self, entity: Entity) -> int:
        """How many rows there are; reads them all."""
        return self._one("SELECT count(*) FROM {table} t WHERE {condition}", entity)

    def planned(self, entity: Entity) -> int:
        """How many rows the source's planner expects; takes milliseconds."""
        plan = self._one("EXPLAIN (FORMAT json) SELECT FROM {table} t WHERE {condition}", entity)
        return plan[0]["Plan"]["Plan Rows"]

    def width(self, entity: Entity) -> int | None:
        """Bytes of a row's values as the source's statistics have it; None where it has none, as for a view."""
        if self._query.type.table is None:
            return None
        return self._one(
            """SELECT sum(s.avg_width)::int FROM pg_catalog.pg_stats s
               JOIN pg_catalog.pg_namespace n ON n.nspname = s.schemaname
               JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename
               WHERE c.oid = pg_catalog.to_regclass({name}) AND s.attname = ANY({columns})""",
            entity,
        )

    def batches(self, entity: Entity) -> Generator[Batch, None, None]:
        """All records of the entity. Close it before leaving early."""
        with self._translated():
            yield from self._copied(entity, entity.order)

    def sample(self, entity: Entity, limit: int) -> Sequence[bytes]:
        """At most `limit` records, whichever are found first; if it fails, the extraction can go on."""
        with self._translated(), self._open().transaction():
            tail = sql.SQL("LIMIT {}").format(sql.Literal(limit))
            return [record for batch in self._copied(entity, tail) for record in batch.records()]

    def cancel(self) -> None:
        """End whatever is being read with Cancelled; for any thread, any number of times.

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
            # The flag is set: the next batch ends the extraction, whether or not the server listened.
            return

    def _copied(self, entity: Entity, tail: sql.Composable) -> Generator[Batch, None, None]:
        is_cancelled = self._cancelled.is_set
        with self._open().cursor() as cursor, cursor.copy(entity.statement(tail)) as copy:
            for batch in entity.encoder.batches(copy):
                if is_cancelled():
                    raise Cancelled
                yield batch

    def _one(self, statement: LiteralString, entity: Entity) -> Any:
        """The only value of a statement about the entity."""
        whole = sql.SQL(statement).format(
            table=entity.table, condition=entity.condition,
            name=sql.Literal(self._query.type.table), columns=sql.Literal(entity.fields),
        )  # fmt: skip
        with self._translated():
            row = self._open().execute(whole).fetchone()
        assert row is not None
        return row[0]

    def _open(self) -> SourceConnection:
        assert self._connection is not None, "use the extraction as a context manager"
        if self._cancelled.is_set():
            raise Cancelled
        return self._connection

    def _begun(self, connection: SourceConnection) -> bool:
        """Take the snapshot, describe and lock what is read; False when the snapshot came too early for that.

        A table that somebody rewrites or empties between the two would look empty, without any error (PostgreSQL
        manual, 13.6 Caveats), and the lock may be waited for as long as they take.
        """
        if self._cancelled.is_set():
            raise Cancelled
        pin_output(connection, self._query.statement_timeout)
        row = connection.execute("SELECT pg_catalog.pg_current_snapshot()::text").fetchone()
        assert row is not None
        self.snapshot = row[0]
        self.entities = tuple(self._described(connection))
        for entity in self.entities:
            connection.execute(sql.SQL("EXPLAIN SELECT FROM {} t").format(entity.table))
        return not has_changed_since(connection)

    def _described(self, connection: SourceConnection) -> Generator[Entity, None, None]:
        """Tables and columns as the catalogue spells them."""
        query, type_ = self._query, self._query.type
        relation = describe(connection, type_)
        asked = [*(query.fields or ()), *self._content.masking]
        if missing := _missing(relation, asked):
            raise FieldUnknown(", ".join(missing))
        needed = [type_.id_column, type_.time_column, type_.tenant_column]
        needed.append(type_.media_type_column if query.media_types is not None else None)
        if missing := _missing(relation, needed):
            raise SourceRefused(f"{type_.table or 'the query'} has no column {', '.join(missing)}")
        existing = {column.name: column for column in relation.columns}
        columns = self._known([existing[name] for name in query.fields or existing])
        order = _UNORDERED
        if type_.ordered:
            by = (sql.Identifier("t", type_.time_column), sql.Identifier("t", type_.id_column))
            order = sql.SQL("ORDER BY {}, {}").format(*by)
        yield _entity(type_.title, columns, self._content, relation, _condition(query, "t"), order=order)
        if query.attachments and type_.attachments is not None:
            yield self._attached(connection, relation, type_.attachments)

    def _attached(self, connection: SourceConnection, rows: Relation, attachments: Attachments) -> Entity:
        """The attachments of the rows."""
        query, type_ = self._query, self._query.type
        relation = describe_table(connection, attachments.table)
        needed = (attachments.entity_column, attachments.content_column, attachments.tenant_column)
        if missing := _missing(relation, needed):
            raise SourceRefused(f"{attachments.table} has no column {', '.join(missing)}")
        if any(c.name == attachments.content_column and c.base != "bytea" for c in relation.columns):
            raise SourceRefused(f"column {attachments.content_column} of {attachments.table} is not of type bytea")
        columns = self._known(relation.columns)
        condition = sql.SQL("EXISTS (SELECT FROM {rows} e WHERE {id} = {entity} AND {condition})").format(
            rows=rows.rows, id=sql.Identifier("e", type_.id_column),
            entity=sql.Identifier("t", attachments.entity_column), condition=_condition(query, "e"),
        )  # fmt: skip
        if attachments.tenant_column is not None:
            tenant = sql.Identifier("t", attachments.tenant_column)
            condition = sql.SQL("{} = {} AND {}").format(tenant, sql.Literal(query.tenant), condition)
        content = self._content.for_attachments(type_.id_column, attachments.entity_column)
        name = f"{type_.title}-Attachment"
        return _entity(name, columns, content, relation, condition, base64=attachments.content_column)

    def _known(self, columns: Sequence[Column]) -> Sequence[Column]:
        """The columns, if their types can be exported. Raises TypeUnknown."""
        unknown = [f"{column.name} ({column.type})" for column in columns if not column.is_known]
        if unknown and self._query.type.unknown_types == "fail":
            raise TypeUnknown(f'{", ".join(unknown)}; set unknown_types = "text" in the file of sources, or `fields`')
        return columns

    @contextmanager
    def _translated(self) -> Generator[None, None, None]:
        try:
            yield
        except psycopg.Error as error:
            raise Cancelled if self._cancelled.is_set() else translation(error) from error


def _entity(
    name: str, columns: Sequence[Column], content: Content, relation: Relation, condition: sql.Composable,
    order: sql.Composable = _UNORDERED, base64: str | None = None,
) -> Entity:  # fmt: skip
    written = encoder(delivered(columns, content, base64), content)
    return Entity(name, columns, content, written, relation.rows, condition, order, base64)


def _missing(relation: Relation, names: Sequence[str | None]) -> list[str]:
    """Those of the names that are no column, each once."""
    existing = {None, *(column.name for column in relation.columns)}
    return list(dict.fromkeys(name for name in names if name is not None and name not in existing))


def _condition(query: Query, alias: str) -> sql.Composable:
    """The rows of the question, as SQL; `COPY` takes no parameters, hence literals."""
    type_ = query.type
    time = sql.Identifier(alias, type_.time_column)
    conditions: list[sql.Composable] = [sql.SQL("{} < {}").format(time, sql.Literal(query.interval_to))]
    if type_.tenant_column is not None:
        tenant = sql.Identifier(alias, type_.tenant_column)
        conditions.append(sql.SQL("{} = {}").format(tenant, sql.Literal(query.tenant)))
    if query.interval_from is not None:
        conditions.append(sql.SQL("{} >= {}").format(time, sql.Literal(query.interval_from)))
    if query.media_types is not None:
        conditions.append(_is_one_of(alias, type_.media_type_column, query.media_types))
    return sql.SQL(" AND ").join(conditions)


def _is_one_of(alias: str, column: str | None, values: Sequence[str]) -> sql.Composable:
    if column is None or not values:
        return sql.SQL("false")
    # Literals without a type, so that text, enum and integer columns all compare, and by their index.
    return sql.SQL("{} IN ({})").format(sql.Identifier(alias, column), sql.SQL(", ").join(map(sql.Literal, values)))
