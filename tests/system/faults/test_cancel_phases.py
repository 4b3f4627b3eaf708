"""A run is cancelled in every phase of its life: it ends once, at once where it can, and leaves files iff it succeeded.

Where the test still holds what the run waits for when it has ended, the order interrupted it.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from tests.system.driver import Row, Tenant, eventually, fetch
from tests.system.faults.lab import Gate, Lab, submitted
from tests.system.invariants import assert_invariants

pytestmark = pytest.mark.apache

PROMISED = timedelta(seconds=2)
SLACK = 5
"""The promise is for a machine with room to spare; here the tests only tell a poll from a time-out."""
TOOK = """
    SELECT e.occurred_at - s.occurred_at FROM scheduler.outbox s, exporter.outbox e
    WHERE s.type = 'cdds.RunCancelOrdered.v1' AND s.value::json->>'run_id' = $1
      AND e.type = 'cdds.RunCancelled.v1' AND e.key = $1
"""
"""From the order's commit to the terminal event."""


@pytest.fixture(scope="module", autouse=True)
async def _settled(lab: Lab) -> AsyncIterator[None]:
    """One terminal state per run, files if and only if it succeeded, no object without a file."""
    yield
    await assert_invariants(lab.stack)


async def cancelled(lab: Lab, acme: Tenant, job: Row) -> None:
    """Order the end of the job's only run, which must follow."""
    run_id = await acme.run_id(job)
    assert await acme.cancel(run_id)
    (execution,) = await acme.finished(job)
    assert execution["state"] == "cancelled"
    await gone(lab, run_id)
    ((took,),) = await fetch(lab.stack, TOOK, run_id)
    assert took < PROMISED * SLACK


async def gone(lab: Lab, run_id: str) -> None:
    async def look() -> bool:
        return not lab.stored(run_id)

    await eventually(look, what="a store without bytes of the run")


@pytest.mark.parametrize("kind", ["silent", pytest.param("counted", marks=pytest.mark.slow)])
async def test_a_run_whose_source_is_silent_is_interrupted_and_the_one_queued_behind_it_never_starts(
    lab: Lab, acme: Tenant, kind: str
) -> None:
    async with lab.closed(Gate.BEGIN):
        job = await submitted(acme, kind)
        await lab.waiting("advisory")
        behind = await submitted(acme, "small")
        await lab.reaches(await acme.run_id(behind), "queued")
        await cancelled(lab, acme, behind)
        await cancelled(lab, acme, job)


@pytest.mark.parametrize("kind", [pytest.param("small", marks=pytest.mark.slow), "queried"])
async def test_a_run_that_waits_for_somebody_who_changes_the_table_is_interrupted(
    lab: Lab, acme: Tenant, kind: str
) -> None:
    async with lab.session() as connection, connection.transaction():
        await connection.execute("LOCK TABLE lab.small")
        job = await submitted(acme, kind)
        await lab.waiting("relation")
        await cancelled(lab, acme, job)


async def test_a_run_in_mid_part_is_interrupted_and_its_parts_are_removed(lab: Lab, acme: Tenant) -> None:
    async with lab.closed(Gate.MIDDLE):
        job = await submitted(acme, "gated")
        await lab.waiting("advisory")
        await lab.parts(await acme.run_id(job))
        await cancelled(lab, acme, job)


async def test_a_run_that_waits_for_its_next_attempt_is_cancelled_at_once(lab: Lab, acme: Tenant) -> None:
    async with lab.closed(Gate.BEGIN):
        job = await submitted(acme, "silent", source="hasty", retry={"attempts": 2, "backoff": "PT1H"})
        await lab.attempt_failed(await acme.run_id(job))
        await cancelled(lab, acme, job)


@pytest.mark.parametrize(
    "point",
    [
        "exporter.part_begun",
        pytest.param("exporter.part_stored", marks=pytest.mark.slow),
        "exporter.exported",
    ],
)
async def test_an_order_that_comes_while_the_run_is_being_stored_wins(lab: Lab, acme: Tenant, point: str) -> None:
    async with lab.held(point):
        job = await submitted(acme, "wide")
        await lab.arrived(point)
        run_id = await acme.run_id(job)
        assert await acme.cancel(run_id)
        (execution,) = await acme.finished(job)
        assert execution["state"] == "cancelled"
    # The thread that was left behind takes away what it has stored since; see the invariants.
    await gone(lab, run_id)


async def test_an_order_that_comes_during_the_terminal_transaction_is_too_late(lab: Lab, acme: Tenant) -> None:
    connection = await asyncpg.connect(lab.stack.dsn())
    waiting = "SELECT FROM pg_locks WHERE NOT granted HAVING count(*) >= $1"
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE exporter.documents IN SHARE MODE")
            job = await submitted(acme, "small")
            await eventually(lambda: fetch(lab.stack, waiting, 1), what="the terminal transaction")
            assert await acme.cancel(await acme.run_id(job))
            await eventually(lambda: fetch(lab.stack, waiting, 2), what="the order")
    finally:
        await connection.close()
    assert len((await acme.download(await acme.succeeded(job))).lines) == 20


@pytest.mark.parametrize("rounds", [4, pytest.param(20, marks=pytest.mark.slow)])
async def test_of_an_order_and_success_at_the_same_time_one_wins(lab: Lab, acme: Tenant, rounds: int) -> None:
    for number in range(rounds):
        async with lab.held("exporter.exported"):
            job = await submitted(acme, "small", title=f"Race {number}")
            await lab.arrived("exporter.exported")
            run_id = await acme.run_id(job)
            assert await acme.cancel(run_id)
            # An order needs some 0.1 s to the exporter: early rounds are success's, late ones the order's.
            await asyncio.sleep(0.25 * number / rounds)
        (execution,) = await acme.finished(job)
        if execution["state"] == "succeeded":
            assert len((await acme.download(execution)).lines) == 20
        else:
            assert execution["state"] == "cancelled"
            await gone(lab, run_id)
