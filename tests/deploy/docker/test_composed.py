"""The compose file in operation: healthy, the demo's rows equal, and every part killed in the middle of a run."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from deploy.local.data import create_schema, load_interactions
from deploy.local.stack import SERVICES
from tests.deploy.docker.engine import Composed
from tests.system.driver import Row, Tenant, eventually, fetch, tenant
from tests.system.invariants import QUERIES

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

ROWS = 200_000
"""Enough to be in the middle of for some seconds, at half a processor."""
PATIENT = {"retry": {"attempts": 10, "backoff": "PT1S"}, "split_bytes": 16 * 1024 * 1024}
ONCE = {"secrets", "bucket", "roles", "topics", "migrations"}


def test_it_comes_up_healthy(installation: Composed) -> None:
    for name, container in installation.containers().items():
        state = container["State"]
        if name in ONCE:
            assert (state["Status"], state["ExitCode"]) == ("exited", 0), name
        else:
            assert (state["Status"], state["Health"]["Status"]) == ("running", "healthy"), name
            assert container["RestartCount"] == 0, name


def test_only_this_machine_reaches_it(installation: Composed) -> None:
    for container in installation.containers().values():
        for bindings in container["NetworkSettings"]["Ports"].values():
            assert {binding["HostIp"] for binding in bindings or []} <= {"127.0.0.1"}


def test_no_container_says_its_secrets(installation: Composed) -> None:
    masters = installation.compose(
        "run", "--rm", "--no-deps", "--entrypoint", "sh", "secrets", "-c", "cat /var/lib/cdds/secrets/masters/*-*[a-z]"
    ).stdout
    secrets = [line for line in masters.split() if len(line) >= 40]
    said = installation.compose("logs", "--no-color").stdout
    said += json.dumps([container["Config"] for container in installation.containers().values()])
    assert secrets
    assert not [secret for secret in secrets if secret in said]


async def test_prometheus_reaches_every_service(installation: Composed) -> None:
    url = f"http://127.0.0.1:{installation.ports['PROMETHEUS_PORT']}/api/v1/query"

    async def look() -> bool:
        async with httpx.AsyncClient() as client:
            answer = (await client.get(url, params={"query": "up == 1"})).json()
        return {one["metric"]["service"] for one in answer["data"]["result"]} == set(SERVICES)

    await eventually(look, what="every service scraped once")


def test_the_demo_exports_what_is_in_the_source(installation: Composed) -> None:
    said = installation.compose("run", "--rm", "demo").stdout
    assert " rows are equal" in " ".join(said.split())


def test_the_doctor_finds_nothing_wrong(installation: Composed) -> None:
    ended = installation.compose("run", "--rm", "cdds", "doctor", "--output", "json", check=False)
    findings: list[dict[str, Any]] = json.loads(ended.stdout)["findings"]
    assert [finding for finding in findings if finding["status"] == "failed"] == []
    assert ended.returncode == 0


@pytest.fixture(scope="module")
async def rows(installation: Composed) -> int:
    """How many rows a run has to bring."""
    given = installation.compose(
        "run", "--rm", "--no-deps", "--entrypoint", "cat", "demo", "/run/secrets/source"
    ).stdout
    owner = given.strip().replace("@postgres:5432/", f"@127.0.0.1:{installation.ports['POSTGRES_PORT']}/")
    await create_schema(owner)
    await load_interactions(owner, rows=ROWS)
    query = """
        SELECT (SELECT count(*) FROM ucs.interactions WHERE "tenantId" = 'acme')
             + (SELECT count(*) FROM ucs.attachments WHERE tenantid = 'acme')"""
    return (await fetch(installation, query, database="cdds_sources"))[0][0]  # pyright: ignore[reportArgumentType]


async def settles(installation: Composed) -> None:
    """Every invariant holds in the end, one terminal event per run among them, and no byte is kept for nobody."""

    async def violated() -> list[str]:
        found = [sentence for sentence, query in QUERIES.items() if await fetch(installation, query)]  # pyright: ignore[reportArgumentType]
        keys = await fetch(installation, "SELECT object_key FROM exporter.artifacts WHERE state <> 'deleted'")  # pyright: ignore[reportArgumentType]
        listed = installation.compose("exec", "objects", "sh", "-c", "cd /data/cdds && find . -type f").stdout.split()
        stored = {name.removeprefix("./") for name in listed if not name.startswith("./.sgwtmp/")}
        return found + sorted(stored ^ {row["object_key"] for row in keys})

    async def look() -> bool:
        return not await violated()

    try:
        await eventually(look, within=timedelta(minutes=2))
    except AssertionError:
        assert await violated() == []


async def in_the_middle(who: Tenant, job: Row) -> Row:
    """The execution of a job while it reads and stores."""

    async def look() -> Row | None:
        return next(
            (
                e
                for e in await who.executions(job["id"])
                if e["state"] == "running" and (e["progress"] or {}).get("rows")
            ),
            None,
        )

    return await eventually(look, what="a run in progress", within=timedelta(minutes=2))


@pytest.mark.parametrize(
    "victim", ["job-api", "scheduler", "exporter", "history", "console", "kafka", "postgres", "objects"]
)
async def test_a_run_succeeds_once_whatever_is_killed_in_the_middle(
    installation: Composed, rows: int, victim: str
) -> None:
    async with tenant(installation) as who:  # pyright: ignore[reportArgumentType]
        job = await who.submit(title=f"Killing {victim}", **PATIENT)
        await in_the_middle(who, job)
        installation.compose("kill", victim)
        killed = datetime.now(UTC)
        installation.up()
        execution = await who.succeeded(job, within=timedelta(minutes=4))
        assert datetime.fromisoformat(execution["finished_at"]) > killed
        export = await who.download(execution)
        assert execution["rows"] == rows == len(export.lines) + len(export.attachments)
    await settles(installation)


async def test_what_was_stopped_goes_on_where_it_was(installation: Composed) -> None:
    async with tenant(installation) as who:  # pyright: ignore[reportArgumentType]
        before = await who.get("/jobs", limit=200)
        installation.compose("down")
        installation.up()
        after = await who.get("/jobs", limit=200)
        assert [job["id"] for job in after["items"]] == [job["id"] for job in before["items"]]
