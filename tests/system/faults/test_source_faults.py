"""The source fails in every way a database can: each run ends once, says why, and leaves nothing half done."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.system.driver import Tenant
from tests.system.faults.lab import CHANGING, GATED, Gate, Lab, failed, submitted
from tests.system.invariants import assert_invariants, assert_same_as_source

pytestmark = pytest.mark.apache

TWICE = {"attempts": 2, "backoff": "PT0.1S"}


@pytest.fixture(scope="module", autouse=True)
async def _settled(lab: Lab) -> AsyncIterator[None]:
    """Whatever happened here: in the end every invariant holds, and no object is left without a file."""
    yield
    await assert_invariants(lab.stack)


async def test_a_source_restarted_in_mid_export_costs_an_attempt_and_not_a_row(lab: Lab, acme: Tenant) -> None:
    async with lab.closed(Gate.MIDDLE):
        # PostgreSQL has to be back before the last of them.
        job = await submitted(acme, "gated", retry={"attempts": 10, "backoff": "PT3S"})
        await lab.waiting("advisory")
        run_id = await acme.run_id(job)
        await lab.parts(run_id)
        await lab.server.stop()
    first = await lab.attempt_failed(run_id)
    await lab.server.start()

    execution = await acme.succeeded(job)
    assert (first["reason"], first["message"]) == (
        "source_unavailable",
        "The source database could not be reached, or broke off: terminating connection due to administrator command",
    )
    assert execution["attempt"] > 1
    export = await acme.download(execution)
    assert len(export.parts) > 2
    await assert_same_as_source(export, lab.dsn, GATED)
    assert {path.parent.name for path in lab.stored(run_id)} == {str(execution["attempt"])}


async def test_a_source_that_stays_away_fails_the_run_after_its_attempts(lab: Lab, acme: Tenant) -> None:
    await lab.server.stop()
    try:
        execution = await failed(acme, await submitted(acme, "small", retry=TWICE))
    finally:
        await lab.server.start()
    assert (execution["reason"], execution["attempt"]) == ("source_unavailable", 2)
    assert execution["message"] == (
        "The source database could not be reached, or broke off: no connection, see the exporter's log"
    )


async def test_a_permission_revoked_in_mid_export_is_felt_by_the_next_run(lab: Lab, acme: Tenant) -> None:
    async with lab.closed(Gate.MIDDLE):
        job = await submitted(acme, "gated")
        await lab.waiting("advisory")
        await lab.execute("REVOKE SELECT ON lab.wide FROM reader")
    try:
        export = await acme.download(await acme.succeeded(job))
        await assert_same_as_source(export, lab.dsn, GATED)
        for kind in ("gated", "wide"):
            execution = await failed(acme, await submitted(acme, kind, retry=TWICE))
            assert (execution["reason"], execution["attempt"]) == ("source_refused", 1)
            assert execution["message"] == "The source database refused the query: permission denied for table wide"
    finally:
        await lab.execute("GRANT SELECT ON lab.wide TO reader")


async def test_a_column_dropped_in_mid_export_waits_for_its_end_and_is_missed_by_the_next_run(
    lab: Lab, acme: Tenant
) -> None:
    async with asyncio.TaskGroup() as tasks:
        async with lab.closed(Gate.SMALL):
            job = await submitted(acme, "gated_changing")
            await lab.waiting("advisory")
            dropping = tasks.create_task(lab.execute("ALTER TABLE lab.changing DROP COLUMN note"))
            await lab.waiting("relation")
        export = await acme.download(await acme.succeeded(job))
    assert dropping.done()
    assert all(set(row) == {"id", "tenant", "at", "note", "passed"} for row in export.rows())
    try:
        after = await acme.download(await acme.succeeded(await submitted(acme, "gated_changing")))
        await assert_same_as_source(after, lab.dsn, CHANGING)
        named = await failed(acme, await submitted(acme, "changing", fields=["id", "note"]))
        assert (named["reason"], named["attempt"]) == ("field_unknown", 1)
        assert named["message"] == "The job names a field that the source does not have: note"
        await lab.execute("ALTER TABLE lab.changing DROP COLUMN at")
        needed = await failed(acme, await submitted(acme, "changing"))
        assert (needed["reason"], needed["attempt"]) == ("source_refused", 1)
        assert needed["message"] == "The source database refused the query: lab.changing has no column at"
    finally:
        await lab.execute(
            "ALTER TABLE lab.changing ADD note text DEFAULT 'new'",
            "ALTER TABLE lab.changing ADD COLUMN IF NOT EXISTS at timestamptz DEFAULT now()",
        )


async def test_a_source_without_room_to_sort_fails_the_run_and_says_so(lab: Lab, acme: Tenant) -> None:
    execution = await failed(acme, await submitted(acme, "sorted", retry=TWICE))
    assert (execution["reason"], execution["attempt"]) == ("source_exhausted", 2)
    assert execution["message"] == (
        "The source database ran out of room for the query; ask for fewer rows, or its operator for more room: "
        'temporary file size exceeds "temp_file_limit" (128kB)'
    )


async def test_a_source_slower_than_the_operator_allows_fails_the_run_and_says_so(lab: Lab, acme: Tenant) -> None:
    async with lab.closed(Gate.BEGIN):
        execution = await failed(acme, await submitted(acme, "silent", source="hasty", retry={"attempts": 1}))
    assert execution["reason"] == "source_too_slow"
    assert execution["message"] == (
        "The source database broke the query off; ask for fewer rows, or its operator for a longer statement_timeout: "
        "canceling statement due to statement timeout"
    )


async def test_a_table_loaded_again_while_the_export_waits_for_it_loses_no_row(lab: Lab, acme: Tenant) -> None:
    async with lab.session() as connection, connection.transaction():
        await connection.execute("CREATE TEMP TABLE kept ON COMMIT DROP AS TABLE lab.small")
        await connection.execute("TRUNCATE lab.small")
        await connection.execute("INSERT INTO lab.small TABLE kept")
        job = await submitted(acme, "small")
        await lab.waiting("relation")
    export = await acme.download(await acme.succeeded(job))
    await assert_same_as_source(export, lab.dsn, "SELECT * FROM lab.small")
