"""Rows as JSON Lines, byte for byte what the server's `row_to_json` writes.

`Compiled` reads binary values and writes the JSON itself, in C and without the GIL (`_rows.c`); types it doesn't know
come as JSON made by the server (`to_json`, which is what `row_to_json` uses for each value). `Portable` has the server
write everything, and needs no compiler at install. `encoder` takes the faster one that is there.
"""

from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Final, Literal, LiteralString

import orjson
import psycopg
from psycopg import sql

from services.exporter.pipeline.batch import BATCH_BYTES, BATCH_SECONDS, Batch, batched
from services.exporter.pipeline.errors import RowTooLarge
from services.exporter.pipeline.source import Column

try:
    from services.exporter.pipeline import _rows
except ImportError:
    _rows = None

LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")
"""A raw line break in JSON can only be white space between tokens (RFC 8259, section 7), so a blank says the same."""

_KINDS: Final = {
    "bool": b"b",
    "int2": b"2",
    "int4": b"4",
    "int8": b"8",
    "oid": b"o",
    "numeric": b"n",
    "text": b"t",
    "varchar": b"t",
    "bpchar": b"t",
    "name": b"t",
    "enum": b"t",
    "timestamptz": b"z",
    "timestamp": b"s",
    "date": b"d",
    "uuid": b"u",
    "jsonb": b"J",
    "json": b"j",
    "bytea": b"x",
}
"""How `_rows.c` calls the binary formats of `Column.base`."""
_JSON: Final = _KINDS["json"]


def variant() -> Literal["compiled", "portable"]:
    """Which encoder this installation has; the portable one costs the server three times the CPU (0014)."""
    return "portable" if _rows is None else "compiled"


def encoder(columns: Sequence[Column]) -> "Compiled | Portable":
    """The fastest encoder there is for these columns in this order."""
    return Portable() if _rows is None else Compiled(columns)


class Compiled:
    """Binary values of the server, and JSON made of them here. Raises ImportError where `variant()` is portable."""

    header = b""

    def __init__(self, columns: Sequence[Column]) -> None:
        if _rows is None:
            raise ImportError("services.exporter.pipeline._rows was not built")
        kinds = [_KINDS.get(column.base) for column in columns]
        names = [orjson.dumps(column.name) + b":" for column in columns]
        prefixes = [b"," + name if position else b"{" + name for position, name in enumerate(names)]
        self._expressions = [_expression(column, kind) for column, kind in zip(columns, kinds, strict=True)]
        self._decoder = _rows.Decoder(tuple(prefixes), b"".join(kind or _JSON for kind in kinds))
        self._frame_bytes = sum(map(len, prefixes))

    def statement(self, rows: sql.Composable) -> sql.Composed:
        return sql.SQL("COPY (SELECT {} FROM ({}) r) TO STDOUT (FORMAT binary)").format(
            sql.SQL(", ").join(self._expressions), rows
        )

    def batches(self, copy: psycopg.Copy) -> Iterator[Batch]:
        messages: list[bytes | bytearray | memoryview] = []
        size, due = 0, monotonic() + BATCH_SECONDS
        for message in copy:
            messages.append(message)
            size += len(message) + self._frame_bytes
            if size >= BATCH_BYTES or monotonic() >= due:
                yield self._decoded(messages)
                messages.clear()
                size, due = 0, monotonic() + BATCH_SECONDS
        if batch := self._decoded(messages):
            yield batch

    def _decoded(self, messages: list[bytes | bytearray | memoryview]) -> Batch:
        try:
            data, ends = self._decoder.decode(messages)
        except OverflowError as error:
            raise RowTooLarge(str(error)) from error
        return Batch(data, memoryview(ends).cast("Q"))


def _expression(column: Column, kind: bytes | None) -> sql.Composable:
    # Also where a function of that name comes earlier in the search path.
    template: LiteralString = "pg_catalog.to_json({})" if kind is None else "{}"
    return sql.SQL(template).format(sql.Identifier("r", column.name))


class Portable:
    """The server's JSON as it is, in csv format with U+0001 and U+0002 as quote and delimiter.

    `COPY`'s text format would double backslashes. Neither character occurs inside JSON; the only fields that come
    quoted are those with a raw line break, and only `json` columns (not `jsonb`) hold one.
    """

    header = b""
    # `r.*` and not `r`: a column named `r` would win over the row.
    _COPY: LiteralString = (
        "COPY (SELECT row_to_json(r.*) FROM ({}) r) TO STDOUT (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')"
    )

    def statement(self, rows: sql.Composable) -> sql.Composed:
        return sql.SQL(self._COPY).format(rows)

    def batches(self, copy: psycopg.Copy) -> Iterator[Batch]:
        return batched(map(_unquoted, copy))


_QUOTE: Final = 0x01


def _unquoted(line: bytes | bytearray | memoryview) -> bytes | memoryview:
    """The JSON of a csv line, on one line.

    >>> _unquoted(bytes([1]) + b'{"a":' + bytes([10]) + b' 1}' + bytes([1, 10]))
    b'{"a":  1}\\n'
    """
    if line[0] == _QUOTE:
        return bytes(line[1:-2]).translate(LINE_BREAKS) + b"\n"
    return line if isinstance(line, memoryview) else bytes(line)
