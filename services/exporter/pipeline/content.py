"""How rows are written: JSON Lines or CSV, with some columns masked.

JSON is the server's own (`row_to_json`), byte for byte: it never passes through a parser here, which would bend numbers
that no double holds. A redacted column is replaced by NULL inside the query, so its values don't leave the source. A
hashed column comes as text beside the JSON of the columns around it, and its hash is put between them. The key never
goes to the source.

**Text of a value** (what CSV shows and a hash is made of): dates and times as in JSON (ISO 8601), everything else as
PostgreSQL casts it to text. So a value has one hash, whatever the format.
"""

import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from types import MappingProxyType
from typing import Final, LiteralString, Protocol, Self

import orjson
import psycopg
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from psycopg import sql

from services.exporter.pipeline import rows
from services.exporter.pipeline.batch import Batch, batched
from services.exporter.pipeline.rows import LINE_BREAKS
from services.exporter.pipeline.source import Column
from shared.jobs import CsvProfile, Format, Masking

_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Content:
    """What becomes of each row; `key` is the tenant's, and needed only where a column is hashed."""

    format: Format = "jsonl"
    masking: Mapping[str, Masking] = field(default_factory=lambda: MappingProxyType({}))
    key: bytes = field(default=b"", repr=False)
    csv_profile: CsvProfile = "spreadsheet"

    def for_attachments(self, id_column: str, entity_column: str) -> Self:
        """The same for attachments of rows: what joins them is masked as it is there, so that it still does."""
        how = self.masking.get(id_column)
        return replace(self, masking={} if how is None else {entity_column: how})

    def masked(self, how: Masking) -> list[str]:
        """The columns that are masked in this way."""
        return [name for name, chosen in self.masking.items() if chosen == how]


AS_IT_IS: Final = Content()


def tenant_key(secret: str, tenant: str) -> bytes:
    """The key that hashes a tenant's values: nobody gets from one tenant's to another's, or to the secret."""
    info = b"cdds masking\x00" + tenant.encode()
    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=info).derive(secret.encode())


class Encoder(Protocol):
    """Turns rows of a query into the lines of a file."""

    header: bytes
    """What each file begins with."""

    def statement(self, rows: sql.Composable) -> sql.Composed:
        """The `COPY` that brings what `batches` needs of the query `rows`."""
        ...

    def batches(self, copy: psycopg.Copy) -> Iterator[Batch]:
        """All records of the file, in order; none of the batches is empty."""
        ...


def encoder(columns: Sequence[Column], content: Content) -> Encoder:
    """The encoder for these columns in this order. Raises ValueError where hashing lacks its key."""
    hashed = frozenset(content.masked("hash"))
    if hashed and not content.key:
        raise ValueError("hashing needs a key")
    if content.format == "csv":
        return _Csv(columns, hashed, content.key, content.csv_profile)
    return _SplicedJson(columns, hashed, content.key) if hashed else rows.encoder(columns)


def selected(columns: Sequence[Column], content: Content, base64: str | None = None) -> sql.Composable:
    """The select list over the table, called `t`, without what must not leave the source; see `delivered`."""
    redacted = frozenset(content.masked("redact"))

    def expression(column: Column) -> sql.Composable:
        name, value = sql.Identifier(column.name), sql.Identifier("t", column.name)
        if column.name in redacted:
            return sql.SQL("NULL::text AS {}").format(name)
        if column.name == base64:
            # PostgreSQL breaks base64 into lines (RFC 2045).
            return sql.SQL("replace(encode({}, 'base64'), E'\\n', '') AS {}").format(value, name)
        if not column.is_known:
            return sql.SQL("{}::text AS {}").format(value, name)
        return value

    return sql.SQL(", ").join(map(expression, columns))


def delivered(columns: Sequence[Column], content: Content, base64: str | None = None) -> Sequence[Column]:
    """The columns with the types that the select list makes of them."""
    redacted = frozenset(content.masked("redact"))
    return [
        replace(column, base="text", kind="b", category="S")
        if column.name in redacted or column.name == base64 or not column.is_known
        else column
        for column in columns
    ]


