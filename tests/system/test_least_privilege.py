"""A whole stack whose services log in with no more rights than deploy/postgres gives them, over TLS if it is there."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest

from cli.installation import STATEFUL
from deploy.local import data
from deploy.local.stack import SERVICES, Options, Stack
from tests.cli.operate.commands import cdds
from tests.postgres.server import ROLES, SOURCE, SecureServer, has_tls, secure_server
from tests.system.driver import Tenant, eventually, fetch, tenant
from tests.system.invariants import assert_invariants

ROWS = 500


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[SecureServer]:
    """With roles and sources, and without any schema of a service."""
    async with secure_server(tls=has_tls()) as running:
        await running.psql(ROLES)
        await data.create_schema(running.dsn)
        await data.load_interactions(running.dsn, "ucs", rows=ROWS)
        await running.psql(SOURCE, "-v", "tables=ucs.interactions,ucs.attachments,ucs.contacts")
        yield running


@pytest.fixture(scope="module")
def settings(server: SecureServer) -> dict[str, str]:
    """What an operator sets for the services."""
    chosen = {"CDDS_SOURCE_UCS": server.dsn_of("cdds_reader")}
    for service in STATEFUL:
        chosen[f"CDDS_{service.upper()}_POSTGRES"] = server.dsn_of(f"{service}_login")
        chosen[f"CDDS_{service.upper()}_MIGRATE"] = "false"
    return chosen


def as_owners(server: SecureServer, patched: pytest.MonkeyPatch, *services: str) -> None:
    for service in services:
        patched.setenv(f"CDDS_{service.upper()}_POSTGRES", server.dsn_of(f"{service}_owner"))


@pytest.fixture(scope="module")
async def stack(server: SecureServer, settings: dict[str, str]) -> AsyncIterator[Stack]:
    """Services that were started before the schemas were there."""
    with TemporaryDirectory(prefix="cdds-test-", ignore_cleanup_errors=True) as folder:
        options = Options(Path(folder) / "data", postgres=server.dsn, environment=settings)
        # To a file: standard output is the command's whose test is running.
        stack = Stack(options, output=Path(folder) / "services.log")
        starting = asyncio.create_task(stack.__aenter__())
        try:
            async with httpx.AsyncClient(timeout=5) as http:

                async def waits() -> bool:
                    assert not starting.done(), starting.result()
                    return all([await is_alive_and_waits(http, stack.url_of(name)) for name in STATEFUL])

                await eventually(waits, what="services that wait for their schema")
            with pytest.MonkeyPatch.context() as patched:
                as_owners(server, patched, *STATEFUL)
                # Twice at once, as two operators would.
                first, second = await asyncio.gather(*(cdds_process("migrate", server=server) for _ in range(2)))
            assert first == second == 0
            await starting
            yield stack
            await assert_invariants(stack)
        finally:
            await asyncio.wait({starting})
            await stack.__aexit__()


async def cdds_process(*arguments: str, server: SecureServer) -> int:
    import os
    import sys

    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "cli", *arguments, env=dict(os.environ))
    return await process.wait()


async def is_alive_and_waits(http: httpx.AsyncClient, url: str) -> bool:
    try:
        alive, ready = await http.get(f"{url}/health/live"), await http.get(f"{url}/health/ready")
    except httpx.TransportError:
        return False
    assert ready.status_code == 503
    return alive.status_code == 200 and ready.json()["failed"] == {"schema": "SchemaAwaited"}


@pytest.fixture(scope="module")
async def acme(stack: Stack) -> AsyncIterator[Tenant]:
    async with tenant(stack, "acme") as acme:
        yield acme


@pytest.fixture
def in_environment(stack: Stack) -> Iterator[pytest.MonkeyPatch]:
    """The settings of the services, as in their containers."""
    with pytest.MonkeyPatch.context() as patched:
        described = stack.describe()["settings"]
        assert isinstance(described, dict)
        for service in SERVICES:
            for name, value in {**described[service], **stack.secrets.settings(service)}.items():
                patched.setenv(name, value)
        yield patched


async def test_a_job_runs_to_its_artifact_and_its_history(stack: Stack, acme: Tenant) -> None:
    execution = await acme.succeeded(await acme.submit())
    export = await acme.download(execution)
    mine = "SELECT count(*) AS rows FROM ucs.interactions WHERE \"tenantId\" = 'acme'"
    assert len(export.lines) == (await fetch(stack, mine))[0]["rows"] > 0


async def test_every_connection_is_of_a_login_and_encrypted(stack: Stack, server: SecureServer) -> None:
    rows = await fetch(
        stack,
        """SELECT application_name AS name, usename AS login, ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
           WHERE application_name LIKE 'cdds-%'""",
    )
    assert {row["name"]: row["login"] for row in rows} == {f"cdds-{name}": f"{name}_login" for name in STATEFUL}
    assert all(row["ssl"] for row in rows) == server.tls


async def test_an_operators_commands_need_no_more_than_the_services(
    stack: Stack, acme: Tenant, server: SecureServer, in_environment: pytest.MonkeyPatch
) -> None:
    checked = await cdds("doctor")
    assert checked.code == 0, checked.output
    republished = await cdds("republish")
    assert republished.code == 0, republished.error
    await assert_invariants(stack)
    refused = await cdds("history", "rebuild", "--here")
    assert refused.code == 1
    assert "is not the owner's" in refused.error
    as_owners(server, in_environment, "history")
    rebuilt = await cdds("history", "rebuild", "--here", "--output", "json")
    assert rebuilt.code == 0, rebuilt.error
    assert rebuilt.output, rebuilt
    assert rebuilt.json()["equal"]
    assert rebuilt.json()["swapped"]
    assert await fetch(stack, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'history%'") == [("history",)]
    execution = await acme.succeeded(await acme.submit())
    assert len((await acme.download(execution)).lines) > 0
