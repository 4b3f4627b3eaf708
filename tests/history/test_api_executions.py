"""One execution with all that belongs to it, and its timeline."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from services.history.domain.attempts import Attempt, attempts
from services.history.store import Store
from shared.clock import utc_text
from shared.events import RunCancelled, RunEvent, RunFailed, RunStarted
from shared.reasons import REMEDIES
from tests.history.conftest import HeadersFor
from tests.history.events import START, Run, job_event, project
from tests.history.lists import pages

SECOND = timedelta(seconds=1)


@pytest.fixture
def run() -> Run:
    return Run()


async def read(client: httpx.AsyncClient, headers: dict[str, str], run: Run) -> dict[str, Any]:
    answer = await client.get(f"/api/v1/executions/{run.run_id}", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_an_execution_has_the_settings_its_job_had(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor, run: Run
) -> None:
    first, later = job_event("t1", run.job_id, 1), job_event("t1", run.job_id, 2)
    await project(store, [run.requested()])
    assert (await read(client, headers_for("t1"), run))["settings"] is None

    await project(store, [later, first])

    body = await read(client, headers_for("t1"), run)
    assert body["settings"] == first.job.settings.model_dump(mode="json")
    assert (body["job_version"], body["settings"]["title"]) == (1, "Version 1")


async def test_a_failed_run_says_why_and_what_to_do(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor, run: Run
) -> None:
    await project(store, [run.requested(), run.queued(), run.started(), run.failed()])

    body = await read(client, headers_for("t1"), run)

    assert body["error"] == {
        "reason": "source_refused", "message": "There is no such table.", "remedy": REMEDIES["source_refused"],
    }  # fmt: skip
    assert (body["reason"], body["duration_seconds"]) == ("source_refused", 1.0)


async def test_a_run_that_succeeded_at_last_shows_the_failure_among_its_attempts_only(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor, run: Run
) -> None:
    events = [run.requested(), run.queued(), run.started(), run.attempt_failed()]
    await project(store, events)
    assert (await read(client, headers_for("t1"), run))["error"]["reason"] == "export_failed"

    await project(store, [run.started(), *run.succeeded()])

    body = await read(client, headers_for("t1"), run)
    assert (body["state"], body["error"], body["reason"], body["message"]) == ("succeeded", None, None, None)
    assert [(one["number"], one["worker"], one["reason"], one["message"]) for one in body["attempts"]] == [
        (1, "w1", "export_failed", "attempt 1"), (2, "w2", None, None),
    ]  # fmt: skip
    assert all(one["started_at"] < one["ended_at"] for one in body["attempts"])
    assert body["progress"] is None


async def test_the_timeline_is_paged_oldest_first_with_what_was_told(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor, run: Run
) -> None:
    events = [run.requested(), run.queued(), run.started(), *run.succeeded(), run.downloaded(1)]
    await project(store, [*events, Run().requested()])
    path = f"executions/{run.run_id}/events"

    items = await pages(client, path, headers_for("t1"), limit=2)

    assert [item["event_id"] for item in items] == [
        str(event.event_id) for event in sorted(events, key=lambda event: (event.occurred_at, event.event_id))
    ]
    assert items[0]["body"] == events[0].model_dump(mode="json")
    assert (items[-1]["type"], items[-1]["actor"]) == ("ArtifactDownloaded", "operator")
    other = await client.get(f"/api/v1/{path}", headers=headers_for("t2"))
    assert other.status_code == 404


# --- attempts -----------------------------------------------------------------------------------------------------


def told(event: type[RunEvent], version: int, attempt: int, **more: Any) -> RunEvent:
    return event(
        occurred_at=START + version * SECOND, tenant="t1", run_id=uuid4(), job_id=uuid4(), version=version,
        attempt=attempt, **more,
    )  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([], [], id="none yet"),
        pytest.param(
            [told(RunStarted, 2, 1, worker="w")], [Attempt(1, "w", START + 2 * SECOND)], id="one under way"
        ),
        pytest.param([told(RunCancelled, 2, 0, actor="a")], [], id="cancelled before the first"),
        pytest.param(
            [told(RunStarted, 2, 1, worker="w"), told(RunCancelled, 3, 1, actor="a")],
            [Attempt(1, "w", START + 2 * SECOND, START + 3 * SECOND, "cancelled")],
            id="cancelled",
        ),
        pytest.param(
            [
                told(RunStarted, 2, 1, worker="w"), told(RunFailed, 3, 1, reason="r", message="m"),
                told(RunCancelled, 4, 1, actor="a"),
            ],
            [Attempt(1, "w", START + 2 * SECOND, START + 3 * SECOND, "r", "m")],
            id="the first end counts",
        ),
        pytest.param(
            [told(RunFailed, 5, 2, reason="r", message="m")],
            [Attempt(2, None, None, START + 5 * SECOND, "r", "m")],
            id="the start was not heard yet",
        ),
    ],
)  # fmt: skip
def test_attempts_are_read_from_what_was_told_in_any_order(
    events: list[RunEvent], expected: list[Attempt], turned: bool
) -> None:
    assert attempts(events[::-1] if turned else events) == expected


async def test_times_are_utc_with_z(client: httpx.AsyncClient, store: Store, headers_for: HeadersFor, run: Run) -> None:
    await project(store, [run.requested()])
    assert (await read(client, headers_for("t1"), run))["requested_at"] == utc_text(run.requested_at)
