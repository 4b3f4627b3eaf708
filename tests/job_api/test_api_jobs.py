"""Editing, suspending, resuming, deleting and cloning over HTTP."""

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from services.job_api.domain import jobs
from services.job_api.store import Store
from shared.database import Database
from shared.events import SchedulePaused
from tests.job_api.conftest import TokenFor
from tests.job_api.edge import CERTIFICATES, JOBS, match, problem, submit, written

pytestmark = pytest.mark.usefixtures("certified")
MERGE = {"Content-Type": "application/merge-patch+json"}
LATER = "2100-01-01T00:00:00Z"


async def told(database: Database, job: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a job."""
    async with database.session() as connection:
        rows = await connection.fetch("SELECT type, value FROM outbox WHERE key = $1 ORDER BY id", job["id"])
    return [{"type": row["type"].split(".")[1], **json.loads(row["value"])} for row in rows]


# --- edits --------------------------------------------------------------------------------------------------------


async def test_put_replaces_the_settings_and_makes_a_version(http: httpx.AsyncClient, database: Database) -> None:
    job = await submit(http, description="old", labels={"team": "a"})
    answer = await http.put(f"{JOBS}/{job['id']}", json=written(title="New"), headers=match(job))
    edited = answer.json()
    assert (answer.status_code, answer.headers["etag"], edited["version"]) == (200, '"2"', 2)
    assert (edited["settings"]["title"], edited["settings"]["description"]) == ("New", "")
    assert edited["settings"]["labels"] == {}
    assert edited["updated_at"] > job["updated_at"]
    assert (await http.get(f"{JOBS}/{job['id']}")).json() == edited
    event = (await told(database, job))[-1]
    assert (event["type"], event["job"]["version"], event["actor"]) == ("JobUpdated", 2, "alice")


async def test_patch_changes_what_it_names_and_null_takes_out(http: httpx.AsyncClient) -> None:
    job = await submit(http, description="old", labels={"team": "a", "site": "b"}, ends_at=LATER)
    patch = {"title": "New", "labels": {"team": None, "cost": "c"}, "ends_at": None, "retry": {"attempts": 5}}
    for kind in ("application/merge-patch+json", "application/json"):
        answer = await http.patch(
            f"{JOBS}/{job['id']}", content=json.dumps(patch), headers={**match(job), "Content-Type": kind}
        )
        assert answer.status_code == 200, answer.text
        edited = answer.json()["settings"]
        assert (edited["title"], edited["description"], edited["ends_at"]) == ("New", "old", None)
        assert edited["labels"] == {"site": "b", "cost": "c"}
        assert edited["retry"] == {"attempts": 5, "backoff": "PT1M"}
        job = answer.json()
    assert job["version"] == 2  # The second one changed nothing.


@pytest.mark.parametrize(
    ("patch", "pointer"),
    [
        ({"titel": "x"}, "/titel"),
        ({"title": None}, "/title"),
        ({"schedule": {"kind": "daily", "at": "06:00"}}, "/schedule/every"),
        ({"schedule": {"every": 5}}, "/schedule/every"),
        ({"source": "nowhere"}, "/source"),
        ({"labels": {"\ud800": "x"}}, "/labels"),
        ({"\ud800": {"\ud800": "\ud800"}}, "/"),
        ({"title": "a\0"}, "/title"),
        ({"split_bytes": 10**400}, "/split_bytes"),
        ({"a": json.loads("[" * 200 + "]" * 200)}, "/a"),
        ({"timeframe": json.loads('{"a":' * 200 + "1" + "}" * 200)}, "/timeframe"),
    ],
    ids=str,
)  # fmt: skip
async def test_what_a_patch_makes_is_checked_like_a_submission(
    http: httpx.AsyncClient, patch: dict[str, Any], pointer: str
) -> None:
    job = await submit(http)
    answer = await http.patch(f"{JOBS}/{job['id']}", content=json.dumps(patch), headers={**match(job), **MERGE})
    body = problem(answer, 422, "invalid")
    assert any(error["pointer"].startswith(pointer) for error in body["errors"]), body
    assert (await http.get(f"{JOBS}/{job['id']}")).json() == job


@pytest.mark.parametrize(
    "content", ["{", "[]", "1", "null", '"x"', "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass"), b"\xff"]
)
async def test_a_patch_that_is_no_object_is_refused(http: httpx.AsyncClient, content: Any) -> None:
    job = await submit(http)
    answer = await http.patch(f"{JOBS}/{job['id']}", content=content, headers={**match(job), **MERGE})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_an_edit_that_changes_nothing_makes_no_version(http: httpx.AsyncClient, database: Database) -> None:
    job = await submit(http)
    answers = [
        await http.put(f"{JOBS}/{job['id']}", json=job["settings"], headers=match(job)),
        await http.patch(f"{JOBS}/{job['id']}", json={"title": job["settings"]["title"]}, headers=match(job)),
    ]
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, job)] * 2
    assert len(await told(database, job)) == 1


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_a_change_needs_the_version_that_was_read(http: httpx.AsyncClient, method: str) -> None:
    job = await submit(http)
    path, body = f"{JOBS}/{job['id']}", None if method == "DELETE" else written(title="New")
    problem(await http.request(method, path, json=body), 428, "version-required")
    for tag in ('"2"', '"0"', '"x"', 'W/"1"', '"99999999999999999999"'):
        answer = await http.request(method, path, json=body, headers={"If-Match": tag})
        stale = problem(answer, 412, "version-mismatch")
        assert (stale["version"], answer.headers["etag"]) == (1, '"1"')
    for tag in ("1", "", '"1', "W/1", '"1";', "\x80", '*, "1"', '"1 "'):
        answer = await http.request(method, path, json=body, headers={"If-Match": tag.encode("latin-1")})
        problem(answer, 400, "malformed")
    for tag in ('"7", "1"', "*")[: 1 if method == "DELETE" else 2]:
        assert (await http.request(method, path, json=body, headers={"If-Match": tag})).is_success


async def test_of_a_hundred_edits_of_one_version_over_http_one_wins(http: httpx.AsyncClient) -> None:
    job = await submit(http)
    answers = await asyncio.gather(
        *(http.patch(f"{JOBS}/{job['id']}", json={"title": f"{n}"}, headers=match(job)) for n in range(100))
    )
    assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 99}
    winner = next(answer for answer in answers if answer.status_code == 200)
    assert (await http.get(f"{JOBS}/{job['id']}")).json() == winner.json()


async def test_a_key_of_another_job_cannot_be_taken_by_an_edit(http: httpx.AsyncClient) -> None:
    await submit(http, key="nightly")
    job = await submit(http, key="hourly")
    body = problem(await http.patch(f"{JOBS}/{job['id']}", json={"key": "nightly"}, headers=match(job)), 422, "invalid")
    assert body["errors"][0]["pointer"] == "/key"


async def test_a_one_time_job_is_not_editable_and_a_recurring_one_does_not_become_one(http: httpx.AsyncClient) -> None:
    once = await submit(http, schedule={"kind": "once"}, start=LATER)
    problem(await http.put(f"{JOBS}/{once['id']}", json=written(), headers=match(once)), 409, "one-time-not-editable")
    job = await submit(http)
    changed = written(schedule={"kind": "once"}, start=LATER)
    body = problem(await http.put(f"{JOBS}/{job['id']}", json=changed, headers=match(job)), 422, "invalid")
    assert body["errors"][0]["pointer"] == "/schedule"


async def test_an_edit_needs_a_certificate_like_a_submission(http: httpx.AsyncClient) -> None:
    job = await submit(http)
    await without_certificates(http)
    answer = await http.patch(f"{JOBS}/{job['id']}", json={"title": "New"}, headers=match(job))
    problem(answer, 409, "certificate-required")


async def without_certificates(http: httpx.AsyncClient) -> None:
    for item in (await http.get(CERTIFICATES)).json()["items"]:
        assert (await http.delete(f"{CERTIFICATES}/{item['fingerprint']}")).status_code == 200


# --- suspend and resume -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quiet_hour")
async def test_suspend_and_resume_are_versions_with_their_events(http: httpx.AsyncClient, database: Database) -> None:
    job = await submit(http)
    suspended = (await http.post(f"{JOBS}/{job['id']}/suspend")).json()
    assert (suspended["state"], suspended["suspended_reason"], suspended["next_slot_at"]) == ("suspended", "user", None)
    resumed = (
        await http.post(f"{JOBS}/{job['id']}/resume", json={"missed": "latest"}, headers=match(suspended))
    ).json()
    assert (resumed["state"], resumed["version"], resumed["next_slot_at"]) == ("active", 3, job["next_slot_at"])
    events = await told(database, job)
    assert [event["type"] for event in events] == ["JobCreated", "JobSuspended", "JobResumed"]
    assert (events[2]["missed"], events[2]["missed_since"]) == ("latest", suspended["updated_at"])


async def test_resume_says_since_when_a_paused_job_has_missed_slots(
    http: httpx.AsyncClient, store: Store, database: Database
) -> None:
    job = await submit(http)
    paused_at = datetime(2026, 1, 1, tzinfo=UTC)
    event = SchedulePaused(occurred_at=paused_at, tenant="acme", job_id=job["id"], job_version=1, failures=3)
    await store.follow(event.job_id, lambda facts: jobs.pause(facts, event))
    await http.post(f"{JOBS}/{job['id']}/resume")
    resumed = (await told(database, job))[-1]
    assert (resumed["missed"], resumed["missed_since"]) == ("none", "2026-01-01T00:00:00Z")


async def paused(http: httpx.AsyncClient, store: Store, since: timedelta, **changes: Any) -> dict[str, Any]:
    """A job that was paused a while ago."""
    job = await submit(http, **changes)
    event = SchedulePaused(
        occurred_at=datetime.now(UTC) - since, tenant="acme", job_id=job["id"], job_version=1, failures=3
    )
    await store.follow(event.job_id, lambda facts: jobs.pause(facts, event))
    return job


@pytest.mark.usefixtures("quiet_hour")
@pytest.mark.parametrize(("missed", "requested"), [("none", 0), ("latest", 1), ("all", 6)])
async def test_a_dry_run_lists_what_was_missed_and_changes_nothing(
    http: httpx.AsyncClient, store: Store, database: Database, missed: str, requested: int
) -> None:
    job = await paused(http, store, timedelta(hours=24))
    before = (await http.get(f"{JOBS}/{job['id']}")).json(), await told(database, job)
    answer = await http.post(f"{JOBS}/{job['id']}/resume", json={"missed": missed, "dry_run": True})
    body = answer.json()
    assert (answer.status_code, len(body["slots"]), len(body["requested"]), body["more"]) == (200, 6, requested, False)
    assert body["requested"] == body["slots"][6 - requested :]
    for slot in body["slots"]:
        assert slot["interval"]["to"] == slot["at"]  # The last four hours, every four hours.
    assert ((await http.get(f"{JOBS}/{job['id']}")).json(), await told(database, job)) == before


async def test_more_than_a_thousand_missed_slots_are_not_requested_at_once(
    http: httpx.AsyncClient, store: Store
) -> None:
    minutely = {"schedule": {"kind": "cron", "expression": "* * * * *"}, "timeframe": {"kind": "all"}}
    job = await paused(http, store, timedelta(minutes=1001, seconds=30), **minutely)
    for dry_run in (True, False):
        answer = await http.post(f"{JOBS}/{job['id']}/resume", json={"missed": "all", "dry_run": dry_run})
        body = problem(answer, 422, "invalid")
        assert body["errors"][0]["pointer"] == "/missed"
        assert "backfill" in body["errors"][0]["remedy"]
    body = (await http.post(f"{JOBS}/{job['id']}/resume", json={"missed": "latest", "dry_run": True})).json()
    assert (len(body["slots"]), body["more"], len(body["requested"])) == (1000, True, 1)
    assert (await http.post(f"{JOBS}/{job['id']}/resume", json={"missed": "latest"})).json()["state"] == "active"


@pytest.mark.usefixtures("quiet_hour")
async def test_since_last_run_covers_what_was_missed_by_one_run(http: httpx.AsyncClient, store: Store) -> None:
    timeframe = {"kind": "since_last_run", "from": "2026-01-01T00:00:00Z"}
    job = await paused(http, store, timedelta(hours=24), timeframe=timeframe)
    body = (await http.post(f"{JOBS}/{job['id']}/resume", json={"missed": "all", "dry_run": True})).json()
    assert (len(body["slots"]), len(body["requested"])) == (6, 1)
    assert body["requested"][0]["interval"] == {"from": "2026-01-01T00:00:00Z", "to": body["slots"][-1]["at"]}


async def test_resume_needs_a_certificate_and_suspend_does_not(http: httpx.AsyncClient) -> None:
    job = await submit(http)
    await without_certificates(http)
    assert (await http.post(f"{JOBS}/{job['id']}/suspend")).status_code == 200
    problem(await http.post(f"{JOBS}/{job['id']}/resume"), 409, "certificate-required")
    problem(await http.post(f"{JOBS}/{job['id']}/resume", json={"dry_run": True}), 409, "certificate-required")


@pytest.mark.parametrize("command", ["suspend", "resume", "run", "backfill"])
async def test_a_command_to_a_version_is_given_to_that_version_only(http: httpx.AsyncClient, command: str) -> None:
    job = await submit(http)
    body = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"} if command == "backfill" else None
    answer = await http.post(f"{JOBS}/{job['id']}/{command}", json=body, headers={"If-Match": '"9"'})
    assert problem(answer, 412, "version-mismatch")["version"] == 1


# --- delete and clone ---------------------------------------------------------------------------------------------


async def test_a_deleted_job_is_gone_and_its_tombstone_told(http: httpx.AsyncClient, database: Database) -> None:
    job = await submit(http)
    answer = await http.delete(f"{JOBS}/{job['id']}", headers=match(job))
    assert (answer.status_code, answer.content) == (204, b"")
    problem(await http.get(f"{JOBS}/{job['id']}"), 404, "not-found")
    problem(await http.post(f"{JOBS}/{job['id']}/clone"), 404, "not-found")
    assert (await http.get(JOBS)).json()["items"] == []
    event = (await told(database, job))[-1]
    assert (event["type"], event["job"]["state"], event["job"]["version"]) == ("JobDeleted", "deleted", 2)


async def test_a_job_in_progress_is_not_deleted_and_the_run_named(http: httpx.AsyncClient) -> None:
    job = await submit(http)
    run = (await http.post(f"{JOBS}/{job['id']}/run")).json()["run_id"]
    body = problem(await http.delete(f"{JOBS}/{job['id']}", headers=match(job)), 409, "job-in-progress")
    assert body["run_id"] == run
    assert run in body["detail"]


async def test_a_job_with_a_backfill_in_progress_is_not_deleted(http: httpx.AsyncClient) -> None:
    job = await submit(http)
    body = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}
    backfill = (await http.post(f"{JOBS}/{job['id']}/backfill", json=body)).json()
    refused = problem(await http.delete(f"{JOBS}/{job['id']}", headers=match(job)), 409, "job-in-progress")
    assert refused["backfill_id"] == backfill["id"]
    await http.post(f"{JOBS}/{job['id']}/backfills/{backfill['id']}/cancel")
    assert (await http.delete(f"{JOBS}/{job['id']}", headers=match(job))).status_code == 204


async def test_a_clone_is_a_draft_without_the_key_and_stores_nothing(
    http: httpx.AsyncClient, database: Database, bearer: TokenFor
) -> None:
    job = await submit(http, key="nightly", labels={"team": "a"})
    answer = await http.post(f"{JOBS}/{job['id']}/clone", headers=bearer(role="viewer"))
    assert (answer.status_code, answer.json()) == (200, {"settings": {**job["settings"], "key": None}})
    assert len((await http.get(JOBS)).json()["items"]) == 1
    assert (await http.post(JOBS, json=answer.json()["settings"])).status_code == 201
    assert len(await told(database, job)) == 1
