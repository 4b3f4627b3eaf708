"""Rows that break exporters: huge ones, none at all, every type, hostile text, and tables that can't be exported."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from deploy.local.stack import SOURCES_DATABASE, Stack
from tests.exporter.test_pipeline_extract import VALUES
from tests.system.driver import Export, Row, Tenant, execute, fetch, tenant
from tests.system.invariants import assert_invariants
from tests.system.stacks import BROKERS, running

LARGE_BYTES = 20 * 1024**2
COLUMNS = ", ".join(f"c{number} {kind}" for number, (kind, _, _) in enumerate(VALUES))
KEY = "id int, at timestamptz, tenant text"
FIRST = "1, '2026-01-01', 'acme'"

TABLES = (
    "CREATE SCHEMA lab",
    "CREATE TYPE mood AS ENUM ('very ''good''')",
    'CREATE TYPE pair AS ("left" int, "right" text)',
    f"CREATE TABLE lab.every_type ({KEY}, {COLUMNS})",
    f"INSERT INTO lab.every_type VALUES ({FIRST}, {', '.join(value for _, value, _ in VALUES)})",
    f"CREATE TABLE lab.large ({KEY}, body text)",
    f"""INSERT INTO lab.large
        SELECT {FIRST}, string_agg(md5(i::text), '') FROM generate_series(1, {LARGE_BYTES // 32}) i""",
    f"CREATE TABLE lab.nothing ({KEY})",
    "CREATE TABLE lab.ours (id int, at timestamptz)",
    "INSERT INTO lab.ours VALUES (1, '2026-01-01'), (2, '2026-01-02')",
    f"CREATE TABLE lab.names ({KEY}, text text)",
)
TYPES = ("every_type", "large", "nothing", "names", "missing", "ours")
NAMES = [
    'Robert"); DROP TABLE students;--',
    "two\r\nlines\u2028and\u2029more\ttabs",
    "\u202eright to left \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd\u202c",
    "👩\u200d👩\u200d👧 🏳\ufe0f\u200d🌈 e\u0301",
    "=cmd|' /C calc'!A0",
    "\x01\x02\x1f\x7f\ufeff\uffff",
    "\\N \\. \\u0000 %s {0}",
    "",
]


def source(name: str, dsn: str, kind: str, *, tenant_column: bool = True) -> str:
    """A source with one type in the operator's file."""
    return f"""
[sources.{name}]
title = "{name}"
dsn = "{dsn}"
tenants = ["acme"]
[sources.{name}.types.row]
title = "Row"
table = "lab.{kind}"
id_column = "id"
time_column = "at"
{'tenant_column = "tenant"' if tenant_column else ""}
"""


@pytest.fixture(scope="module", params=BROKERS)
async def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    sources = tmp_path_factory.mktemp("sources") / "sources.toml"
    sources.write_text(
        "".join(source(kind, "env:CDDS_SOURCE_UCS", kind, tenant_column=kind != "ours") for kind in TYPES)
        + source("unset", "env:CDDS_SOURCE_NOBODY_SET", "nothing")
    )
    async with running(request.param, sources=sources) as stack:
        await execute(stack, *TABLES, database=SOURCES_DATABASE)
        await fetch(
            stack,
            "INSERT INTO lab.names SELECT row_number() OVER (), '2026-01-01', 'acme', t FROM unnest($1::text[]) t",
            NAMES,
            database=SOURCES_DATABASE,
        )
        yield stack
        await assert_invariants(stack)


@pytest.fixture(scope="module")
async def acme(stack: Stack) -> AsyncIterator[Tenant]:
    async with tenant(stack) as acme:
        yield acme


async def export(acme: Tenant, kind: str, **changes: Any) -> Export:
    job = await acme.submit(source=kind, type="row", title=kind, timeframe={"kind": "all"}, **changes)
    return await acme.download(await acme.succeeded(job))


async def failure(acme: Tenant, kind: str) -> Row:
    job = await acme.submit(
        source=kind, type="row", title=kind, timeframe={"kind": "all"}, retry={"attempts": 2, "backoff": "PT0.1S"}
    )
    (execution,) = await acme.finished(job)
    assert execution["state"] == "failed"
    return execution


async def test_every_type_arrives_as_its_rule_says(acme: Tenant) -> None:
    (row,) = (await export(acme, "every_type")).rows()
    assert [row[f"c{number}"] for number in range(len(VALUES))] == [expected for _, _, expected in VALUES]


async def test_hostile_text_arrives_unchanged(acme: Tenant) -> None:
    assert [row["text"] for row in (await export(acme, "names")).rows()] == NAMES


async def test_a_row_of_20_megabytes_arrives_although_parts_are_to_be_smaller(stack: Stack, acme: Tenant) -> None:
    received = await export(acme, "large", split_bytes=64 * 1024)
    ((expected,),) = await fetch(stack, "SELECT body FROM lab.large", database=SOURCES_DATABASE)
    assert [row["body"] for row in received.rows()] == [expected]
    assert received.parts[0]["plain_bytes"] > LARGE_BYTES


async def test_no_rows_give_one_part_with_an_empty_file(acme: Tenant) -> None:
    received = await export(acme, "nothing")
    assert [(part["rows"], part["plain_bytes"]) for part in received.parts] == [(0, 0)]


async def test_a_table_without_tenant_column_is_exported_for_the_tenant_that_owns_the_source(acme: Tenant) -> None:
    assert [row["id"] for row in (await export(acme, "ours")).rows()] == [1, 2]


async def test_a_table_that_is_missing_fails_the_run_at_once_and_says_so(acme: Tenant) -> None:
    execution = await failure(acme, "missing")
    assert (execution["reason"], execution["attempt"]) == ("source_refused", 1)
    assert execution["message"] == "The source database refused the query: there is no table lab.missing"


async def test_a_source_whose_address_is_not_set_fails_the_run_after_its_attempts_and_says_so(acme: Tenant) -> None:
    execution = await failure(acme, "unset")
    assert (execution["reason"], execution["attempt"]) == ("source_unconfigured", 2)
    assert execution["message"] == "the environment variable CDDS_SOURCE_NOBODY_SET is not set"
