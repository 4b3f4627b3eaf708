"""What must be true once faults and load have stopped."""

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from datetime import timedelta
from random import Random
from typing import Final

import httpx

from cli import history
from deploy.local.stack import PUBLISHERS, SERVICES
from tests.soak import archive
from tests.soak.faults import POISON
from tests.soak.world import LEASE, World, kept
from tests.system.driver import JOB, Tenant, eventually, fetch
from tests.system.invariants import dead_letters, violations

SETTLED_WITHIN: Final = timedelta(minutes=4)
RESTS_WITHIN: Final = 2 * LEASE + timedelta(seconds=60)
"""After what time nothing runs without a lease, and nothing is unsent (I4)."""
SAMPLE: Final = 12

BROKEN: Final = """
SELECT run_id FROM exporter.runs WHERE state = 'running' AND lease_until < now() - interval '5 s'"""
UNSENT: Final = " UNION ALL ".join(
    f"SELECT event_id FROM {owner}.outbox WHERE published_at IS NULL" for owner in PUBLISHERS
)

WHOLE: Final = """
SELECT run_id::text FROM exporter.artifacts GROUP BY run_id
HAVING bool_and(state = 'available' AND expires_at > now() + interval '30 s')"""


async def settle(world: World, seed: int) -> None:
    """Look at some results, suspend every job, and wait until what was asked for has ended."""
    await _within(world, "not every service has come back", lambda: _all_ready(world), SETTLED_WITHIN)
    for who in world.tenants:
        await _sample(world, who, Random(seed))
    for who in (*world.tenants, world.lapsed):
        for job in (await who.get("/jobs", limit=100))["items"]:
            if job["state"] == "active":
                await _again(lambda who=who, job=job: _suspended(who, job["id"]))

    async def leases_and_outbox() -> bool:
        return not (await fetch(world.stack, BROKEN) or await fetch(world.stack, UNSENT))

    await _within(world, "a run without a lease, or an event that is not sent", leases_and_outbox, RESTS_WITHIN)

    async def at_rest() -> bool:
        return not await fetch(
            world.stack,
            """SELECT FROM exporter.runs WHERE state IN ('queued', 'running')
               UNION ALL SELECT FROM scheduler.slots WHERE outcome = 'waiting' OR run_state = 'open'""",
        )

    await _within(world, "what was asked for has not ended", at_rest, SETTLED_WITHIN)


async def check(world: World) -> None:
    """Everything: what is wrong is added to the world's list."""
    await world.doubled.aclose()
    await asyncio.gather(*(world.stack.restart(name, kept()) for name in PUBLISHERS))
    await archive.put_back(world)
    seen: list[str] = []

    async def holds() -> bool:
        try:
            seen[:] = await violations(world.stack)
        except FileNotFoundError:  # files that expire just now
            return False
        return not seen

    await _within(world, "an invariant", holds, timedelta(seconds=90), seen)
    await _dead(world)
    dsns = dict.fromkeys(("history", *PUBLISHERS), world.stack.dsn())
    ended = await history._rebuild(dsns, checking=True)
    if ended.state != "finished" or ended.report is None:
        world.wrong.append(f"history can't be rebuilt: {ended.reason}")
    else:
        world.wrong += [
            f"history and its rebuild differ in {table['table']}: {table}"
            for table in ended.report["tables"] if not table["equal"]
        ]  # fmt: skip
        world.count("events in the rebuild of history", ended.report["events"])


async def _sample(world: World, who: Tenant, random: Random) -> None:
    """Some of the runs that have files: downloaded, verified, decrypted, and counted beside the source."""
    found = (await who.get("/executions", state="succeeded", limit=200))["items"]
    whole = {row["run_id"] for row in await fetch(world.stack, WHOLE)}
    fitting = [e for e in found if e["run_id"] in whole and e["title"] in ("Once", "As JSON Lines", "Slowly")]
    for execution in random.sample(fitting, min(SAMPLE, len(fitting))):
        try:
            export = await who.download(execution)
        except AssertionError:
            world.wrong.append(f"run {execution['run_id']} of {who.name}:\n{traceback.format_exc(limit=-3)}")
            continue
        table = "lab.wide" if execution["source"] == "lab" else "ucs.contacts"
        rows = await _rows(world, who, table)
        if len(export.lines) != rows:
            world.wrong.append(f"run {execution['run_id']} has {len(export.lines)} rows, its source {rows}")
        world.count("runs sampled at the end")


async def _rows(world: World, who: Tenant, table: str) -> int:
    column, time = ("tenant", "at") if table == "lab.wide" else ("tenantid", "createddate")
    [row] = await fetch(
        world.stack,
        f"""SELECT count(*) FROM {table} WHERE {column} = $1
            AND {time} >= $2::text::timestamptz AND {time} < $3::text::timestamptz""",
        who.name, JOB["timeframe"]["from"], JOB["timeframe"]["to"], database="cdds_sources",
    )  # fmt: skip
    return row["count"]


async def _dead(world: World) -> None:
    """Nothing was put aside but what we had poisoned."""
    buried = await dead_letters(world.stack)
    world.count("dead letters", len(buried))
    for record in buried:
        if record.value != POISON:
            reason = dict(record.headers).get("dead_reason", b"").decode()
            world.wrong.append(f"a record was put aside on {record.topic}: {reason}")


async def _all_ready(world: World) -> bool:
    async with httpx.AsyncClient(timeout=10) as client:
        try:
            answers = [await client.get(f"{world.stack.url_of(name)}/health/ready") for name in SERVICES]
        except httpx.TransportError:
            return False
    return all(answer.status_code == 200 for answer in answers)


async def _suspended(who: Tenant, job_id: str) -> bool:
    return (await who.api.post(f"/jobs/{job_id}/suspend")).status_code in (200, 404, 409)


async def _again(look: Callable[[], Awaitable[bool]]) -> None:
    await eventually(look, what="the end of the load")


async def _within(
    world: World, what: str, look: Callable[[], Awaitable[bool]], within: timedelta, seen: list[str] | None = None
) -> None:
    try:
        await eventually(look, within=within, what=what)
    except AssertionError:
        world.wrong += seen or [f"{what}, {within.total_seconds():g} s after the load has stopped"]
