"""A process killed at the worst moments: every run still ends once, with one set of files, and nothing is forgotten."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.local import data
from deploy.local.stack import SOURCES_DATABASE, Stack
from shared.clock import utc_text
from tests.system.driver import Tenant, eventually, tenant
from tests.system.invariants import assert_invariants
from tests.system.stacks import BROKERS, QUICK, running

ROWS = 2_000

POINTS = [
    ("exporter", "exporter.claimed"),
    ("exporter", "exporter.first_row"),
    ("exporter", "exporter.part_begun"),
    ("exporter", "exporter.part_stored"),
    ("exporter", "exporter.exported"),
    ("exporter", "exporter.manifest"),
    ("exporter", "exporter.terminal"),
    ("exporter", "exporter.succeeded"),
    ("scheduler", "scheduler.claimed"),
    ("scheduler", "scheduler.requested"),
    ("job_api", "outbox.sent"),
    ("scheduler", "outbox.sent"),
    ("exporter", "outbox.sent"),
    ("job_api", "inbox.handled"),
    ("scheduler", "inbox.handled"),
    ("exporter", "inbox.handled"),
    ("history", "history.projected"),
    ("history", "inbox.handled"),
]
SAMPLE = [
    ("exporter", "exporter.part_stored"),
    ("exporter", "exporter.terminal"),
    ("scheduler", "scheduler.claimed"),
    ("job_api", "outbox.sent"),
    ("history", "inbox.handled"),
]
"""One kill per service at least, in every run; the others belong to the slow ones."""
CASES = [
    *(pytest.param("embedded", *p, id=f"embedded-{'-'.join(p)}", marks=pytest.mark.slow) for p in SAMPLE),
    *(
        pytest.param(
            "apache",
            *p,
            id=f"apache-{'-'.join(p)}",
            marks=[pytest.mark.apache, *([] if p in SAMPLE else [pytest.mark.slow])],
        )
        for p in POINTS
    ),
]


@pytest.fixture(scope="module")
async def stack(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    async with running(request.param, environment=QUICK) as stack:
        await data.create_schema(stack.dsn(SOURCES_DATABASE))
        await data.load_interactions(stack.dsn(SOURCES_DATABASE), "ucs", rows=ROWS, tenants={"acme": 1})
        yield stack


@pytest.fixture(scope="module")
async def acme(stack: Stack) -> AsyncIterator[Tenant]:
    async with tenant(stack) as acme:
        yield acme


async def arm(stack: Stack, service: str, point: str, marker: Path) -> None:
    """Have `service` killed the next time it reaches `point`, and only then."""
    await stack.restart(service, {"CDDS_FAILPOINT": point, "CDDS_FAILPOINT_MARKER": str(marker)})


async def killed(marker: Path) -> None:
    async def look() -> bool:
        return marker.exists()

    await eventually(look, what="the kill")


@pytest.mark.parametrize(("stack", "service", "point"), CASES, indirect=["stack"], scope="module")
async def test_a_kill_at_this_point_leaves_no_trace_in_the_result(
    stack: Stack, acme: Tenant, service: str, point: str, tmp_path: Path
) -> None:
    marker = tmp_path / "killed"
    await arm(stack, service, point, marker)

    def soon() -> str:
        return utc_text(datetime.now(UTC) + timedelta(seconds=2))

    job = await acme.submit(start=soon, split_bytes=64 * 1024, title=f"{service} dies at {point}")
    await killed(marker)

    execution = await acme.succeeded(job)
    export = await acme.download(execution)
    assert len(export.parts) > 1
    assert len({row["ixnId"] for row in export.rows()}) == len(export.lines) == ROWS
    await assert_invariants(stack)


@pytest.mark.parametrize("stack", BROKERS, indirect=True, scope="module")
@pytest.mark.slow
async def test_a_run_whose_last_attempt_was_lost_has_failed_and_left_nothing_behind(
    stack: Stack, acme: Tenant, tmp_path: Path
) -> None:
    marker = tmp_path / "killed"
    await arm(stack, "exporter", "exporter.part_stored", marker)

    job = await acme.submit(retry={"attempts": 1}, split_bytes=64 * 1024, title="Only one attempt")
    await killed(marker)

    (execution,) = await acme.finished(job)
    assert (execution["state"], execution["reason"]) == ("failed", "worker_lost")
    assert execution["message"] == "The worker stopped responding; its lease expired."
    await assert_invariants(stack)
