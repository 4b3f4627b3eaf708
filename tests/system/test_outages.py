"""PostgreSQL or the broker is away for a while, under load: nothing is lost, and callers are told to come back."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from deploy.local import data
from deploy.local.stack import SOURCES_DATABASE, Stack
from tests.system.driver import eventually, load, tenant
from tests.system.invariants import assert_invariants
from tests.system.stacks import BROKERS, QUICK, impatient, require_own_broker, running

pytestmark = pytest.mark.slow

OUTAGES = ["postgres", "kafka"]
RESTARTED = {
    # History has nothing to write while nobody can publish.
    "postgres": {"job_api", "scheduler", "exporter"},
    "kafka": {"job_api", "scheduler", "exporter", "history"},
}


async def loaded(stack: Stack) -> Stack:
    await data.create_schema(stack.dsn(SOURCES_DATABASE))
    await data.load_contacts(stack.dsn(SOURCES_DATABASE), "ucs", rows=100, tenants={"acme": 1})
    return stack


@pytest.fixture(scope="module", params=BROKERS)
async def impatient_stack(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    """A stack whose services end and are restarted when an outage lasts 3 s."""
    async with running(request.param, environment={**QUICK, **impatient(timedelta(seconds=3))}) as stack:
        yield await loaded(stack)


@pytest.fixture(params=BROKERS)
async def default_stack(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    """A stack with the settings that everybody has."""
    async with running(request.param) as stack:
        yield await loaded(stack)


async def survives(stack: Stack, away: str, outage: timedelta, *, pause: timedelta) -> None:
    """Take `away` away for `outage` while jobs are submitted, and hold the result against every promise."""
    async with tenant(stack) as acme:
        before = {name: child.pid for name, child in stack.services.items()}
        async with load(acme, pause, type="contact", title=f"While {away} is away") as submitted:
            await accepted(submitted.accepted, 3)
            await stack.stop(away)
            await asyncio.sleep(outage.total_seconds())
            await stack.start(away)
            await accepted(submitted.accepted, len(submitted.accepted) + 3)
        await submitted.assert_all_succeeded(stack)
        after = {name: child.pid for name, child in stack.services.items()}
        # Who waited for it in vain has given up and was restarted; the console needs nobody.
        assert {name for name in before if before[name] != after[name]} >= RESTARTED[away]
        assert before["console"] == after["console"]
        await assert_invariants(stack)


async def accepted(jobs: list[str], count: int) -> None:
    async def look() -> bool:
        return len(jobs) >= count

    await eventually(look, what=f"{count} accepted jobs")


@pytest.mark.parametrize("away", OUTAGES)
async def test_a_short_outage_loses_nothing_though_every_service_gives_up_and_comes_back(
    impatient_stack: Stack, away: str
) -> None:
    if away == "kafka":
        require_own_broker(impatient_stack)
    await survives(impatient_stack, away, timedelta(seconds=12), pause=timedelta(seconds=0.3))


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("away", OUTAGES)
async def test_an_outage_of_five_minutes_loses_nothing(default_stack: Stack, away: str) -> None:
    if away == "kafka":
        require_own_broker(default_stack)
    await survives(default_stack, away, timedelta(minutes=5), pause=timedelta(seconds=0.3))