class _SplicedJson:
    """JSON of neighbouring columns that are not hashed, and the text of those that are, put together here."""

    header = b""

    def __init__(self, columns: Sequence[Column], hashed: frozenset[str], key: bytes) -> None:
        self._key = key
        self._expressions: list[sql.Composable] = []
        self._names: list[bytes | None] = []
        """The JSON member of each hashed column, None for a stretch of others."""
        for is_hashed, stretch in groupby(columns, lambda column: column.name in hashed):
            if is_hashed:
                for column in stretch:
                    self._expressions.append(_text(column))
                    self._names.append(orjson.dumps(column.name) + b":")
            else:
                inner = sql.SQL(", ").join(sql.Identifier("r", column.name) for column in stretch)
                self._expressions.append(sql.SQL("(SELECT row_to_json(s.*) FROM (SELECT {}) s)").format(inner))
                self._names.append(None)

    def statement(self, rows: sql.Composable) -> sql.Composed:
        return _binary(self._expressions, rows)

    def batches(self, copy: psycopg.Copy) -> Iterator[Batch]:
        return batched(self._records(copy))

    def _records(self, copy: psycopg.Copy) -> Iterator[bytes]:
        for row in copy.rows():
            yield b"{" + b",".join(map(self._member, self._names, row)) + b"}\n"

    def _member(self, name: bytes | None, value: bytes | None) -> bytes:
        if name is None:
            assert value is not None
            return value[1:-1].translate(LINE_BREAKS)
        return name + (b"null" if value is None else b'"' + _hash(self._key, value) + b'"')


class _Csv:
    """RFC 4180 with line feeds, NULL as nothing and an empty text as `""`.

    In the spreadsheet profile, what would be taken for a formula gets an apostrophe before it, unless it is a number.
    """

    def __init__(self, columns: Sequence[Column], hashed: frozenset[str], key: bytes, profile: CsvProfile) -> None:
        self._columns = columns
        self._key = key
        self._hashed = [column.name in hashed for column in columns]
        self._literal = [profile == "faithful" or column.is_number for column in columns]
        self.header = (
            b",".join(_cell(column.name.encode(), as_it_is=profile == "faithful") for column in columns) + b"\n"
        )

    def statement(self, rows: sql.Composable) -> sql.Composed:
        return _binary([_text(column) for column in self._columns], rows)

    def batches(self, copy: psycopg.Copy) -> Iterator[Batch]:
        return batched(self._records(copy))

    def _records(self, copy: psycopg.Copy) -> Iterator[bytes]:
        for row in copy.rows():
            yield b",".join(map(self._value, row, self._hashed, self._literal)) + b"\n"

    def _value(self, value: bytes | None, is_hashed: bool, as_it_is: bool) -> bytes:
        if value is None:
            return b""
        return _hash(self._key, value) if is_hashed else _cell(value, as_it_is=as_it_is)


_FORMULA = (b"=", b"+", b"-", b"@", b"\t", b"\r")
_QUOTED = (b'"', b",", b"\n", b"\r")


def _cell(value: bytes, *, as_it_is: bool) -> bytes:
    """The text of a value as a field.

    >>> _cell(b'=SUM(A1,"B1")', as_it_is=False)
    b'"\\'=SUM(A1,""B1"")"'
    """
    if not as_it_is and value.startswith(_FORMULA):
        value = b"'" + value
    if not value or any(mark in value for mark in _QUOTED):
        return b'"' + value.replace(b'"', b'""') + b'"'
    return value


def _text(column: Column) -> sql.Composable:
    template: LiteralString = "to_json({}) #>> '{{}}'" if column.is_moment else "{}::text"
    return sql.SQL(template).format(sql.Identifier("r", column.name))


def _binary(expressions: Sequence[sql.Composable], rows: sql.Composable) -> sql.Composed:
    return sql.SQL("COPY (SELECT {} FROM ({}) r) TO STDOUT (FORMAT binary)").format(
        sql.SQL(", ").join(expressions), rows
    )


def _hash(key: bytes, value: bytes) -> bytes:
    return hmac.digest(key, value, "sha256").hex().encode()
