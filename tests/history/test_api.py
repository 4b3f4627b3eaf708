"""The HTTP edge: pages, filters, problems, and who sees what."""

import base64
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from services.history.store import Store
from shared.clock import utc_text
from shared.database import Database
from shared.events import ArtifactDeleted, ArtifactStored
from tests.history.conftest import HeadersFor
from tests.history.events import START, Run, finished_run, project


async def all_pages(client: httpx.AsyncClient, path: str, headers: dict[str, str], **query: Any) -> list[Any]:
    items: list[Any] = []
    after: dict[str, str] = {}
    while True:
        answer = (await client.get(path, params={**query, **after}, headers=headers)).json()
        assert len(answer["items"]) <= query.get("limit", 50)
        items += answer["items"]
        if answer["next"] is None:
            return items
        after = {"after": answer["next"]}


def cursor_of(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


async def test_an_execution_is_shown_with_its_files_in_order(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor
) -> None:
    run = Run()
    await project(store, [run.requested(), run.queued(), run.started(), *run.succeeded(parts=12), run.deleted(3)])

    answer = await client.get(f"/api/v1/executions/{run.run_id}", headers=headers_for("t1"))

    assert answer.status_code == 200
    body = answer.json()
    assert (body["state"], body["title"], body["question"]["source"]) == ("succeeded", "Interactions", "ucs")
    assert body["slot_at"] == utc_text(START)
    assert [artifact["number"] for artifact in body["artifacts"]] == list(range(1, 13))
    assert [artifact["number"] for artifact in body["artifacts"] if artifact["deleted_at"]] == [3]


async def test_progress_is_shown_while_a_run_is_running(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor
) -> None:
    run = Run()
    await project(store, [run.requested(), run.queued(), run.started(), run.progressed()])

    body = (await client.get(f"/api/v1/executions/{run.run_id}", headers=headers_for("t1"))).json()

    assert (body["state"], body["progress"]["percent"], body["artifacts"]) == ("running", 10.0, [])


async def test_pages_hold_every_execution_once_newest_first_while_others_are_added(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor
) -> None:
    # Three are requested at the same moment, so that a page ends between them.
    starts = [START, START, START, *(START + timedelta(minutes=n) for n in range(1, 5))]
    runs = [Run(start=start) for start in starts]
    await project(store, [run.requested() for run in runs])
    path, headers = "/api/v1/executions", headers_for("t1")

    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = (await client.get(path, params={"limit": 2, **after}, headers=headers)).json()
        seen += [item["run_id"] for item in page["items"]]
        await project(store, [Run(start=START + timedelta(hours=1)).requested()])
        if page["next"] is None:
            break
        after = {"after": page["next"]}

    assert seen[:4] == [str(run.run_id) for run in reversed(runs[3:])]
    assert sorted(seen[4:]) == sorted(str(run.run_id) for run in runs[:3])


async def test_a_list_that_fits_one_page_exactly_has_no_next(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor
) -> None:
    await project(store, [Run().requested() for _ in range(3)])

    answer = await client.get("/api/v1/executions", params={"limit": 3}, headers=headers_for("t1"))

    assert (len(answer.json()["items"]), answer.json()["next"]) == (3, None)


async def test_executions_are_filtered_by_job_and_state(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor
) -> None:
    job_id = uuid4()
    done, events = finished_run(job_id=job_id)
    waiting, other = Run(job_id=job_id), Run()
    await project(store, [*events, waiting.requested(), waiting.queued(), other.requested()])
    headers = headers_for("t1")

    async def found(**query: Any) -> set[str]:
        return {item["run_id"] for item in await all_pages(client, "/api/v1/executions", headers, limit=1, **query)}

    assert await found() == {str(run.run_id) for run in (done, waiting, other)}
    assert await found(job_id=str(job_id)) == {str(done.run_id), str(waiting.run_id)}
    assert await found(state="succeeded") == {str(done.run_id)}
    assert await found(job_id=str(job_id), state="queued") == {str(waiting.run_id)}
    assert await found(job_id=str(uuid4())) == set()


async def test_an_execution_is_listed_once_its_request_is_known(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor
) -> None:
    run = Run()
    request = run.requested()
    await project(store, [run.queued()])
    assert await all_pages(client, "/api/v1/executions", headers_for("t1")) == []

    await project(store, [request])

    (item,) = await all_pages(client, "/api/v1/executions", headers_for("t1"))
    assert item["state"] == "queued"


async def test_artifacts_are_paged_and_filtered_by_run(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor
) -> None:
    runs = [Run(start=START + timedelta(days=n)) for n in range(3)]
    for run in runs:
        await project(store, [run.requested(), *run.succeeded(parts=4)])
    headers = headers_for("t1")

    items = await all_pages(client, "/api/v1/artifacts", headers, limit=5)
    of_one = await all_pages(client, "/api/v1/artifacts", headers, limit=3, run_id=str(runs[0].run_id))

    assert len({item["artifact_id"] for item in items}) == len(items) == 12
    assert [item["stored_at"] for item in items] == sorted((item["stored_at"] for item in items), reverse=True)
    assert {item["title"] for item in items} == {"Interactions"}
    assert sorted(item["number"] for item in of_one) == [1, 2, 3, 4]


async def test_the_days_that_remain_are_rounded_up_and_never_negative(
    client: httpx.AsyncClient, store: Store, database: Database, headers_for: HeadersFor
) -> None:
    run = Run()
    await project(store, run.succeeded(parts=3))
    async with database.transaction() as connection:
        for number, left in ((1, timedelta(hours=1)), (2, timedelta(days=1, hours=1)), (3, timedelta(days=-3))):
            await connection.execute("UPDATE artifacts SET expires_at = now() + $1 WHERE number = $2", left, number)

    items = await all_pages(client, "/api/v1/artifacts", headers_for("t1"))

    assert {item["number"]: item["remaining_days"] for item in items} == {1: 1, 2: 2, 3: 0}


async def test_no_days_remain_of_a_file_that_is_deleted(
    client: httpx.AsyncClient, store: Store, database: Database, headers_for: HeadersFor
) -> None:
    run = Run()
    events = run.succeeded(parts=2)
    stored = [event for event in events if isinstance(event, ArtifactStored)]
    gone = ArtifactDeleted(
        occurred_at=stored[0].occurred_at, tenant="t1", run_id=run.run_id, artifact_id=stored[0].part.artifact_id,
        requested_at=run.requested_at, reason="requested", actor="alice",
    )  # fmt: skip
    await project(store, [*events, gone])
    async with database.transaction() as connection:
        await connection.execute("UPDATE artifacts SET expires_at = now() + interval '1 day'")

    items = await all_pages(client, "/api/v1/artifacts", headers_for("t1"))

    assert {item["number"]: (item["remaining_days"] > 0, item["deletion_reason"]) for item in items} == {
        1: (False, "requested"), 2: (True, None),
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/api/v1/executions", "/api/v1/artifacts"])
@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("after", "nonsense"),
        ("after", "ÿ"),
        ("after", cursor_of("2026-03-01T00:00:00Z")),
        ("after", cursor_of("yesterday 9c5b94b1-35ad-49bb-b118-8e8fc24abf80")),
        ("after", cursor_of("0001-01-01T00:00:00+14:00 9c5b94b1-35ad-49bb-b118-8e8fc24abf80")),
        ("limit", "0"),
        ("limit", "201"),
        ("limit", "many"),
    ],
)
async def test_a_page_that_can_not_be_is_a_problem_that_names_the_parameter(
    client: httpx.AsyncClient, headers_for: HeadersFor, path: str, parameter: str, value: str
) -> None:
    answer = await client.get(path, params={parameter: value}, headers=headers_for("t1"))

    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    (error,) = answer.json()["errors"]
    assert error["pointer"] == f"/query/{parameter}"
    assert error["remedy"]


