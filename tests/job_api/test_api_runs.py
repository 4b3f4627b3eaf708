"""Commands on runs and backfills over HTTP, and requests that are sent twice."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from services.job_api.domain.runs import RunStatus, Sighting
from services.job_api.store import Store
from shared import slots
from shared.database import Database
from tests.job_api import certificates
from tests.job_api.conftest import TokenFor
from tests.job_api.edge import CERTIFICATES, JOBS, RUNS, match, problem, submit, written

pytestmark = pytest.mark.usefixtures("certified")
UNKNOWN = UUID(int=1)
WEEK = {"from": "2026-01-05T00:00:00Z", "to": "2026-01-12T00:00:00Z"}


async def told(database: Database, job: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The commands that the scheduler was told about a job."""
    async with database.session() as connection:
        rows = await connection.fetch("SELECT type, value FROM outbox WHERE key = $1 ORDER BY id OFFSET 1", job["id"])
    return [(row["type"].split(".")[1], json.loads(row["value"])) for row in rows]


async def see(
    store: Store, job: dict[str, Any], status: RunStatus, run_id: UUID | None = None, **more: Any
) -> str:  # fmt: skip
    """Let a run of the job be known in this state."""
    sighting = Sighting(
        tenant="acme", job_id=UUID(job["id"]), run_id=run_id or uuid4(), status=status, version=7,
        seen_at=datetime.now(UTC), **more,
    )  # fmt: skip
    await store.note_run(sighting)
    return str(sighting.run_id)


# --- run now, cancel, retry ---------------------------------------------------------------------------------------


async def test_the_run_of_a_command_is_known_and_in_progress_at_once(
    http: httpx.AsyncClient, database: Database
) -> None:
    job = await submit(http)
    answer = await http.post(f"{JOBS}/{job['id']}/run")
    assert answer.status_code == 202
    [(kind, event)] = await told(database, job)
    assert kind == "RunNowRequested"
    run_id = slots.run_id(UUID(job["id"]), f"manual:{event['event_id']}")
    assert answer.json() == {"run_id": str(run_id), "job_id": job["id"]}
    latest = (await http.get(f"{JOBS}/{job['id']}")).json()["latest_run"]
    assert (latest["id"], latest["state"], latest["started_at"]) == (str(run_id), "waiting", None)
    assert (await http.get(f"{JOBS}/{job['id']}")).json()["version"] == 1


async def test_running_needs_a_certificate(http: httpx.AsyncClient, store: Store) -> None:
    job = await submit(http)
    run = await see(store, job, RunStatus.FAILED)
    for item in (await http.get(CERTIFICATES)).json()["items"]:
        await http.delete(f"{CERTIFICATES}/{item['fingerprint']}")
    problem(await http.post(f"{JOBS}/{job['id']}/run"), 409, "certificate-required")
    problem(await http.post(f"{JOBS}/{job['id']}/backfill", json=WEEK), 409, "certificate-required")
    problem(await http.post(f"{RUNS}/{run}/retry"), 409, "certificate-required")


@pytest.mark.parametrize("status", RunStatus)
async def test_a_run_is_cancelled_until_it_has_ended(
    http: httpx.AsyncClient, store: Store, database: Database, status: RunStatus
) -> None:
    job = await submit(http)
    run = await see(store, job, status)
    answer = await http.post(f"{RUNS}/{run}/cancel")
    if status.ended:
        problem(answer, 409, "run-finished")
        assert await told(database, job) == []
    else:
        assert (answer.status_code, answer.json()) == (202, {"run_id": run, "job_id": job["id"]})
        [(kind, event)] = await told(database, job)
        assert (kind, event["run_id"]) == ("RunCancelRequested", run)


@pytest.mark.parametrize("status", RunStatus)
async def test_a_run_is_retried_once_it_has_ended(
    http: httpx.AsyncClient, store: Store, database: Database, status: RunStatus
) -> None:
    job = await submit(http)
    run = await see(store, job, status)
    answer = await http.post(f"{RUNS}/{run}/retry")
    if status is RunStatus.SKIPPED:
        problem(answer, 404, "not-found")
    elif not status.ended:
        assert problem(answer, 409, "job-in-progress")["run_id"] == run
    else:
        [(kind, event)] = await told(database, job)
        assert (kind, event["run_id"]) == ("RunRetryRequested", run)
        new = slots.run_id(UUID(job["id"]), f"retry:{event['event_id']}")
        assert (answer.status_code, answer.json()) == (202, {"run_id": str(new), "job_id": job["id"]})
        problem(await http.delete(f"{JOBS}/{job['id']}", headers=match(job)), 409, "job-in-progress")


