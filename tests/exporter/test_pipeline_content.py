"""How rows are written: CSV that spreadsheets and parsers read alike, and masked columns in both formats."""

import csv
import hashlib
import hmac
import io
import json
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.exporter.pipeline.content import Content, tenant_key
from services.exporter.pipeline.errors import FieldUnknown
from services.exporter.pipeline.extract import Extraction
from tests.conftest import fresh_database
from tests.exporter.queries import records
from tests.exporter.test_pipeline_extract import execute, question

KEY = bytes(range(32))
BIG = "123456789012345678901234567890.12345678901234567890"


@pytest.fixture(scope="module")
async def dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    async with fresh_database(postgres) as dsn:
        execute(
            dsn,
            """CREATE TABLE people (id int, at timestamptz, tenant text, r text, phone text, big numeric,
                                   "wei""rd" json, born date, note text)""",
            f"""INSERT INTO people VALUES
                (1, '2026-01-01 00:00Z', 't1', 'x', '+41 44 123', {BIG}, E'{{"a":\\n1e400}}', '1990-02-03', E'a\\nb'),
                (2, '2026-01-02 00:00Z', 't1', NULL, NULL, NULL, NULL, NULL, NULL),
                (3, '2026-01-03 00:00Z', 't1', '', E'\\u0001\\u0002"\\n', 'NaN', '"}}{{"', 'infinity', 'München 👩')""",
        )
        yield dsn


def content(**changes: Any) -> Content:
    return Content(**{"key": KEY} | changes)


def lines(dsn: str, content: Content, table: str = "people", **changes: Any) -> list[bytes]:
    with Extraction(question(dsn, table, **changes), content) as source:
        header = source.entities[0].encoder.header
        return [header, *records(source)] if header else list(records(source))


def hashed(text: str, key: bytes = KEY) -> str:
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def parsed(found: Sequence[bytes]) -> list[list[str]]:
    return list(csv.reader(io.StringIO(b"".join(found).decode(), newline="")))


# --- masking in JSON Lines ----------------------------------------------------------------------------------------


def test_redacted_fields_are_null_and_all_other_bytes_stay_as_they_were(dsn: str) -> None:
    plain = lines(dsn, content())
    masked = lines(dsn, content(masking={"phone": "redact", "at": "redact"}))

    assert [json.loads(line)["phone"] for line in masked] == [None, None, None]
    assert [json.loads(line)["id"] for line in masked] == [1, 2, 3]  # a redacted time still orders the rows
    assert masked[1] == plain[1].replace(b'"2026-01-02T00:00:00+00:00"', b"null")


def test_hashed_fields_are_the_hmac_of_their_text_in_their_place(dsn: str) -> None:
    plain = lines(dsn, content())
    masked = lines(dsn, content(masking={"phone": "hash"}))

    phones = ["+41 44 123", None, '\x01\x02"\n']
    assert [json.loads(line)["phone"] for line in masked] == [text and hashed(text) for text in phones]
    for before, after, phone in zip(plain, masked, phones, strict=True):
        old = json.dumps(phone).encode() if phone is not None else b"null"
        new = b'"' + hashed(phone).encode() + b'"' if phone is not None else b"null"
        assert after == before.replace(b'"phone":' + old, b'"phone":' + new)


def test_numbers_that_no_double_holds_survive_beside_a_hash(dsn: str) -> None:
    (first, *_) = lines(dsn, content(masking={"phone": "hash"}))

    row = json.loads(first, parse_float=Decimal)
    assert row["big"] == Decimal(BIG)
    assert f'"big":{BIG},'.encode() in first
    assert row['wei"rd'] == {"a": Decimal("1e400")}
    assert first.count(b"\n") == 1


@pytest.mark.parametrize(
    "names",
    [["id"], ["note"], ["id", "at", "tenant"], ["at", "r", "big", "note"], ['wei"rd'], ["born"]],
    ids=str,
)
def test_any_columns_can_be_hashed_wherever_they_stand(dsn: str, names: list[str]) -> None:
    plain = [json.loads(line) for line in lines(dsn, content())]
    masked = [json.loads(line) for line in lines(dsn, content(masking=dict.fromkeys(names, "hash")))]

    for before, after in zip(plain, masked, strict=True):
        assert list(before) == list(after)
        for name in before:
            if name in names and before[name] is not None:
                assert len(after[name]) == 64
            else:
                assert after[name] == before[name]