async def test_what_is_asked_wrongly_or_by_nobody_is_a_problem(
    client: httpx.AsyncClient, headers_for: HeadersFor
) -> None:
    headers = headers_for("t1")
    for path, sent, status in (
        ("/api/v1/executions?state=lost", headers, 422),
        ("/api/v1/executions?job_id=7", headers, 422),
        ("/api/v1/executions/7", headers, 422),
        (f"/api/v1/executions/{uuid4()}", headers, 404),
        ("/api/v1/executions", {}, 401),
        (f"/api/v1/executions/{uuid4()}", {}, 401),
        ("/api/v1/artifacts", {}, 401),
    ):
        answer = await client.get(path, headers=sent)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), path


async def test_tenants_that_share_a_connection_see_only_their_own(
    client: httpx.AsyncClient, store: Store, database: Database, headers_for: HeadersFor
) -> None:
    runs = {tenant: Run(tenant) for tenant in ("t1", "t2")}
    for run in runs.values():
        await project(store, [run.requested(), *run.succeeded(parts=1)])

    for tenant in ["t1", "t2", "t3"] * 5:
        headers = headers_for(tenant)
        own = [str(runs[tenant].run_id)] if tenant in runs else []
        for path in ("/api/v1/executions", "/api/v1/artifacts"):
            assert [item["run_id"] for item in await all_pages(client, path, headers)] == own
        for other, run in runs.items():
            answer = await client.get(f"/api/v1/executions/{run.run_id}", headers=headers)
            assert answer.status_code == (200 if other == tenant else 404)
            listed = await all_pages(client, "/api/v1/artifacts", headers, run_id=str(run.run_id))
            assert bool(listed) is (other == tenant)
