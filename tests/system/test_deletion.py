"""A file that is deleted on request is gone everywhere, and history says so, within seconds."""

from collections.abc import AsyncIterator

import pytest

from deploy.local import data
from deploy.local.stack import SOURCES_DATABASE, Stack
from tests.system.driver import Row, Tenant, eventually, tenant
from tests.system.invariants import assert_invariants
from tests.system.stacks import running


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[Stack]:
    async with running("embedded") as stack:
        dsn = stack.dsn(SOURCES_DATABASE)
        await data.create_schema(dsn)
        await data.load_interactions(dsn, "ucs", rows=500)
        yield stack
        await assert_invariants(stack)


@pytest.fixture(scope="module")
async def acme(stack: Stack) -> AsyncIterator[Tenant]:
    async with tenant(stack, "acme") as acme:
        yield acme


async def test_a_deleted_file_is_gone_from_the_store_and_marked_in_history(stack: Stack, acme: Tenant) -> None:
    execution = await acme.succeeded(await acme.submit(attachments=False))
    (artifact,) = (await acme.get("/artifacts", run_id=execution["run_id"]))["items"]
    path = f"/files/{artifact['artifact_id']}"
    folder = stack.data / "objects" / execution["run_id"]
    part = await acme.api.get(path, headers={"Range": "bytes=0-9"})
    assert (part.status_code, len(part.content)) == (206, 10)

    assert (await acme.api.delete(path)).status_code == 204
    assert (await acme.api.get(path)).status_code == 410

    async def told() -> Row | None:
        (found,) = (await acme.get("/artifacts", run_id=execution["run_id"]))["items"]
        return found if found["deleted_at"] is not None else None

    await eventually(told, what="the deletion in history")
    assert not folder.exists()
    assert (await acme.api.get(path)).status_code == (await acme.api.delete(path)).status_code == 410
    assert (await acme.api.get(f"/files/{execution['manifest_id']}")).status_code == 200
