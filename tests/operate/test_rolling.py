"""Every service replaced under load by a second replica of itself; `make rehearse-upgrade` does it between versions."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from deploy.local import data
from deploy.local.stack import SOURCES_DATABASE, Options
from tests.operate.rolling import VersionedStack, load_of, roll
from tests.system.driver import tenant
from tests.system.invariants import assert_invariants
from tests.system.stacks import show

HERE = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_services_replaced_one_after_the_other_lose_nothing() -> None:
    with TemporaryDirectory(prefix="cdds-test-", ignore_cleanup_errors=True) as folder:
        async with VersionedStack(Options(Path(folder) / "data"), HERE, show) as stack:
            await data.create_schema(stack.dsn(SOURCES_DATABASE))
            await data.load_interactions(stack.dsn(SOURCES_DATABASE), "ucs", rows=200)
            async with tenant(stack, "acme") as acme, tenant(stack, "globex") as globex:
                async with load_of(acme, globex) as load:
                    await roll(stack, HERE)
                await load.assert_all_succeeded(stack)
            await assert_invariants(stack)
