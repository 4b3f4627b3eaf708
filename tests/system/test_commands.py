"""What people ask of jobs and runs, through every service: run now, cancel, delete, resume, retry, backfill, pause."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deploy.local import data
from deploy.local.stack import SOURCES_DATABASE, Stack
from shared.clock import floor_to, utc_text
from tests.system.driver import Row, Tenant, eventually, fetch, tenant
from tests.system.invariants import assert_invariants
from tests.system.stacks import BROKERS, running

pytestmark = pytest.mark.usefixtures("quiet_hour")
HOUR = timedelta(hours=1)
HOURLY: Row = {
    "schedule": {"kind": "hourly", "every": 1}, "start": None, "type": "contact",
    "timeframe": {"kind": "last", "unit": "hour"}, "retry": {"attempts": 1},
}  # fmt: skip


@pytest.fixture(scope="module", params=BROKERS)
async def stack(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    async with running(request.param) as stack:
        await data.create_schema(stack.dsn(SOURCES_DATABASE))
        await data.load_contacts(stack.dsn(SOURCES_DATABASE), "ucs", rows=100)
        yield stack
        await assert_invariants(stack)


@pytest.fixture(scope="module")
async def acme(stack: Stack) -> AsyncIterator[Tenant]:
    async with tenant(stack, "acme") as acme:
        yield acme


async def command(who: Tenant, method: str, path: str, status: int, **sent: Any) -> Any:
    """The answer of a command, which must have `status`."""
    answer = await who.api.request(method, path, **sent)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


async def shift(stack: Stack, job: Row, back: timedelta) -> None:
    """Make the next slot of `job` one that was due `back` earlier; nobody can wait for hours here."""
    statement = """UPDATE scheduler.schedules SET next_slot_at = next_slot_at - $2::interval, due_at = due_at - $2
                   WHERE job_id = $1 AND active RETURNING true"""
    await eventually(lambda: fetch(stack, statement, job["id"], back), what="the job's schedule")


async def test_runs_wait_are_cancelled_and_hold_a_delete_back(stack: Stack, acme: Tenant) -> None:
    await stack.stop("exporter")
    job = await acme.submit(title="Cancelled", type="contact")
    await acme.shown(job, run="requested")
    waiting = await command(acme, "POST", f"/jobs/{job['id']}/run", 202)
    read = await acme.get(f"/jobs/{job['id']}")
    headers = {"If-Match": f'"{read["version"]}"'}
    refused = await command(acme, "DELETE", f"/jobs/{job['id']}", 409, headers=headers)
    assert refused["type"].endswith("job-in-progress")
    assert refused["run_id"] in (read["latest_run"]["id"], waiting["run_id"])

    for run_id in (waiting["run_id"], read["latest_run"]["id"]):
        await command(acme, "POST", f"/runs/{run_id}/cancel", 202)
    await stack.start("exporter")
    await acme.shown(job, run="cancelled")
    [execution] = await acme.finished(job)
    assert (execution["run_id"], execution["state"]) == (read["latest_run"]["id"], "cancelled")
    finished = await command(acme, "POST", f"/runs/{execution['run_id']}/cancel", 409)
    assert finished["type"].endswith("run-finished")
    await command(acme, "DELETE", f"/jobs/{job['id']}", 204, headers=headers)
    assert (await acme.api.get(f"/jobs/{job['id']}")).status_code == 404


async def test_a_run_due_in_the_instant_of_an_accepted_delete_is_cancelled(stack: Stack, acme: Tenant) -> None:
    job = await acme.submit(title="Deleted while due", **HOURLY)
    next_hour = floor_to(datetime.now(UTC), HOUR) + HOUR
    await acme.shown(job, next_slot_at=utc_text(next_hour))

    async def known() -> bool:
        return bool(await fetch(stack, "SELECT FROM scheduler.schedules WHERE job_id = $1", job["id"]))

    await eventually(known)
    # The exporter hears both, the request and the order to end it, before it can have answered.
    for service in ("scheduler", "exporter"):
        await stack.stop(service)
    await shift(stack, job, HOUR)
    await command(acme, "DELETE", f"/jobs/{job['id']}", 204, headers={"If-Match": '"1"'})
    await stack.start("scheduler")

    async def ordered() -> bool:
        return bool(
            await fetch(stack, "SELECT FROM scheduler.slots WHERE job_id = $1 AND cancelled_by IS NOT NULL", job["id"])
        )

    await eventually(ordered)
    await stack.start("exporter")
    [execution] = await acme.finished(job)
    assert execution["state"] == "cancelled"
    assert (await acme.api.get(f"/jobs/{job['id']}")).status_code == 404


async def test_a_resumed_job_runs_what_it_missed_when_it_is_asked_to(stack: Stack, acme: Tenant) -> None:
    job = await acme.submit(title="Resumed", **HOURLY)
    path = f"/jobs/{job['id']}"
    await command(acme, "POST", f"{path}/suspend", 200)
    await acme.shown(job, state="suspended", suspended_reason="user", next_slot_at=None)

    async def stopped() -> bool:
        return bool(await fetch(stack, "SELECT FROM scheduler.schedules WHERE job_id = $1 AND NOT active", job["id"]))

    await eventually(stopped)
    for table, column in (("job_api.jobs", "id"), ("scheduler.schedules", "job_id")):
        await fetch(
            stack, f"UPDATE {table} SET stopped_at = stopped_at - interval '3 hours' WHERE {column} = $1", job["id"]
        )
    listed = await command(acme, "POST", f"{path}/resume", 200, json={"missed": "all", "dry_run": True})
    assert len(listed["slots"]) == 3
    assert (await acme.get(path))["state"] == "suspended"
    await command(acme, "POST", f"{path}/resume", 200, json={"missed": "all"})
    executions = await acme.finished(job, count=3)
    assert sorted(e["slot_at"] for e in executions) == [slot["at"] for slot in listed["slots"]]
    assert {e["state"] for e in executions} == {"succeeded"}
    await acme.shown(job, state="active", next_slot_at=utc_text(floor_to(datetime.now(UTC), HOUR) + HOUR))


async def test_a_failing_schedule_is_paused_and_its_run_can_be_retried(stack: Stack, acme: Tenant) -> None:
    job = await acme.submit(title="Paused", pause_after_failures=1, **HOURLY)
    fingerprint = acme.recipient.fingerprint
    await acme.shown(job, next_slot_at=utc_text(floor_to(datetime.now(UTC), HOUR) + HOUR))
    await command(acme, "DELETE", f"/certificates/{fingerprint}", 200)

    async def forgotten() -> bool:
        rows = await fetch(
            stack, "SELECT FROM exporter.certificates WHERE fingerprint = $1 AND pem IS NULL", fingerprint
        )
        return bool(rows)

    await eventually(forgotten)
    await shift(stack, job, HOUR)
    [failed] = await acme.finished(job)
    assert (failed["state"], failed["reason"]) == ("failed", "certificate_required")
    await acme.shown(job, state="suspended", suspended_reason="failures")
    refused = await command(acme, "POST", f"/jobs/{job['id']}/resume", 409)
    assert refused["type"].endswith("certificate-required")

    await command(acme, "POST", "/certificates", 201, content=acme.recipient.pem)
    again = await command(acme, "POST", f"/runs/{failed['run_id']}/retry", 202)
    executions = {e["run_id"]: e for e in await acme.finished(job, count=2)}
    retried = executions[again["run_id"]]
    assert (retried["state"], retried["trigger"]) == ("succeeded", "retry")
    assert retried["question"] == failed["question"]
    await command(acme, "POST", f"/jobs/{job['id']}/resume", 200)
    await acme.shown(job, state="active")


async def test_a_backfill_asks_for_what_is_missing_and_shows_how_far_it_is(stack: Stack, acme: Tenant) -> None:
    job = await acme.submit(title="Backfilled", **HOURLY)
    path = f"/jobs/{job['id']}"
    end = floor_to(datetime.now(UTC), HOUR)
    wanted = {"from": utc_text(end - 6 * HOUR), "to": utc_text(end), "max_parallel": 2}
    listed = await command(acme, "POST", f"{path}/backfill", 200, json={**wanted, "dry_run": True})
    assert len(listed["slots"]) == 6
    backfill = await command(acme, "POST", f"{path}/backfill", 202, json=wanted)
    refused = await command(acme, "DELETE", path, 409, headers={"If-Match": '"1"'})
    assert refused["type"].endswith("job-in-progress")

    async def finished() -> Row | None:
        [shown] = (await acme.get(f"{path}/backfills"))["items"]
        return shown if shown["state"] == "finished" else None

    done = await eventually(finished)
    assert (done["id"], done["slots"], done["done"], done["failed"]) == (backfill["id"], 6, 6, 0)
    executions = await acme.finished(job, count=6)
    intervals = sorted((e["question"]["interval_from"], e["question"]["interval_to"]) for e in executions)
    assert intervals == [(utc_text(end - (n + 1) * HOUR), utc_text(end - n * HOUR)) for n in range(5, -1, -1)]
    again = await command(acme, "POST", f"{path}/backfill", 200, json={**wanted, "dry_run": True})
    assert again["slots"] == []
    nothing = await command(acme, "POST", f"{path}/backfill", 202, json=wanted)

    async def ended() -> bool:
        shown = {found["id"]: found for found in (await acme.get(f"{path}/backfills"))["items"]}
        return shown[nothing["id"]]["state"] == "finished"

    await eventually(ended)
    await command(acme, "DELETE", path, 204, headers={"If-Match": '"1"'})
