"""One stack for all tests of an operator's commands; each puts back what it broke."""

from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from deploy.local import data
from deploy.local.stack import SOURCES_DATABASE, Options, Stack
from tests.system.driver import Tenant, tenant


@pytest.fixture(scope="package")
async def stack() -> AsyncIterator[Stack]:
    """A whole stack on the embedded broker, with one small source."""
    # Not under pytest's own folder, which is closed to the account PostgreSQL runs as when root starts it.
    with TemporaryDirectory(prefix="cdds-test-", ignore_cleanup_errors=True) as folder:
        # What the services write goes to a file: standard output is the command's whose test is running.
        async with Stack(Options(data=Path(folder) / "data"), output=Path(folder) / "services.log") as stack:
            await data.create_schema(stack.dsn(SOURCES_DATABASE))
            yield stack


@pytest.fixture(scope="package")
async def acme(stack: Stack) -> AsyncIterator[Tenant]:
    """A tenant with a valid certificate."""
    async with tenant(stack) as acme:
        yield acme
