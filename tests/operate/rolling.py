"""One service after the other is replaced by another version, old and new side by side, while jobs are submitted."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from deploy.local.processes import Child
from deploy.local.stack import SERVICES, Options, Stack
from tests.system.driver import JOB, Load, Tenant

SIDE_BY_SIDE = timedelta(seconds=4)
"""How long two versions of a service work together."""
PAUSE = timedelta(seconds=1)
"""Between two jobs of a tenant: so many come while they do, and a machine of two cores keeps up."""


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
    """Jobs of all tenants at a steady pace; the one address of a local stack is away while the console is replaced."""
    submitted = Load()
    over = asyncio.Event()

    async def submit(who: Tenant) -> None:
        number = 0
        while not over.is_set():
            number += 1
            key = {"Idempotency-Key": f"{who.name}-{id(submitted)}-{number}"}
            for _ in range(600):
                # Who gets no answer asks again with the same key, and the job is there once.
                with suppress(httpx.TransportError):
                    answer = await who.api.post("/jobs", json=JOB, headers=key)
                    if answer.status_code != 503:
                        submitted.note(answer)
                        break
                await asyncio.sleep(0.2)
            else:
                submitted.wrong.append(f"{who.name}: no answer in 2 minutes")
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), PAUSE.total_seconds())

    async with asyncio.TaskGroup() as tasks:
        for who in tenants:
            tasks.create_task(submit(who))
        try:
            yield submitted
        finally:
            over.set()
