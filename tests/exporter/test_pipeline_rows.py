"""JSON Lines are the server's own bytes, whichever encoder writes them, and no message harms the compiled one."""

import json
import os
import random
import shutil
import string
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from deploy.local.postgres import EmbeddedPostgres
from services.exporter.pipeline.batch import BATCH_BYTES, Batch
from services.exporter.pipeline.content import Content, selected
from services.exporter.pipeline.rows import Compiled, Portable, variant
from services.exporter.pipeline.source import Column, SourceConnection, describe_table, pin_output
from tests.conftest import fresh_database
from tests.exporter.test_pipeline_extract import execute

ROOT = Path(__file__).parents[2]
Encoder = Compiled | Portable
needs_the_compiled_one = pytest.mark.skipif(variant() == "portable", reason="there was no compiler at install")
both = pytest.mark.parametrize(
    "encoder",
    [pytest.param(lambda _: Portable(), id="portable"), pytest.param(Compiled, marks=needs_the_compiled_one)],
)

TYPES = """
    CREATE EXTENSION hstore;
    CREATE EXTENSION citext;
    CREATE TYPE mood AS ENUM ('sad "or" not', 'happy', E'tab\\t', '😀');
    CREATE TYPE shown AS ENUM ('a', 'b');
    CREATE FUNCTION shown(shown) RETURNS json LANGUAGE sql IMMUTABLE RETURN json_build_object('shown', $1::text);
    CREATE CAST (shown AS json) WITH FUNCTION shown(shown);
    CREATE DOMAIN word AS text CHECK (value <> 'forbidden');
    CREATE DOMAIN short AS word;
    CREATE DOMAIN percent AS numeric(9, 3);
    CREATE DOMAIN feeling AS mood;
    CREATE DOMAIN showing AS shown;
    CREATE DOMAIN numbers AS int[];
    CREATE TYPE pair AS ("left ""half" text, "right" json);
    CREATE TYPE "text" AS (x int);
"""
"""`public."text"` is what a source can do to those who go by the names of types alone."""


# --- values -----------------------------------------------------------------------------------------------------------


def texts(max_size: int = 40) -> st.SearchStrategy[str]:
    """Any text the server takes, with much of what JSON escapes, and of lengths around those of a vector."""
    special = st.sampled_from(
        [*map(chr, range(1, 33)), '"', "\\", "/", "\x7f", "\x80", "\u2028", "é", "👩", "\U0010ffff"]
    )
    letters = st.one_of(
        special, st.characters(codec="utf-8", exclude_characters="\0"), st.sampled_from(string.printable)
    )
    return st.text(letters, max_size=max_size)


def integers(bits: int) -> st.SearchStrategy[str]:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return st.one_of(st.integers(low, high), st.sampled_from([low, high, 0, -1, 9, 10, 99, 100])).map(str)


@st.composite
def numerics(draw: st.DrawFn) -> str:
    whole, fraction = (draw(st.text("0159", max_size=draw(st.integers(0, 40)))) for _ in range(2))
    return f"{draw(st.sampled_from(['', '-']))}0{whole}.{fraction}"


HUGE = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e131071",
    "-1e-16383",
    "9" * 300 + "." + "9" * 300,
    "0.00000",
    "1e4",
    "10000.0001",
]
INFINITIES = ["infinity", "-infinity"]


@st.composite
def moments(draw: st.DrawFn) -> str:
    is_ancient = draw(st.booleans())
    year = draw(st.integers(1, 4713) if is_ancient else st.one_of(st.integers(1, 294_275), st.integers(1900, 2100)))
    month, day = draw(st.integers(1, 12)), draw(st.integers(1, 28))
    time = "{:02}:{:02}:{:02}".format(*(draw(st.integers(0, most)) for most in (23, 59, 59)))
    fraction = draw(st.one_of(st.integers(0, 999_999), st.sampled_from([0, 100_000, 120_000, 1])))
    return f"{year:04}-{month:02}-{day:02} {time}.{fraction:06}Z{' BC' if is_ancient else ''}"