def test_every_column_can_be_hashed_and_some_be_redacted_at_once(dsn: str) -> None:
    masking = {"id": "hash", "phone": "redact", "at": "hash"}

    found = lines(dsn, content(masking=masking), fields=["at", "phone", "id"])

    moments = [f"2026-01-0{day}T00:00:00+00:00" for day in (1, 2, 3)]
    assert [json.loads(line) for line in found] == [
        {"at": hashed(moment), "phone": None, "id": hashed(str(number))} for number, moment in enumerate(moments, 1)
    ]


def test_a_hash_is_the_same_in_both_formats_and_another_for_each_tenant(dsn: str) -> None:
    masking = {"at": "hash", "big": "hash", "note": "hash"}
    keys = [tenant_key("s" * 32, tenant) for tenant in ("t1", "t2", "t1\x00")] + [tenant_key("t" * 32, "t1")]
    assert len(set(keys)) == len(keys)

    (first, *_) = lines(dsn, content(masking=masking, key=keys[0]))
    _, row, *_ = parsed(lines(dsn, content(masking=masking, key=keys[0], format="csv")))
    (other, *_) = lines(dsn, content(masking=masking, key=keys[1]))

    values = json.loads(first)
    assert [values[name] for name in masking] == [row[1], row[5], row[8]]
    assert values["big"] == hashed(BIG, keys[0])
    assert not set(row) & {value for name, value in json.loads(other).items() if name in masking}


def test_a_tenants_key_never_changes() -> None:
    # HKDF-SHA256 (RFC 5869) by hand: extract with a salt of zeros, then one block of expansion.
    secret, info = b"s" * 32, b"cdds masking\x00t1"
    extracted = hmac.new(bytes(32), secret, hashlib.sha256).digest()

    assert tenant_key("s" * 32, "t1") == hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


def test_neither_the_key_nor_a_redacted_value_is_shown_or_sent(dsn: str) -> None:
    secret = content(masking={"phone": "hash", "note": "redact"})
    assert repr(KEY) not in repr(secret)

    with Extraction(question(dsn, "people"), secret) as source:
        list(records(source))
        with psycopg.connect(dsn) as connection:
            row = connection.execute(
                "SELECT query FROM pg_stat_activity WHERE application_name = 'cdds-exporter' AND query LIKE 'COPY%' "
                "AND datname = current_database()"
            ).fetchone()
    assert row is not None
    assert KEY.hex() not in row[0]
    assert '"t"."note"' not in row[0]


def test_hashing_without_a_key_and_masking_of_what_does_not_exist_are_refused(dsn: str) -> None:
    with pytest.raises(ValueError, match="needs a key"):
        lines(dsn, content(masking={"phone": "hash"}, key=b""))
    for how in ("hash", "redact"):
        with pytest.raises(FieldUnknown, match="subject"):
            lines(dsn, content(masking={"subject": how}))


# --- CSV ----------------------------------------------------------------------------------------------------------


def test_csv_has_a_header_null_as_nothing_and_empty_text_in_quotes(dsn: str) -> None:
    found = lines(dsn, content(format="csv"), fields=["id", "at", "r", "phone", 'wei"rd', "born"])

    assert found[0] == b'id,at,r,phone,"wei""rd",born\n'
    assert found[1] == b'1,2026-01-01T00:00:00+00:00,x,\'+41 44 123,"{""a"":\n1e400}",1990-02-03\n'
    assert found[2] == b"2,2026-01-02T00:00:00+00:00,,,,\n"
    assert found[3] == b'3,2026-01-03T00:00:00+00:00,"","\x01\x02""\n","""}{""",infinity\n'


def test_every_csv_value_is_the_text_of_the_value(dsn: str) -> None:
    found = parsed(lines(dsn, content(format="csv")))

    assert found[1][5] == BIG
    assert [row[8] for row in found[1:]] == ["a\nb", "", "München 👩"]