async def test_a_run_of_a_deleted_job_is_not_found(http: httpx.AsyncClient, store: Store) -> None:
    job = await submit(http)
    run = await see(store, job, RunStatus.FAILED)
    await http.delete(f"{JOBS}/{job['id']}", headers=match(job))
    for command in ("cancel", "retry"):
        problem(await http.post(f"{RUNS}/{run}/{command}"), 404, "not-found")


# --- backfills ----------------------------------------------------------------------------------------------------


async def test_a_backfill_is_told_and_listed(http: httpx.AsyncClient, store: Store, database: Database) -> None:
    job = await submit(http)
    answer = await http.post(f"{JOBS}/{job['id']}/backfill", json={**WEEK, "reprocess": "all", "max_parallel": 4})
    backfill = answer.json()
    assert answer.status_code == 202
    [(kind, event)] = await told(database, job)
    assert (kind, event["event_id"]) == ("BackfillRequested", backfill["id"])
    assert (event["interval_from"], event["interval_to"]) == (WEEK["from"], WEEK["to"])
    assert (event["reprocess"], event["max_parallel"]) == ("all", 4)
    assert (backfill["state"], backfill["slots"], backfill["open"], backfill["requested_by"]) == (
        "planned", None, None, "alice",
    )  # fmt: skip
    await store.note_backfill(UUID(backfill["id"]), 2)
    await see(store, job, RunStatus.SUCCEEDED, backfill_id=UUID(backfill["id"]))
    listed = (await http.get(f"{JOBS}/{job['id']}/backfills")).json()
    assert listed["next"] is None
    [shown] = listed["items"]
    assert (shown["state"], shown["slots"], shown["done"], shown["failed"], shown["open"]) == ("running", 2, 1, 0, 1)
    await see(store, job, RunStatus.FAILED, backfill_id=UUID(backfill["id"]))
    [shown] = (await http.get(f"{JOBS}/{job['id']}/backfills")).json()["items"]
    assert (shown["state"], shown["done"], shown["failed"], shown["open"]) == ("finished", 1, 1, 0)
    cancel = f"{JOBS}/{job['id']}/backfills/{backfill['id']}/cancel"
    problem(await http.post(cancel), 409, "run-finished")


async def test_a_backfill_is_cancelled_once(http: httpx.AsyncClient, database: Database) -> None:
    job = await submit(http)
    backfill = (await http.post(f"{JOBS}/{job['id']}/backfill", json=WEEK)).json()
    cancel = f"{JOBS}/{job['id']}/backfills/{backfill['id']}/cancel"
    answers = [await http.post(cancel) for _ in range(2)]
    assert [(answer.status_code, answer.json()["state"]) for answer in answers] == [(202, "cancelled")] * 2
    assert [kind for kind, _ in await told(database, job)] == ["BackfillRequested", "BackfillCancelRequested"]


async def test_backfills_are_listed_in_pages_newest_first(http: httpx.AsyncClient) -> None:
    job = await submit(http)
    made = [(await http.post(f"{JOBS}/{job['id']}/backfill", json=WEEK)).json()["id"] for _ in range(5)]
    page = (await http.get(f"{JOBS}/{job['id']}/backfills", params={"limit": 2})).json()
    seen = [item["id"] for item in page["items"]]
    while page["next"]:
        page = (await http.get(f"{JOBS}/{job['id']}/backfills", params={"limit": 2, "after": page["next"]})).json()
        seen += [item["id"] for item in page["items"]]
    assert seen == made[::-1]


@pytest.mark.parametrize(("reprocess", "left"), [("missing", 4), ("missing_and_failed", 5), ("all", 6)])
async def test_a_dry_run_lists_the_slots_that_a_backfill_would_request(
    http: httpx.AsyncClient, store: Store, database: Database, reprocess: str, left: int
) -> None:
    job = await submit(http)
    day = datetime(2026, 1, 5, tzinfo=UTC)
    for hours, status in ((4, RunStatus.SUCCEEDED), (8, RunStatus.FAILED)):
        to = day + timedelta(hours=hours)
        await see(store, job, status, interval_from=to - timedelta(hours=4), interval_to=to)
    body = {"from": "2026-01-05T00:00:00Z", "to": "2026-01-06T00:00:00Z", "reprocess": reprocess, "dry_run": True}
    answer = await http.post(f"{JOBS}/{job['id']}/backfill", json=body)
    assert (answer.status_code, len(answer.json()["slots"])) == (200, left)
    assert answer.json()["slots"][-1] == {
        "at": "2026-01-06T00:00:00Z",
        "interval": {"from": "2026-01-05T20:00:00Z", "to": "2026-01-06T00:00:00Z"},
    }
    assert await told(database, job) == []
    assert (await http.get(f"{JOBS}/{job['id']}/backfills")).json()["items"] == []


