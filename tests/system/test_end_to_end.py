"""A job from its submission to compared rows, for every kind of schedule."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import itemgetter
from typing import Any

import asyncpg
import pytest

from deploy.local import data
from deploy.local.stack import SOURCES_DATABASE, Stack
from shared.clock import floor_to, utc_text
from tests.system.driver import Export, Row, Tenant, eventually, fetch, tenant
from tests.system.invariants import assert_invariants
from tests.system.stacks import BROKERS, running

INTERACTIONS = 8_000
FLIGHTS = 336_776


@pytest.fixture(scope="module", params=BROKERS)
async def stack(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    async with running(request.param) as stack:
        dsn = stack.dsn(SOURCES_DATABASE)
        await data.create_schema(dsn)
        await data.load_interactions(dsn, "ucs", rows=INTERACTIONS)
        await data.load_contacts(dsn, "ucs", rows=INTERACTIONS // 4)
        assert await data.load_flights(dsn) == FLIGHTS
        yield stack
        await assert_invariants(stack)


@pytest.fixture(scope="module")
async def acme(stack: Stack) -> AsyncIterator[Tenant]:
    async with tenant(stack, "acme") as acme:
        yield acme


@pytest.fixture(scope="module")
async def globex(stack: Stack) -> AsyncIterator[Tenant]:
    async with tenant(stack, "globex") as globex:
        yield globex


SAME = ("text", "text[]", "int2", "int4", "int8", "bool")
"""Types whose values look the same to the driver, in binary form, and in JSON."""
RULES: Mapping[str, Callable[[Any, Any], bool]] = {
    "timestamptz": lambda exported, value: value is exported is None or datetime.fromisoformat(exported) == value,
    "jsonb": lambda exported, value: exported == json.loads(value, parse_float=Decimal),
}
"""How other types compare; the driver gives `jsonb` as text."""


async def assert_equals_table(export: Export, stack: Stack, key: str, query: str, *arguments: object) -> None:
    """Hold every exported row against the one in the database, column by column; `query` has the order of `key`."""
    connection = await asyncpg.connect(stack.dsn(SOURCES_DATABASE))
    try:
        statement = await connection.prepare(query)
        types = {column.name: column.type.name for column in statement.get_attributes()}
        expected = await statement.fetch(*arguments)
    finally:
        await connection.close()
    rules = {column: RULES[kind] for column, kind in types.items() if kind not in SAME}
    rows = sorted(export.rows(), key=itemgetter(key))
    for exported, record in zip(rows, expected, strict=True):
        assert list(exported) == list(types)
        row = dict(record)
        for column, is_same in rules.items():
            assert is_same(exported.pop(column), row.pop(column)), record
        assert exported == row


async def test_a_job_submitted_to_run_at_once_exports_every_row_of_its_tenant_and_no_other(
    stack: Stack, acme: Tenant, globex: Tenant
) -> None:
    jobs = [await who.submit(split_bytes=256 * 1024) for who in (acme, globex)]
    exports: list[Export] = []
    for who, job in zip((acme, globex), jobs, strict=True):
        assert (job["state"], job["suspended_reason"]) == ("suspended", "one_time")
        execution = await who.succeeded(job)
        assert execution["trigger"] == "immediate"
        exports.append(await who.download(execution))
        await assert_equals_table(
            exports[-1], stack, "ixnId",
            'SELECT * FROM ucs.interactions WHERE "tenantId" = $1 ORDER BY "ixnId" COLLATE "C"', who.name,
        )  # fmt: skip
    assert sum(len(export.lines) for export in exports) == INTERACTIONS
    assert len(exports[0].parts) > 1


async def test_all_flights_of_a_year_arrive_row_for_row(stack: Stack, acme: Tenant) -> None:
    job = await acme.submit(source="flights", type="flight", timeframe={"kind": "all"}, title="All flights")
    execution = await acme.succeeded(job)
    assert execution["rows"] == FLIGHTS
    export = await acme.download(execution)
    await assert_equals_table(export, stack, "id", "SELECT * FROM flights.flights ORDER BY id")


async def test_arrays_and_nested_values_arrive_as_they_are(stack: Stack, acme: Tenant) -> None:
    job = await acme.submit(type="contact", title="Contacts")
    export = await acme.download(await acme.succeeded(job))
    await assert_equals_table(
        export,
        stack,
        "ContactId",
        'SELECT * FROM ucs.contacts WHERE tenantid = $1 ORDER BY "ContactId" COLLATE "C"',
        "acme",
    )


async def test_a_job_for_a_later_time_waits_runs_once_and_is_then_done(acme: Tenant) -> None:
    start = floor_to(datetime.now(UTC), timedelta(seconds=1)) + timedelta(seconds=10)
    job = await acme.submit(start=utc_text(start), title="Later")
    assert job["state"] == "active"

    async def planned() -> Row | None:
        read = await acme.get(f"/jobs/{job['id']}")
        return read if read["next_slot_at"] else None

    waiting = await eventually(planned)
    assert datetime.fromisoformat(waiting["next_slot_at"]) == start

    execution = await acme.succeeded(job)

    assert (execution["trigger"], execution["slot_key"]) == ("schedule", f"schedule:{utc_text(start)}")
    assert datetime.fromisoformat(execution["requested_at"]) >= start
    done = await acme.shown(job, state="suspended", run="succeeded")
    assert (done["suspended_reason"], done["next_slot_at"], done["version"]) == ("one_time", None, 2)
    assert done["latest_run"]["id"] == execution["run_id"]


@pytest.mark.usefixtures("quiet_hour")
async def test_an_hourly_job_runs_at_its_boundary_and_names_the_next_one(stack: Stack, acme: Tenant) -> None:
    timeframe = {"kind": "last", "count": 1, "unit": "hour"}
    job = await acme.submit(
        schedule={"kind": "hourly", "every": 1}, start=None, timeframe=timeframe, type="contact", title="Hourly"
    )
    next_hour = floor_to(datetime.now(UTC), timedelta(hours=1)) + timedelta(hours=1)
    await acme.shown(job, next_slot_at=utc_text(next_hour))
    # Nobody can wait an hour here, so the slot becomes one that was missed three hours ago. No API allows this.
    missed = next_hour - timedelta(hours=3)
    backdate = "UPDATE scheduler.schedules SET next_slot_at = $2, due_at = $2 WHERE job_id = $1 RETURNING true"
    await eventually(lambda: fetch(stack, backdate, job["id"], missed), what="the job's schedule")

    executions = await acme.finished(job, count=3)

    slots = [next_hour - timedelta(hours=hours) for hours in (1, 2, 3)]
    assert sorted((e["slot_key"] for e in executions), reverse=True) == [f"schedule:{utc_text(at)}" for at in slots]
    assert {e["state"] for e in executions} == {"succeeded"}
    for execution in executions:
        at = datetime.fromisoformat(execution["slot_at"])
        assert datetime.fromisoformat(execution["question"]["interval_from"]) == at - timedelta(hours=1)
        assert datetime.fromisoformat(execution["question"]["interval_to"]) == at
        assert (await acme.download(execution)).lines == []
    read = await acme.shown(job, next_slot_at=utc_text(next_hour), run="succeeded")
    assert read["state"] == "active"


async def test_another_tenant_finds_nothing(acme: Tenant, globex: Tenant) -> None:
    job = await acme.submit(title="Mine alone")
    execution = await acme.succeeded(job)
    artifact = (await acme.get("/artifacts", run_id=execution["run_id"]))["items"][0]
    paths = [
        f"/jobs/{job['id']}",
        f"/executions/{execution['run_id']}",
        f"/files/{artifact['artifact_id']}",
        f"/files/{execution['manifest_id']}",
    ]
    for path in paths:
        answer = await globex.api.get(path)
        assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (404, "not-found")
        assert (await acme.api.get(path)).status_code == 200
    for path in ("/jobs", "/executions", "/artifacts"):
        assert "Mine alone" not in (await globex.api.get(path)).text
    refused = await globex.api.post("/jobs", json={**job["settings"], "source": "flights", "type": "flight"})
    assert refused.status_code == 422


async def test_lists_show_what_happened(acme: Tenant) -> None:
    job = await acme.submit(title="Listed")
    execution = await acme.succeeded(job)
    listed = (await acme.get("/executions", limit=1))["items"][0]
    assert (listed["run_id"], listed["title"]) == (execution["run_id"], "Listed")
    artifact = (await acme.get("/artifacts", limit=1))["items"][0]
    assert (artifact["run_id"], artifact["title"], artifact["remaining_days"]) == (execution["run_id"], "Listed", 30)
    newest = (await acme.get("/jobs", limit=1))["items"][0]
    assert newest["id"] == job["id"]
    read = await acme.shown(job, state="suspended", run="succeeded")
    assert read["latest_run"]["id"] == execution["run_id"]