# Type, value, and what a spreadsheet gets to see.
CELLS = [
    ("text", "'=SUM(A1)'", "'=SUM(A1)"),
    ("text", "'+1'", "'+1"),
    ("text", "'-1'", "'-1"),
    ("text", "'@cmd'", "'@cmd"),
    ("text", r"E'\tx'", "'\tx"),
    ("text", r"E'\rx'", "'\rx"),
    ("text", "'=\"a\",1'", '\'="a",1'),
    ("text", "'a=1'", "a=1"),
    ("text", "''''", "'"),
    ("varchar(9)", "'-x'", "'-x"),
    ("mood", "'=sad'", "'=sad"),
    ("interval", "'-1 day'", "'-1 days"),
    ("int", "-1", "-1"),
    ("bigint", "-9223372036854775808", "-9223372036854775808"),
    ("numeric", "-1.50", "-1.50"),
    ("double precision", "-1e-300", "-1e-300"),
    ("double precision", "'-Infinity'", "-Infinity"),
    ("cents", "-7", "-7"),
    ("boolean", "true", "true"),
    ("date", "'-infinity'", "'-infinity"),
    ("timestamptz", "'2026-03-29 01:30:00.5+02'", "2026-03-28T23:30:00.5+00:00"),
    ("timestamp", "'2026-03-29 02:30:00'", "2026-03-29T02:30:00"),
    ("int[]", "'{-1,2}'", "{-1,2}"),
    ("jsonb", """'{"a": -1}'""", '{"a": -1}'),
    ("json", "'-1'", "'-1"),
    ("bytea", r"'\x00ff'", r"\x00ff"),
]


def test_what_looks_like_a_formula_gets_an_apostrophe_unless_it_is_a_number(dsn: str) -> None:
    columns = ", ".join(f"c{number} {kind}" for number, (kind, _, _) in enumerate(CELLS))
    execute(
        dsn,
        "CREATE TYPE mood AS ENUM ('=sad')",
        "CREATE DOMAIN cents AS int",
        f"CREATE TABLE cells (id int, at timestamptz, tenant text, {columns})",
        f"INSERT INTO cells VALUES (1, '2026-01-01', 't1', {', '.join(value for _, value, _ in CELLS)})",
    )

    _, row = parsed(lines(dsn, content(format="csv"), "cells"))

    assert row[3:] == [expected for _, _, expected in CELLS]


def test_a_header_is_text_too(dsn: str) -> None:
    execute(
        dsn,
        'CREATE TABLE headed (id int, at timestamptz, tenant text, "=a,b" int)',
        "INSERT INTO headed VALUES (1, '2026-01-01', 't1', -5)",
    )

    found = lines(dsn, content(format="csv"), "headed", fields=["=a,b"])

    assert found == [b'"\'=a,b"\n', b"-5\n"]


def test_masking_works_in_csv_too(dsn: str) -> None:
    masking = {"phone": "hash", "note": "redact", "id": "hash"}

    found = parsed(lines(dsn, content(format="csv", masking=masking), fields=["id", "phone", "note"]))

    assert found == [
        ["id", "phone", "note"],
        [hashed("1"), hashed("+41 44 123"), ""],
        [hashed("2"), "", ""],
        [hashed("3"), hashed('\x01\x02"\n'), ""],
    ]


def test_rows_keep_their_order_in_every_way_of_writing(dsn: str) -> None:
    execute(
        dsn,
        """CREATE TABLE ordered AS SELECT i AS id, timestamptz '2026-01-01' + (i * 7919 % 1000) * interval '1 s' AS at,
                  't1' AS tenant FROM generate_series(1, 5000) i""",
    )
    ids = [json.loads(line)["id"] for line in lines(dsn, content(), "ordered")]

    spliced = [json.loads(line)["id"] for line in lines(dsn, content(masking={"at": "hash"}), "ordered")]
    tabular = [int(row[0]) for row in parsed(lines(dsn, content(format="csv"), "ordered"))[1:]]

    assert ids != sorted(ids)
    assert spliced == tabular == ids