def days(number: int) -> str:
    return f"J{2451545 + number}"


DAYS = st.integers(-2_451_545, 2_145_031_948)
"""From 2000-01-01, all that a `date` holds."""
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), texts(10)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts(5), inner, max_size=3)),
    max_leaves=5,
)
DOCUMENTS = st.builds(
    lambda value, indent, line_break: json.dumps(value, ensure_ascii=False, indent=indent).replace("\n", line_break),
    JSON,
    st.sampled_from([None, 1]),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
BYTES = st.binary(max_size=60).map(lambda value: "\\x" + value.hex())
MOMENTS = st.one_of(moments(), st.sampled_from(INFINITIES))

VALUES: dict[LiteralString, st.SearchStrategy[str]] = {
    "bool": st.sampled_from(["t", "f"]),
    "int2": integers(16),
    "int4": integers(32),
    "int8": integers(64),
    "oid": st.integers(0, 2**32 - 1).map(str),
    "numeric": st.one_of(numerics(), st.sampled_from(HUGE)),
    "numeric(20, 4)": st.decimals(-(10**15), 10**15, places=6).map(str),
    "pg_catalog.text": texts(),
    "varchar(80)": texts(),
    "char(80)": texts(),
    "name": texts(10),
    "mood": st.sampled_from(['sad "or" not', "happy", "tab\t", "😀"]),
    "timestamptz": MOMENTS,
    "timestamp": MOMENTS,
    "timestamptz(0)": MOMENTS,
    "date": st.one_of(DAYS.map(days), st.integers(-40_000, 40_000).map(days), st.sampled_from(INFINITIES)),
    "uuid": st.uuids().map(str),
    "jsonb": DOCUMENTS,
    "json": DOCUMENTS,
    "bytea": BYTES,
    # Domains go by what they are made of.
    "word": texts(),
    "short": texts(),
    "percent": st.decimals(-(10**5), 10**5, places=3).map(str),
    "feeling": st.sampled_from(["happy", "tab\t"]),
    # The rest the server turns into JSON.
    "numbers": st.just("{1,NULL,3}"),
    "shown": st.sampled_from("ab"),
    "showing": st.sampled_from("ab"),
    'public."text"': st.just("(1)"),
    '"char"': st.sampled_from(["a", '"', "\\", "", "\x01"]),
    "float4": st.floats(width=32).map(repr),
    "float8": st.floats().map(repr),
    "time": st.times().map(str),
    "timetz": st.times().map(lambda time: f"{time}+05:30"),
    "interval": st.timedeltas(timedelta(-(10**6)), timedelta(10**6)).map(lambda value: f"{value.total_seconds():f} s"),
    "int4range": st.sampled_from(["[1,5)", "empty", "(,]"]),
    "inet": st.ip_addresses().map(str),
    "money": integers(40),
    "bit varying": st.text("01", max_size=20),
    "pg_catalog.text[]": st.just('{"a\\"b",NULL,"\n",""}'),
    "timestamptz[]": st.just("{2026-01-01Z,infinity}"),
    "json[]": st.just('{"[1,\n2]"}'),
    "pair": st.just('("a""b\n","{\n}")'),
    "hstore": st.just('a=>"1\n", b=>NULL'),
    "citext": texts(),
    "regclass": st.just("pg_class"),
    "tsvector": st.just("'a':1 'b\"c':2"),
}
HOSTILE = [
    "r", "s", "t", "b", '"', 'a"b', "\\", "\\n", "a\nb", "tab\t", "\r", "\x01", "\x02\x1f", "\x7f", " ", "{", "%s",
    ",", ":", "null", "é", "👩" * 15, "\u2028", "x" * 63, "\x03" * 63, "'", "to_json",
]  # fmt: skip
NAMES = [*HOSTILE, *(f"column {number}" for number in range(len(VALUES) - len(HOSTILE)))]
ROW = st.tuples(*(st.none() | values for values in VALUES.values()))
NULLS = (None,) * len(VALUES)
TABLE = sql.SQL("SELECT t.* FROM everything t")


@pytest.fixture(scope="module")
async def dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    async with fresh_database(postgres) as dsn:
        columns = [sql.SQL("{} {}").format(sql.Identifier(n), sql.SQL(t)) for n, t in zip(NAMES, VALUES, strict=True)]
        execute(dsn, TYPES, sql.SQL("CREATE TABLE everything ({})").format(sql.SQL(", ").join(columns)))
        yield dsn


@contextmanager
def transaction(dsn: str) -> Iterator[SourceConnection]:
    """A transaction that is rolled back, with its output pinned as in an export."""
    with psycopg.connect(dsn) as connection:
        pin_output(connection, timedelta(0))
        yield connection
        connection.rollback()


def insert(connection: SourceConnection, rows: Sequence[Sequence[str | None]]) -> None:
    values = sql.SQL(", ").join(sql.SQL("%s::") + sql.SQL(type_) for type_ in VALUES)
    connection.cursor().executemany(sql.SQL("INSERT INTO everything VALUES ({})").format(values), rows)


def servers_own(connection: SourceConnection, rows: sql.Composable) -> list[bytes]:
    found = connection.execute(sql.SQL("SELECT row_to_json(r.*)::text FROM ({}) r").format(rows)).fetchall()
    return [text.encode().replace(b"\r", b" ").replace(b"\n", b" ") + b"\n" for (text,) in found]


def batches(connection: SourceConnection, encoder: Encoder, rows: sql.Composable) -> list[Batch]:
    with connection.cursor() as cursor, cursor.copy(encoder.statement(rows)) as copy:
        return list(encoder.batches(copy))


def records(connection: SourceConnection, encoder: Encoder, rows: sql.Composable) -> list[bytes]:
    return [record for batch in batches(connection, encoder, rows) for record in batch.records()]


def encoders(columns: Sequence[Column]) -> list[Encoder]:
    return [Portable()] if variant() == "portable" else [Portable(), Compiled(columns)]


def hold_all_to_the_server(connection: SourceConnection, table: LiteralString) -> list[bytes]:
    rows = sql.SQL("SELECT t.* FROM {} t").format(sql.Identifier(table))
    expected = servers_own(connection, rows)
    for encoder in encoders(describe_table(connection, table).columns):
        assert records(connection, encoder, rows) == expected, type(encoder).__name__
    return expected


# --- the same bytes ---------------------------------------------------------------------------------------------------


# Shrinking a row of so many columns takes minutes, and the first difference tells as much.
@settings(max_examples=150, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(rows=st.lists(ROW, max_size=4))
@example(rows=[NULLS])
@example(rows=[])
def test_every_encoder_writes_what_row_to_json_writes(dsn: str, rows: list[tuple[str | None, ...]]) -> None:
    with transaction(dsn) as connection:
        insert(connection, rows)

        assert len(hold_all_to_the_server(connection, "everything")) == len(rows)


@needs_the_compiled_one
def test_only_types_without_a_native_form_are_left_to_the_server(dsn: str) -> None:
    with transaction(dsn) as connection:
        columns = describe_table(connection, "everything").columns

    wrapped = [
        type_
        for column, type_ in zip(columns, VALUES, strict=True)
        if b"to_json(" in Compiled([column]).statement(TABLE).as_bytes().replace(b'"to_json"', b"")
    ]
    assert wrapped == list(VALUES)[list(VALUES).index("numbers") :]


def test_1600_columns_come_whole(dsn: str) -> None:
    columns = ", ".join(f"c{number} {('int', 'bool', 'int[]')[number % 3]} DEFAULT NULL" for number in range(1600))
    with transaction(dsn) as connection:
        connection.execute(f"CREATE TABLE widest ({columns})".encode())
        connection.execute("INSERT INTO widest (c0, c1, c2, c1599) VALUES (1, true, '{1}', 2), (3, false, NULL, 4)")

        assert len(hold_all_to_the_server(connection, "widest")) == 2


@pytest.mark.parametrize(
    "cell",
    [
        "repeat('x', 50000000)",
        "repeat(E'\\x01', 9000000)",
        "repeat(E'line \"1\"\\n', 5000000)",
        "decode(repeat('00ff', 12500000), 'hex')",
        "('[' || repeat(E'1,\\r\\n', 12500000) || '1]')::json",
    ],
)
def test_a_cell_of_50_megabytes_comes_whole(dsn: str, cell: LiteralString) -> None:
    with transaction(dsn) as connection:
        connection.execute(
            sql.SQL("CREATE TABLE largest AS SELECT 1 AS id, {} AS cell, 2 AS after").format(sql.SQL(cell))
        )

        (record,) = hold_all_to_the_server(connection, "largest")
        assert len(record) > 50_000_000


def test_every_length_of_text_around_a_vector_comes_whole(dsn: str) -> None:
    with transaction(dsn) as connection:
        connection.execute(
            r"""CREATE TABLE lengths AS
                SELECT repeat('x', n) || mark || repeat('y', m) AS inside,
                       repeat('x', n) || mark || repeat('y', m) AS last
                FROM generate_series(0, 35) n, generate_series(0, 17) m,
                     unnest(ARRAY['', '"', E'\\', E'\x01', E'\x1f', ' ', 'é']) mark"""
        )

        assert len(hold_all_to_the_server(connection, "lengths")) == 36 * 18 * 7


def test_a_text_longer_than_a_piece_is_escaped_at_its_seams(dsn: str) -> None:
    with transaction(dsn) as connection:
        connection.execute(
            """CREATE TABLE seams AS SELECT repeat(' ', n) || repeat('"', 30) || repeat(E'é\n', 5000) AS text
               FROM generate_series(4060, 4100) n"""
        )

        hold_all_to_the_server(connection, "seams")


# --- columns that are not as in the table -----------------------------------------------------------------------------


def test_a_redacted_column_of_any_type_is_null(dsn: str) -> None:
    with transaction(dsn) as connection:
        insert(connection, [ROW_OF_ALL])
        columns = describe_table(connection, "everything").columns
        content = Content(masking={column.name: "redact" for column in columns})
        rows = sql.SQL("SELECT {} FROM everything t").format(selected(columns, content))

        expected = dict.fromkeys(NAMES)
        for encoder in encoders(columns):
            assert [json.loads(record) for record in records(connection, encoder, rows)] == [expected]


# --- batches ----------------------------------------------------------------------------------------------------------


@both
def test_batches_hold_whole_records_and_are_of_about_the_same_size(
    dsn: str, encoder: Callable[..., Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("batch", "rows"):
        # Where the machine is busy, some are cut for their age.
        monkeypatch.setattr(f"services.exporter.pipeline.{module}.BATCH_SECONDS", 3600.0)
    with transaction(dsn) as connection:
        connection.execute("CREATE TABLE many AS SELECT n, repeat('x', 100) AS text FROM generate_series(1, 30000) n")
        found = batches(connection, encoder(describe_table(connection, "many").columns), sql.SQL("SELECT * FROM many"))

    assert [json.loads(record)["n"] for batch in found for record in batch.records()] == list(range(1, 30001))
    for batch in found:
        assert list(batch.ends) == [at + 1 for at, byte in enumerate(batch.data) if byte == 10]
        assert len(batch) == len(batch.ends) > 0
    assert all(0.75 * BATCH_BYTES < len(batch.data) < 1.25 * BATCH_BYTES for batch in found[:-1])
    assert len(found) == pytest.approx(sum(len(batch.data) for batch in found) / BATCH_BYTES, abs=2)


@both
def test_no_rows_are_no_batches(dsn: str, encoder: Callable[..., Encoder]) -> None:
    with transaction(dsn) as connection:
        assert batches(connection, encoder(describe_table(connection, "everything").columns), TABLE) == []


# --- the decoder alone ------------------------------------------------------------------------------------------------

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
ROW_OF_ALL = [
    "t", "-12", "34", "56", "78", "12345.678", "1.5", 'te"xt\n', "varchar", "char", "name", "happy",
    "2026-01-02 03:04:05.678Z", "0044-03-15 00:00Z BC", "infinity", "2026-01-02",
    "00112233-4455-6677-8899-aabbccddeeff", '{"a": 1}', "[\n]", "\\x0001ff", "word", "short", "1.234", "happy", "{1}",
    "a", "b", "(1)", "c", "1.5", "2.5", "01:02", "01:02+03", "1 day", "[1,2)", "::1", "5", "101", "{a}", "{infinity}",
    "{}", "(a,1)", "a=>1", "ci", "pg_class", "a",
]  # fmt: skip


def decoder(kinds: bytes) -> Any:
    from services.exporter.pipeline import _rows

    return _rows.Decoder(tuple(b'%c"%d":' % (b",{"[not n], n) for n in range(len(kinds))), kinds)


def row(*values: bytes | None) -> bytes:
    cells = [struct.pack("!i", -1) if v is None else struct.pack("!i", len(v)) + v for v in values]
    return struct.pack("!h", len(values)) + b"".join(cells)


def decoded(kinds: bytes, *messages: bytes) -> list[bytes]:
    data, ends = decoder(kinds).decode(list(messages))
    return list(Batch(data, memoryview(ends).cast("Q")).records())


ONE, TWO = row(struct.pack("!i", 1)), row(None)


@needs_the_compiled_one
@pytest.mark.parametrize(
    "messages",
    [
        [HEADER + ONE, TWO, TRAILER],
        [HEADER, ONE, TWO, TRAILER],
        [HEADER + ONE + TWO + TRAILER],
        [HEADER, b"", ONE + TWO, b"", TRAILER],
        [ONE, TWO + TRAILER],
        [HEADER[:-1] + b"\3abc" + ONE, TWO],
    ],
)
def test_header_and_trailer_may_come_at_the_edges_of_any_message(messages: list[bytes]) -> None:
    assert decoded(b"4", *messages) == [b'{"0":1}\n', b'{"0":null}\n']


@needs_the_compiled_one
@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (b"4", row()),
        (b"4", row(None, None)),
        (b"4", ONE[:-1]),
        (b"4", ONE[:5]),
        (b"4", ONE[:1]),
        (b"4", ONE + b"\0"),
        (b"4", TRAILER + ONE),
        (b"4", HEADER[:-1] + b"\4abc"),
        (b"4", HEADER[:11] + b"\0\1" + HEADER[13:] + ONE),
        (b"t", b"\0\1\xff\xff\xff\xfe"),
        (b"t", b"\0\1\x7f\xff\xff\xff" + b"x"),
        *((kind.encode(), row(b"\0" * 3)) for kind in "b248onzsduJ"),
        (b"n", row(struct.pack("!hhHHh", 2, 0, 0, 0, 1))),
        (b"n", row(struct.pack("!hhHHh", 1, 0, 0, 0, 10000))),
        (b"n", row(struct.pack("!hhHHh", 1, 0, 1, 0, 1))),
        (b"n", row(struct.pack("!hhHH", 0, 0, 0, 0x4000))),
    ],
)
def test_a_message_that_is_no_row_of_these_columns_is_refused(kinds: bytes, message: bytes) -> None:
    with pytest.raises(ValueError, match="message 2 is no row"):
        decoded(kinds, b"", message)


@needs_the_compiled_one
def test_a_decoder_refuses_kinds_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="there is no kind"):
        decoder(b"4?")
    with pytest.raises(ValueError, match="prefixes for"):
        decoder(b"4" * 1665)


@needs_the_compiled_one
def test_rows_without_columns_are_empty_objects() -> None:
    assert decoded(b"", *[row() * 10_000] * 3) == [b"{}\n"] * 30_000


@needs_the_compiled_one
def test_corrupted_messages_are_refused_or_read_but_never_harm(dsn: str) -> None:
    """What is read beyond a message shows when this runs under `-fsanitize=address`."""
    chance = random.Random(20260101)
    with transaction(dsn) as connection:
        insert(connection, [ROW_OF_ALL, NULLS, ROW_OF_ALL])
        compiled = Compiled(describe_table(connection, "everything").columns)
        with connection.cursor() as cursor, cursor.copy(compiled.statement(TABLE)) as copy:
            sound = [bytes(message) for message in copy]
    refused = 0
    for _ in range(5_000):
        messages: list[bytes | bytearray | memoryview] = [_corrupted(message, chance) for message in sound]
        try:
            data, ends = compiled._decoder.decode(messages)
        except ValueError:
            refused += 1
            continue
        offsets = memoryview(ends).cast("Q").tolist()
        assert offsets == sorted(offsets)
        assert len(data) == (offsets[-1] if offsets else 0)
        assert all(data[end - 2 : end] == b"}\n" for end in offsets)
    assert 1_000 < refused < 5_000


def _corrupted(message: bytes, chance: random.Random) -> bytes:
    spoilt = bytearray(message)
    match chance.randrange(6):
        case 0:
            del spoilt[chance.randrange(len(spoilt)) :]
        case 1:
            for _ in range(chance.randint(1, 4)):
                spoilt[chance.randrange(len(spoilt))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        case 2:
            at = chance.randrange(len(spoilt))
            spoilt[at:at] = chance.randbytes(chance.randint(1, 8))
        case 3:
            at = chance.randrange(len(spoilt))
            del spoilt[at : at + chance.randint(1, 8)]
        case _:
            pass
    return bytes(spoilt)


@needs_the_compiled_one
def test_threads_may_share_a_decoder() -> None:
    shared = decoder(b"4tx")
    messages = [row(struct.pack("!i", n), b'"' * n, b"\1" * n) for n in range(500)]
    expected = shared.decode(messages)
    found: list[bool] = []

    def work() -> None:
        found.append(all(shared.decode(messages) == expected for _ in range(20)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


@pytest.mark.slow
@needs_the_compiled_one
def test_a_record_of_up_to_1_gib_works_and_a_larger_one_is_an_error() -> None:
    def one_cell(byte: bytes, size: int) -> bytearray:
        message = bytearray(byte) * (6 + size)
        message[:6] = struct.pack("!hi", 1, size)
        return message

    fits = 1024**3 - len(b'{"0":""}\n')
    data, _ = decoder(b"t").decode([one_cell(b"x", fits)])
    assert len(data) == 1024**3
    del data
    for kind, byte, size in ((b"t", b"x", fits + 1), (b"t", b"\1", 180_000_000), (b"x", b"x", 540_000_000)):
        with pytest.raises(OverflowError, match="1 GiB"):
            decoder(kind).decode([one_cell(byte, size)])


# --- without a compiler -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiler", "expected"),
    [
        ("/bin/false", "portable"),
        pytest.param(None, "compiled", marks=pytest.mark.skipif(not shutil.which("cc"), reason="there is no compiler")),
    ],
)
def test_an_install_succeeds_with_and_without_a_compiler(tmp_path: Path, compiler: str | None, expected: str) -> None:
    tree, site = tmp_path / "tree", tmp_path / "site"
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    for package in ("services", "shared", "cli", "deploy"):
        shutil.copytree(ROOT / package, tree / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    environment = os.environ | ({"CC": compiler} if compiler else {})
    uv = [shutil.which("uv", path=Path(sys.executable).parent) or "uv", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*uv, "--python", sys.executable, "--target", site, tree], env=environment, check=True)

    asked = "from services.exporter.pipeline import rows; print(rows.__file__, rows.variant())"
    answer = subprocess.run(
        [sys.executable, "-c", asked],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        check=True,
        capture_output=True,
    )
    assert answer.stdout.decode().split() == [str(site / "services/exporter/pipeline/rows.py"), expected]
