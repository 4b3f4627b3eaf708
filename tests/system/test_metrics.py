"""What a running stack tells Prometheus and Grafana after one export that succeeded and one that failed."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.local import data
from deploy.local.stack import SERVICES, SOURCES_DATABASE, Stack
from tests.system.driver import Row, Tenant, eventually, tenant
from tests.system.stacks import running

DOCUMENTATION = Path(__file__).parents[2].joinpath("docs/operate/metrics.md").read_text()


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[Stack]:
    async with running("embedded") as stack:
        dsn = stack.dsn(SOURCES_DATABASE)
        await data.create_schema(dsn)
        await data.load_interactions(dsn, "ucs", rows=500)
        yield stack


@pytest.fixture(scope="module")
async def acme(stack: Stack) -> AsyncIterator[Tenant]:
    """A tenant, one of whose runs succeeded, and whose other one failed."""
    async with tenant(stack, "acme") as acme:
        assert await ended(acme, await acme.submit()) == "succeeded"
        # The operator's sources have it, the database does not any more.
        connection = await asyncpg.connect(stack.dsn(SOURCES_DATABASE))
        await connection.execute("ALTER TABLE ucs.interactions RENAME TO gone")
        await connection.close()
        assert await ended(acme, await acme.submit()) == "failed"
        yield acme


async def ended(acme: Tenant, job: Row) -> str:
    async def look() -> str | None:
        latest = (await acme.get(f"/jobs/{job['id']}"))["latest_run"]
        return latest["state"] if latest and latest["state"] in ("succeeded", "failed") else None

    return await eventually(look, what="the end of the run")


async def metrics(stack: Stack, service: str) -> dict[tuple[str, ...], float]:
    """The samples of a service by name and values of labels, in the order of their names; -1 for families of none."""
    async with httpx.AsyncClient(base_url=stack.url_of(service)) as client:
        text = (await client.get("/metrics")).raise_for_status().text
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(text):
        found[family.name + "_total" * (family.type == "counter"),] = -1.0
        found |= {(sample.name, *sample.labels.values()): sample.value for sample in family.samples}
    return found


async def test_an_export_is_counted_where_it_happens(stack: Stack, acme: Tenant) -> None:
    async def counted() -> dict[tuple[str, ...], float] | None:
        # An attempt is timed when it has cleaned up, after its end is told.
        found = await metrics(stack, "exporter")
        return found if found.get(("cdds_attempt_duration_seconds_count", "failed")) else None

    exporter = await eventually(counted, what="the failed attempt")
    assert exporter["cdds_exported_rows_total", "ucs"] > 0
    assert exporter["cdds_exported_bytes_total", "ucs"] > exporter["cdds_artifact_stored_bytes_total",] > 0
    assert exporter["cdds_attempt_duration_seconds_count", "succeeded"] == 1
    assert exporter["cdds_attempt_duration_seconds_count", "failed"] == 1
    assert exporter["cdds_attempt_failures_total", "source_refused"] == 1
    scheduler = await metrics(stack, "scheduler")
    assert scheduler["cdds_events_consumed_total", "applied", "job_api.jobs.v1"] >= 2
    assert scheduler["cdds_events_consumed_total", "dead", "job_api.jobs.v1"] == 0


async def test_gauges_of_the_database_come_by_themselves(stack: Stack, acme: Tenant) -> None:
    async def measured() -> bool:
        job_api = await metrics(stack, "job_api")
        return job_api["cdds_certificates", "later"] == 1 and job_api["cdds_certificate_expiry_seconds",] > 80 * 86400

    await eventually(measured, what="the certificate")

    async def all_sent() -> bool:
        exporter = await metrics(stack, "exporter")
        return exporter["cdds_outbox_unsent",] == exporter["cdds_outbox_age_seconds",] == 0

    await eventually(all_sent, what="an outbox that is sent")
    assert (await metrics(stack, "exporter"))["cdds_runs", "manual", "queued"] == 0
    assert (await metrics(stack, "scheduler"))["cdds_schedule_lag_seconds",] == 0


async def test_each_service_exposes_the_metrics_that_are_documented_for_it(stack: Stack, acme: Tenant) -> None:
    exposed = {service: {name for name, *_ in await metrics(stack, service)} for service in SERVICES}
    rows = [line.split("|") for line in DOCUMENTATION.splitlines() if line.startswith("| `cdds_")]
    assert rows
    for _, names, _, where, *_ in rows:
        services = [service for service in SERVICES if service in where] or SERVICES
        for name in re.findall(r"`(cdds_\w+)`", names):
            assert all(name in exposed[service] for service in services), name


async def test_dashboards_read_of_both_runs(stack: Stack, acme: Tenant) -> None:
    connection = await asyncpg.connect(stack.dsn())
    try:
        await connection.execute("SET ROLE history_dashboards; SET search_path = history")

        read = (await metrics(stack, "exporter"))["cdds_exported_rows_total", "ucs"]

        async def counted() -> bool:
            row = await connection.fetchrow(
                "SELECT sum(succeeded) AS succeeded, sum(failed) AS failed, sum(rows) AS rows FROM dashboard_statistics"
            )
            return tuple(row or ()) == (1, 1, read)

        await eventually(counted, what="the statistics of the day")
        reasons = await connection.fetch("SELECT state, reason FROM dashboard_executions ORDER BY state")
        assert [tuple(row) for row in reasons] == [("failed", "source_refused"), ("succeeded", None)]
        assert await connection.fetch("SELECT * FROM dashboard_progress") == []
    finally:
        await connection.close()
