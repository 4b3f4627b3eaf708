"""The JSON Schema of an export holds for every record of it, and for little else."""

import csv
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import jsonschema_rs
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.exporter.pipeline.content import Content
from services.exporter.pipeline.extract import Extraction
from services.exporter.pipeline.schema import schema
from tests.conftest import fresh_database
from tests.exporter.queries import query, records
from tests.exporter.test_pipeline_extract import VALUES, execute

KEY = bytes(range(32))
# A lone surrogate is valid inside a `json` column and in no validator.
EVERY_TYPE = [(kind, value) for kind, value, _ in VALUES if "ud800" not in value]
COLUMNS = ", ".join(f"c{number} {kind}" for number, (kind, _) in enumerate(EVERY_TYPE))


@pytest.fixture(scope="module")
async def dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    async with fresh_database(postgres) as dsn:
        execute(
            dsn,
            "CREATE TYPE mood AS ENUM ('very ''good''')",
            'CREATE TYPE pair AS ("left" int, "right" text)',
            f"CREATE TABLE torture (id int NOT NULL, at timestamptz, tenant text, {COLUMNS})",
            f"INSERT INTO torture VALUES (1, '2026-01-01', 't1', {', '.join(value for _, value in EVERY_TYPE)})",
            "INSERT INTO torture (id, at, tenant) VALUES (2, '2026-01-01', 't1')",
        )
        yield dsn


def validator(document: bytes) -> Callable[[Any], list[str]]:
    checked = jsonschema_rs.Draft7Validator(json.loads(document))
    return lambda record: [f"{list(error.instance_path)}: {error.message}" for error in checked.iter_errors(record)]


def exported(dsn: str, content: Content | None = None, **changes: Any) -> tuple[bytes, list[bytes]]:
    with Extraction(query(dsn, "torture", **changes), content or Content()) as source:
        return schema("r", source.entities), list(records(source))


def test_the_schema_itself_is_draft_7(dsn: str) -> None:
    document, _ = exported(dsn)

    assert json.loads(document)["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert jsonschema_rs.meta.is_valid(json.loads(document))


def test_every_record_of_every_type_fulfils_its_schema(dsn: str) -> None:
    document, lines = exported(dsn)
    faults = validator(document)

    assert [faults(json.loads(line)) for line in lines] == [[], []]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"id": None}, "the column is not nullable"),
        ({"id": "1"}, "a number is no text"),
        ({"id": 2**31}, "more than an int holds"),
        ({"c0": 2**15}, "more than a smallint holds"),
        ({"surplus": 1}, "there is no such column"),
    ],
)
def test_a_record_that_the_export_could_not_contain_is_refused(dsn: str, change: Mapping[str, Any], why: str) -> None:
    document, lines = exported(dsn)

    assert validator(document)(json.loads(lines[0]) | change) != [], why


def test_a_record_without_one_of_its_fields_is_refused(dsn: str) -> None:
    document, lines = exported(dsn)
    record = json.loads(lines[0])
    del record["c3"]

    assert validator(document)(record) != []


def test_masked_fields_are_hashes_or_nothing(dsn: str) -> None:
    content = Content(masking={"id": "hash", "tenant": "redact"}, key=KEY)
    document, lines = exported(dsn, content, fields=["id", "tenant", "at"])
    faults = validator(document)
    record = json.loads(lines[0])

    assert faults(record) == []
    assert faults(record | {"id": 1}) != []
    assert faults(record | {"tenant": "t1"}) != []


def test_csv_records_are_texts_under_their_header(dsn: str) -> None:
    document, lines = exported(dsn, Content("csv"))
    names = json.loads(document)["definitions"]["Interaction"]["required"]
    values = list(csv.reader(io.StringIO(b"".join(lines).decode(), newline="")))
    faults = validator(document)

    assert [faults(dict(zip(names, row, strict=True))) for row in values] == [[], []]
