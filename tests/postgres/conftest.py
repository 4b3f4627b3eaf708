"""One server with TLS and roles, and the schemas of all services as `cdds migrate` makes them."""

from collections.abc import AsyncIterator

import pytest

from cli.installation import STATEFUL
from tests.cli.operate.commands import cdds
from tests.postgres.server import ROLES, SecureServer, secure_server


@pytest.fixture(scope="package", params=[False, True], ids=["embedded", "tls"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[SecureServer]:
    async with secure_server(tls=request.param) as running:
        await running.psql(ROLES)
        yield running


@pytest.fixture(scope="package")
async def migrated(server: SecureServer) -> SecureServer:
    """Everything that `cdds migrate` applies, each service as its owner, over TLS."""
    with pytest.MonkeyPatch.context() as patched:
        for service in STATEFUL:
            patched.setenv(f"CDDS_{service.upper()}_POSTGRES", server.dsn_of(f"{service}_owner"))
        ended = await cdds("migrate", "--output", "json")
        assert ended.code == 0, ended.error
        assert set(ended.json()["applied"]) == set(STATEFUL)
        assert all(ended.json()["applied"].values())
        again = await cdds("migrate", "--output", "json")
        assert again.json() == {"applied": {service: [] for service in STATEFUL}}
    return server
