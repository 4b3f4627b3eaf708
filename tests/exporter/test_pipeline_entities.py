"""What else a type of a source may be: a query, with attachments, with types of extensions."""

import base64
import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.exporter.pipeline.content import Content
from services.exporter.pipeline.errors import SourceRefused, TypeUnknown
from services.exporter.pipeline.extract import Extraction
from tests.conftest import fresh_database
from tests.exporter.queries import query, records
from tests.exporter.test_pipeline_extract import execute

KEY = bytes(range(32))
ATTACHMENTS = {"table": "public.files", "entity_column": "of", "content_column": "body", "tenant_column": "tenant"}


@pytest.fixture(scope="module")
async def dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    async with fresh_database(postgres) as dsn:
        execute(
            dsn,
            "CREATE EXTENSION hstore",
            "CREATE TABLE rows (id int NOT NULL, at timestamptz, tenant text, channel text)",
            """INSERT INTO rows VALUES (1, '2026-01-01', 't1', 'email'), (2, '2026-01-02', 't1', 'voice'),
                                       (3, '2026-02-01', 't1', 'email'), (1, '2026-01-01', 't2', 'email')""",
            "CREATE TABLE files (name text, of int, tenant text, body bytea)",
            """INSERT INTO files VALUES
               ('of the first', 1, 't1', '\\x00ff0a'), ('long', 1, 't1', decode(repeat('00ff', 1000), 'hex')),
               ('empty', 2, 't1', ''), ('later', 3, 't1', 'x'), ('of nobody', 9, 't1', 'x'), ('none', 2, 't1', NULL),
               ('of another tenant', 1, 't2', 'secret')""",
            "CREATE TABLE bags (id int, at timestamptz, tenant text, bag hstore, bags hstore[])",
            "INSERT INTO bags VALUES (1, '2026-01-01', 't1', 'a=>1', ARRAY['b=>2'::hstore])",
        )
        yield dsn


def attached(dsn: str, content: Content | None = None, **changes: Any) -> list[bytes]:
    """The records of the attachments; one of CSV has its header before it."""
    asked = query(dsn, "rows", types_attachments=ATTACHMENTS, attachments=True, **changes)
    with Extraction(asked, content or Content()) as source:
        _, files = source.entities
        assert files.name == "Interaction-Attachment"
        return [files.encoder.header, *(record for batch in source.batches(files) for record in batch.records())]


def names(lines: list[bytes]) -> set[str]:
    return {json.loads(line)["name"] for line in lines if line}


def test_attachments_are_those_of_the_exported_rows(dsn: str) -> None:
    assert names(attached(dsn)) == {"of the first", "long", "empty", "none", "later"}
    assert names(attached(dsn, interval_to=datetime(2026, 1, 2, tzinfo=UTC))) == {"of the first", "long"}
    assert names(attached(dsn, media_type_column="channel", media_types=["voice"])) == {"empty", "none"}
    assert names(attached(dsn, tenant="t2")) == {"of another tenant"}


def test_contents_are_base64_without_line_breaks(dsn: str) -> None:
    contents = {record["name"]: record["body"] for record in map(json.loads, attached(dsn)[1:])}

    assert base64.b64decode(contents["of the first"], validate=True) == b"\x00\xff\n"
    assert base64.b64decode(contents["long"], validate=True) == b"\x00\xff" * 1000
    assert (contents["empty"], contents["none"]) == ("", None)


def test_attachments_in_csv_hold_the_same(dsn: str) -> None:
    rows = csv.DictReader(io.StringIO(b"".join(attached(dsn, Content("csv"))).decode(), newline=""))

    assert {row["name"]: row["body"] for row in rows}["of the first"] == base64.b64encode(b"\x00\xff\n").decode()


def test_what_joins_attachments_to_rows_is_masked_alike(dsn: str) -> None:
    content = Content(masking={"id": "hash", "channel": "redact"}, key=KEY)
    asked = query(dsn, "rows", types_attachments=ATTACHMENTS, attachments=True)
    with Extraction(asked, content) as source:
        ids = {json.loads(record)["id"] for record in records(source)}

    assert {json.loads(record)["of"] for record in attached(dsn, content)[1:]} == ids


def test_attachments_that_are_not_asked_for_stay_away(dsn: str) -> None:
    with Extraction(query(dsn, "rows", types_attachments=ATTACHMENTS)) as source:
        assert [entity.name for entity in source.entities] == ["Interaction"]