FIXED = {"timeframe": {"kind": "fixed", "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}}
EVERY_MINUTE = {"schedule": {"kind": "cron", "expression": "* * * * *"}, "timeframe": {"kind": "all"}}


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("settings", "body", "pointer"),
    [
        pytest.param({}, {"from": WEEK["to"], "to": WEEK["from"]}, "/to", id="backwards"),
        pytest.param({}, {"from": WEEK["from"], "to": WEEK["from"]}, "/to", id="nothing"),
        pytest.param({}, {"from": WEEK["from"], "to": "2100-01-01T00:00:00Z"}, "/to", id="in the future"),
        pytest.param(FIXED, WEEK, "/timeframe", id="fixed"),
        pytest.param(EVERY_MINUTE, WEEK, "/from", id="10,080 slots"),
        pytest.param({}, {**WEEK, "max_parallel": 17}, "/max_parallel", id="too many at a time"),
        pytest.param({}, {**WEEK, "max_parallel": 0}, "/max_parallel", id="none at a time"),
        pytest.param({}, {**WEEK, "reprocess": "some"}, "/reprocess", id="no such choice"),
        pytest.param({}, {"from": "yesterday", "to": WEEK["to"]}, "/from", id="no time"),
        pytest.param({}, {"to": WEEK["to"]}, "/from", id="from missing"),
    ],
)
async def test_a_backfill_that_cannot_be_is_refused(
    http: httpx.AsyncClient, database: Database, settings: dict[str, Any], body: dict[str, Any], pointer: str,
    dry_run: bool,
) -> None:  # fmt: skip
    job = await submit(http, **settings)
    answer = await http.post(f"{JOBS}/{job['id']}/backfill", json={**body, "dry_run": dry_run})
    assert pointer in [error["pointer"] for error in problem(answer, 422, "invalid")["errors"]]
    assert await told(database, job) == []


# --- sent twice ---------------------------------------------------------------------------------------------------


def key(name: str = "k") -> dict[str, str]:
    return {"Idempotency-Key": name}


async def test_a_submission_that_is_sent_twice_makes_one_job(http: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(http.post(JOBS, json=written(), headers=key()) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len({answer.headers["location"] for answer in answers}) == 1
    await http.post(f"{JOBS}/{answers[0].json()['id']}/suspend")
    again = await http.post(JOBS, json=written(), headers=key())
    assert (again.status_code, again.json()["state"], again.headers["etag"]) == (201, "suspended", '"2"')


async def test_a_key_is_not_taken_for_another_request(http: httpx.AsyncClient, bearer: TokenFor) -> None:
    job = await submit(http, headers=key())
    other = await submit(http)
    problem(await http.post(JOBS, json=written(title="Other"), headers=key()), 422, "idempotency-key-reused")
    await http.post(f"{JOBS}/{job['id']}/run", headers=key("r"))
    problem(await http.post(f"{JOBS}/{other['id']}/run", headers=key("r")), 422, "idempotency-key-reused")
    problem(await http.post(f"{JOBS}/{job['id']}/suspend", headers=key("r")), 422, "idempotency-key-reused")
    theirs = await http.post(JOBS, json=written(), headers={**bearer("globex"), **key()})
    assert theirs.status_code == 201
    assert theirs.json()["id"] != job["id"]


async def test_every_command_that_is_sent_twice_is_done_once_and_answered_alike(
    http: httpx.AsyncClient, store: Store, database: Database
) -> None:
    job = await submit(http)
    ended, going = await see(store, job, RunStatus.FAILED), await see(store, job, RunStatus.RUNNING)
    backfill = (await http.post(f"{JOBS}/{job['id']}/backfill", json=WEEK)).json()["id"]
    paths: list[tuple[str, Any]] = [
        (f"{JOBS}/{job['id']}/run", None),
        (f"{JOBS}/{job['id']}/backfill", WEEK),
        (f"{JOBS}/{job['id']}/backfills/{backfill}/cancel", None),
        (f"{RUNS}/{ended}/retry", None),
        (f"{RUNS}/{going}/cancel", None),
        (f"{JOBS}/{job['id']}/suspend", None),
        (f"{JOBS}/{job['id']}/resume", {"missed": "latest"}),
    ]
    for number, (path, body) in enumerate(paths):
        before = len(await told(database, job))
        first, second = [await http.post(path, json=body, headers=key(str(number))) for _ in range(2)]
        assert first.is_success
        assert (first.status_code, first.json()) == (second.status_code, second.json())
        assert len(await told(database, job)) == before + 1


async def test_a_certificate_that_is_sent_twice_is_not_added_again_after_its_removal(http: httpx.AsyncClient) -> None:
    now = datetime.now(UTC)
    content = certificates.pem(subject="another", begins=now - timedelta(days=1), ends=now + timedelta(days=90))
    added = await http.post(CERTIFICATES, content=content, headers=key())
    assert (await http.post(CERTIFICATES, content=content, headers=key())).json() == added.json()
    await http.delete(f"{CERTIFICATES}/{added.json()['fingerprint']}")
    problem(await http.post(CERTIFICATES, content=content, headers=key()), 404, "not-found")
    assert (await http.post(CERTIFICATES, content=content)).status_code == 201


@pytest.mark.parametrize("name", ["", "x" * 201, "a b", "a\tb", "ä"])
async def test_a_key_that_is_no_name_is_refused(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.post(JOBS, json=written(), headers={"Idempotency-Key": name.encode()})
    body = problem(answer, 422, "invalid")
    assert body["errors"][0]["pointer"] == "/header/Idempotency-Key"


# --- who may ------------------------------------------------------------------------------------------------------

EVERYTHING: list[tuple[str, str, str]] = [
    ("GET", JOBS, "viewer"), ("GET", "{job}", "viewer"), ("POST", "{job}/clone", "viewer"),
    ("POST", f"{JOBS}/preview", "viewer"), ("GET", "{job}/backfills", "viewer"), ("GET", CERTIFICATES, "viewer"),
    ("GET", "{certificate}", "viewer"),
    ("POST", "{job}/suspend", "operator"), ("POST", "{job}/resume", "operator"), ("POST", "{job}/run", "operator"),
    ("POST", "{job}/backfill", "operator"), ("POST", "{job}/backfills/{backfill}/cancel", "operator"),
    ("POST", "{run}/cancel", "operator"), ("POST", "{run}/retry", "operator"),
    ("POST", JOBS, "admin"), ("PUT", "{job}", "admin"), ("PATCH", "{job}", "admin"), ("DELETE", "{job}", "admin"),
    ("POST", CERTIFICATES, "admin"), ("DELETE", "{certificate}", "admin"),
]  # fmt: skip


@pytest.fixture
async def named(http: httpx.AsyncClient, store: Store) -> dict[str, str]:
    """acme's things, by what they are."""
    job = await submit(http)
    backfill = (await http.post(f"{JOBS}/{job['id']}/backfill", json=WEEK)).json()
    [certificate] = (await http.get(CERTIFICATES)).json()["items"]
    return {
        "job": f"{JOBS}/{job['id']}", "backfill": backfill["id"],
        "run": f"{RUNS}/{await see(store, job, RunStatus.RUNNING)}",
        "certificate": f"{CERTIFICATES}/{certificate['fingerprint']}",
    }  # fmt: skip


def sent(method: str, path: str) -> dict[str, Any]:
    body: dict[str, Any] | None = None
    if path == f"{JOBS}/preview":
        body = {"settings": written()}
    elif path.endswith("/backfill"):
        body = WEEK
    elif method in ("PUT", "PATCH") or (path == JOBS and method == "POST"):
        body = written(title="New")
    return {"json": body, "headers": {"If-Match": '"1"'}}


@pytest.mark.parametrize(("method", "path", "least"), EVERYTHING)
async def test_a_role_may_what_it_may_and_nobody_without_a_token(
    http: httpx.AsyncClient, bearer: TokenFor, named: dict[str, str], method: str, path: str, least: str
) -> None:
    where, request = path.format(**named), sent(method, path)
    roles = ["viewer", "operator", "admin"]
    for role in roles[: roles.index(least)]:
        answer = await http.request(
            method, where, json=request["json"], headers={**request["headers"], **bearer(role=role)}
        )
        problem(answer, 403, "forbidden")
    nobody = {**request["headers"], "Authorization": ""}
    problem(await http.request(method, where, json=request["json"], headers=nobody), 401, "unauthenticated")
    answer = await http.request(
        method, where, json=request["json"], headers={**request["headers"], **bearer(role=least)}
    )
    assert answer.status_code not in (401, 403)


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, _ in EVERYTHING if "{" in path])
async def test_what_is_another_tenants_is_not_found(
    http: httpx.AsyncClient, bearer: TokenFor, database: Database, named: dict[str, str], method: str, path: str
) -> None:
    async with database.session() as connection:
        before = await connection.fetchval("SELECT count(*) FROM outbox")
    request = sent(method, path)
    answer = await http.request(
        method, path.format(**named), json=request["json"], headers={**request["headers"], **bearer("initech")}
    )
    problem(answer, 404, "not-found")
    async with database.session() as connection:
        assert await connection.fetchval("SELECT count(*) FROM outbox") == before


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, _ in EVERYTHING if "{" in path])
async def test_what_does_not_exist_is_not_found(http: httpx.AsyncClient, method: str, path: str) -> None:
    nothing = {
        "job": f"{JOBS}/{UNKNOWN}", "backfill": str(UNKNOWN), "run": f"{RUNS}/{UNKNOWN}",
        "certificate": f"{CERTIFICATES}/{'0' * 64}",
    }  # fmt: skip
    problem(await http.request(method, path.format(**nothing), **sent(method, path)), 404, "not-found")
