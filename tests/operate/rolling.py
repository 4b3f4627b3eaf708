"""One service after the other is replaced by another version, old and new side by side, while jobs are submitted."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from deploy.local.processes import Child
from deploy.local.stack import SERVICES, Options, Stack
from tests.system.driver import JOB, Load, Tenant, eventually

SIDE_BY_SIDE = timedelta(seconds=4)
"""How long two versions of a service work together."""
PAUSE = timedelta(seconds=1)
"""Between two jobs of a tenant: so many come while they do, and a machine of two cores keeps up."""
DAILY: Mapping[str, Any] = MappingProxyType(
    {"schedule": {"kind": "daily", "at": "03:00"}, "start": None, "timeframe": {"kind": "all"}}
)
"""What makes of a job one that can be edited and run by hand."""

ANY_VERSION: Mapping[str, str] = MappingProxyType({"If-Match": "*"})


class VersionedStack(Stack):
    """A stack whose services are of the version in a folder, which can be another one at each start."""

    def __init__(self, options: Options, version: Path, output: Any = None) -> None:
        super().__init__(options, output)
        self.version = version

    def _child(self, service: str, environment: Mapping[str, str]) -> Child:
        child = super()._child(service, {**environment, "PYTHONPATH": str(self.version)})
        child._cwd = self.version  # what `python -m` looks into first
        return child


async def roll(stack: VersionedStack, to: Path) -> None:
    """Replace every service by version `to`: a second replica of it comes first, then the old one goes."""
    for service in SERVICES:
        stack.version = to
        async with stack.replica(service):
            await asyncio.sleep(SIDE_BY_SIDE.total_seconds())
            await stack.restart(service)


@asynccontextmanager
async def load_of(*tenants: Tenant) -> AsyncGenerator[Load]:
    """Jobs of all tenants at a steady pace, and every other command on further jobs."""
    submitted = Load()
    over = asyncio.Event()

    async def submit(who: Tenant) -> None:
        number = 0
        while not over.is_set():
            number += 1
            # Who gets no answer asks again with the same key, and the job is there once.
            key = f"{who.name}-{id(submitted)}-{number}"
            submitted.note(await answered(who, "POST", "/jobs", JOB, {"Idempotency-Key": key}))
            await pause()

    async def command(who: Tenant) -> None:
        while not over.is_set():
            job = (await answered(who, "POST", "/jobs", {**JOB, **DAILY})).json()
            path = f"/jobs/{job['id']}"
            run = await answered(who, "POST", f"{path}/run")
            note(await answered(who, "PATCH", path, {"title": "Edited"}, ANY_VERSION), 200)
            await pause()
            note(await answered(who, "POST", f"/runs/{run.json()['run_id']}/cancel"), 202, 404, 409)
            note(await answered(who, "POST", f"{path}/suspend"), 200)
            await pause()
            note(await answered(who, "DELETE", path, headers=ANY_VERSION), 204, 404, 409)

    def note(answer: httpx.Response, *expected: int) -> None:
        if answer.status_code not in expected:
            submitted.wrong.append(f"{answer.request.method} {answer.request.url.path}: {answer.text}")

    async def pause() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), PAUSE.total_seconds())

    async with asyncio.TaskGroup() as tasks:
        for who in tenants:
            tasks.create_task(submit(who))
            tasks.create_task(command(who))
        try:
            yield submitted
        finally:
            over.set()


async def answered(
    who: Tenant, method: str, path: str, body: Any = None, headers: Mapping[str, str] = MappingProxyType({})
) -> httpx.Response:
    """The answer, asked for again while there is none: a local stack has one address, and its console is replaced."""

    async def ask() -> httpx.Response | None:
        with suppress(httpx.TransportError):
            answer = await who.api.request(method, path, json=body, headers=dict(headers))
            return None if answer.status_code == 503 else answer
        return None

    return await eventually(ask, within=timedelta(minutes=2), what=f"an answer to {method} {path}")
