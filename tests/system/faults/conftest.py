"""One stack on Apache Kafka, with a source of its own, for every test of this folder."""

from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from deploy.local.postgres import FAST_AND_UNSAFE, EmbeddedPostgres
from tests.system.driver import Tenant, tenant
from tests.system.faults.lab import DATABASE, TABLES, Lab, sources
from tests.system.stacks import running


@pytest.fixture(scope="package")
async def lab() -> AsyncIterator[Lab]:
    with TemporaryDirectory(prefix="cdds-test-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with EmbeddedPostgres(folder / "source", settings=FAST_AND_UNSAFE) as server:
            await server.create_database(DATABASE)
            (folder / "lab.dsn").write_text(server.dsn(DATABASE).replace("postgres@", "reader@"))
            (folder / "sources.toml").write_text(sources(folder / "lab.dsn"))
            (folder / "holds").mkdir()
            environment = {"CDDS_EXPORTER_CONCURRENT_RUNS": "1", "CDDS_FAILPOINT_HOLDS": str(folder / "holds")}
            async with running("apache", environment=environment, sources=folder / "sources.toml") as stack:
                laboratory = Lab(stack, server, folder / "holds")
                await laboratory.execute(*TABLES)
                yield laboratory


@pytest.fixture(scope="package")
async def acme(lab: Lab) -> AsyncIterator[Tenant]:
    async with tenant(lab.stack) as acme:
        yield acme