def test_the_expected_total_has_the_attachments_in_it(dsn: str) -> None:
    with Extraction(query(dsn, "rows", types_attachments=ATTACHMENTS, attachments=True)) as source:
        assert source.total() == 3 + 5


def test_an_attachment_table_without_its_columns_is_refused_by_name(dsn: str) -> None:
    wrong = ATTACHMENTS | {"content_column": "contents"}
    with (
        pytest.raises(SourceRefused, match=r"public\.files has no column contents"),
        Extraction(query(dsn, "rows", types_attachments=wrong, attachments=True)),
    ):
        pass


def test_a_query_is_exported_like_a_table(dsn: str) -> None:
    joined = """SELECT r.*, '{}' || upper(channel) AS "Loud %s", (SELECT count(*) FROM files WHERE of = r.id) AS files
                FROM rows r WHERE channel <> 'voice' -- the last line"""
    with Extraction(query(dsn, "", type_query=joined, interval_to=datetime(2026, 1, 31, tzinfo=UTC))) as source:
        (record,) = records(source)
        assert source.total() == 1
        assert source.width(source.entities[0]) is None

    assert json.loads(record) == {
        "id": 1, "at": "2026-01-01T00:00:00+00:00", "tenant": "t1", "channel": "email",
        "Loud %s": "{}EMAIL", "files": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("SELECT nothing", "nothing"),
        ("DELETE FROM rows RETURNING *", "syntax error"),
        ("WITH gone AS (DELETE FROM rows RETURNING *) SELECT * FROM gone", "top level"),
        ("SELECT 1 AS id) q; DROP TABLE rows; --", "syntax error"),
        ("SELECT 1 AS id", "no column at, tenant"),
    ],
)
def test_a_query_that_cannot_be_read_from_is_refused_and_changes_nothing(dsn: str, text: str, because: str) -> None:
    with pytest.raises(SourceRefused, match=because), Extraction(query(dsn, "", type_query=text)):
        pass


def test_a_query_that_writes_through_a_function_is_refused(dsn: str) -> None:
    execute(
        dsn,
        "CREATE OR REPLACE FUNCTION writing() RETURNS int LANGUAGE sql AS 'DELETE FROM rows RETURNING id'",
    )
    text = "SELECT writing() AS id, now() AS at, 't1' AS tenant"
    with (
        pytest.raises(SourceRefused, match="read-only transaction"),
        Extraction(query(dsn, "", type_query=text)) as source,
    ):
        list(records(source))


def test_types_of_extensions_fail_the_run_by_name(dsn: str) -> None:
    with (
        pytest.raises(TypeUnknown, match=r"bag \(hstore\), bags \(hstore\[\]\); set unknown_types"),
        Extraction(query(dsn, "bags")),
    ):
        pass

    with Extraction(query(dsn, "bags", fields=["id"])) as source:
        assert list(records(source)) == [b'{"id":1}\n']


@pytest.mark.parametrize("format_", ["jsonl", "csv"])
def test_types_of_extensions_are_text_where_the_operator_wants_that(dsn: str, format_: Any) -> None:
    with Extraction(query(dsn, "bags", unknown_types="text", fields=["bag", "bags"]), Content(format_)) as source:
        (record,) = records(source)

    assert (
        record
        == {
            "jsonl": b'{"bag":"\\"a\\"=>\\"1\\"","bags":"{\\"\\\\\\"b\\\\\\"=>\\\\\\"2\\\\\\"\\"}"}\n',
            "csv": b'"""a""=>""1""","{""\\""b\\""=>\\""2\\""""}"\n',
        }[format_]
    )


def test_faithful_csv_changes_no_cell(dsn: str) -> None:
    text = "SELECT 1 AS id, timestamptz '2026-01-01' AS at, 't1' AS tenant, '=1+1' AS formula, '-5' AS text"
    cells: dict[str, bytes] = {}
    for profile in ("spreadsheet", "faithful"):
        content = Content("csv", csv_profile=profile)
        with Extraction(query(dsn, "", type_query=text, fields=["formula", "text"]), content) as source:
            (cells[profile],) = records(source)

    assert cells == {"spreadsheet": b"'=1+1,'-5\n", "faithful": b"=1+1,-5\n"}
