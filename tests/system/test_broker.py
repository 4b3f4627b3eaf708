"""The broker restarts, crashes, or loses everything under load: all is delivered in the end, and nothing twice."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest

from deploy.local import data
from deploy.local.stack import SOURCES_DATABASE, Stack
from tests.system.driver import Load, Tenant, eventually, load, tenant
from tests.system.invariants import assert_invariants
from tests.system.stacks import BROKERS, QUICK, impatient, require_own_broker, running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=BROKERS)
async def stack(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    async with running(request.param, environment={**QUICK, **impatient(timedelta(seconds=5))}) as stack:
        await data.create_schema(stack.dsn(SOURCES_DATABASE))
        await data.load_contacts(stack.dsn(SOURCES_DATABASE), "ucs", rows=100, tenants={"acme": 1})
        yield stack


@pytest.fixture(scope="module")
async def acme(stack: Stack) -> AsyncIterator[Tenant]:
    async with tenant(stack) as acme:
        yield acme


async def restart(stack: Stack) -> None:
    await stack.stop("kafka")
    await stack.start("kafka")


async def crash(stack: Stack) -> None:
    """Kill it; the stack's supervisor starts it again, and refills it."""
    broker = stack.broker
    assert broker is not None
    killed = broker.pid
    broker.kill()

    async def back() -> bool:
        return broker.pid != killed

    await eventually(back, what="the broker's restart")


async def lose_everything(stack: Stack) -> None:
    assert stack.broker is not None
    stack.broker.kill()
    await stack.stop("kafka")
    await stack.broker.wipe()
    await stack.start("kafka")


@pytest.mark.parametrize("harm", [restart, crash, lose_everything])
async def test_what_was_accepted_arrives_although_the_broker_went_away(
    stack: Stack, acme: Tenant, harm: Callable[[Stack], Awaitable[None]]
) -> None:
    require_own_broker(stack)
    async with load(acme, type="contact", title=f"While the broker has a {harm.__name__}") as submitted:
        await more_than(submitted, 3)
        await harm(stack)
        await more_than(submitted, len(submitted.accepted) + 3)
    await submitted.assert_all_succeeded(stack)
    await assert_invariants(stack)


async def more_than(submitted: Load, count: int) -> None:
    async def look() -> bool:
        return len(submitted.accepted) > count

    await eventually(look, what="jobs accepted")
