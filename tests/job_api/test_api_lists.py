"""Lists of jobs: filters, orders and pages."""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.job_api.domain.listing import ORDERS
from services.job_api.domain.runs import RunStatus, Sighting
from services.job_api.store import Store
from shared.http import position
from tests.job_api.conftest import TokenFor
from tests.job_api.edge import JOBS, problem, submit

pytestmark = pytest.mark.usefixtures("certified")
NOW = datetime.now(UTC)
UNKNOWN = UUID(int=1)


async def see(store: Store, job: dict[str, Any], status: RunStatus, **more: Any) -> None:
    await store.note_run(
        Sighting(
            tenant="acme", job_id=UUID(job["id"]), run_id=uuid4(), status=status, version=7, seen_at=NOW, **more
        )
    )  # fmt: skip


async def titles(http: httpx.AsyncClient, **params: Any) -> list[str]:
    answer = await http.get(JOBS, params=params)
    assert answer.status_code == 200, answer.text
    return [item["settings"]["title"] for item in answer.json()["items"]]


@pytest.fixture
async def fleet(http: httpx.AsyncClient, store: Store, certified: None) -> None:
    """Five jobs that differ in everything but, at some hours, their next slots."""
    one = await submit(http, title="alpha", labels={"team": "a", "site": "x"})
    two = await submit(http, title="Beta", type="contact", description="Zürich", labels={"team": "b"})
    three = await submit(http, title="gamma", schedule={"kind": "daily", "at": "00:00"}, labels={"team": "a"})
    four = await submit(http, title="Delta 100%_x", schedule={"kind": "monthly", "day": 1, "at": "00:00"})
    await submit(http, title="epsilon")
    await http.post(f"{JOBS}/{two['id']}/suspend")
    await see(store, one, RunStatus.RUNNING, started_at=NOW)
    await see(store, two, RunStatus.FAILED, started_at=NOW - timedelta(hours=1))
    await see(store, three, RunStatus.SUCCEEDED, started_at=NOW - timedelta(hours=2))
    await see(store, four, RunStatus.WAITING)


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, ["epsilon", "Delta 100%_x", "gamma", "Beta", "alpha"]),
        ({"source": "ucs"}, ["epsilon", "Delta 100%_x", "gamma", "Beta", "alpha"]),
        ({"source": "flights"}, []),
        ({"type": "contact"}, ["Beta"]),
        ({"state": "suspended"}, ["Beta"]),
        ({"state": "active", "sort": "title"}, ["alpha", "Delta 100%_x", "epsilon", "gamma"]),
        ({"status": "running"}, ["alpha"]),
        ({"status": "waiting"}, ["Delta 100%_x"]),
        ({"status": "cancelled"}, []),
        ({"text": "ETA"}, ["Beta"]),
        ({"text": "ZÜRICH"}, ["Beta"]),
        ({"text": "A", "sort": "title"}, ["alpha", "Beta", "Delta 100%_x", "gamma"]),
        ({"text": "100%_"}, ["Delta 100%_x"]),
        ({"text": "%"}, ["Delta 100%_x"]),
        ({"label": "team:a"}, ["gamma", "alpha"]),
        ({"label": ["team:a", "site:x"]}, ["alpha"]),
        ({"label": ["team:a", "team:b"]}, []),
        ({"label": "team:A"}, []),
        ({"label": "team:a", "status": "succeeded", "text": "gam", "type": "interaction"}, ["gamma"]),
    ],
    ids=str,
)
async def test_a_filter_keeps_what_it_says(
    http: httpx.AsyncClient, params: dict[str, Any], expected: list[str]
) -> None:
    assert await titles(http, **params) == expected


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("title", ["alpha", "Beta", "Delta 100%_x", "epsilon", "gamma"]),
        ("latest_started_at", [None, None, "gamma", "Beta", "alpha"]),
        ("latest_status", ["epsilon", "Beta", "alpha", "gamma", "Delta 100%_x"]),
        ("created_at", ["alpha", "Beta", "gamma", "Delta 100%_x", "epsilon"]),
        ("updated_at", ["alpha", "gamma", "Delta 100%_x", "epsilon", "Beta"]),
    ],
)
async def test_an_order_is_that_of_its_column_in_both_directions(
    http: httpx.AsyncClient, sort: str, expected: list[str | None]
) -> None:
    for order, wanted in ((sort, expected), (f"-{sort}", expected[::-1])):
        found = await titles(http, sort=order)
        assert all(want in (None, title) for want, title in zip(wanted, found, strict=True)), found


@pytest.mark.usefixtures("fleet")
async def test_jobs_without_a_next_slot_come_last(http: httpx.AsyncClient, store: Store) -> None:
    jobs = (await http.get(JOBS, params={"sort": "title", "state": "active"})).json()["items"]
    for hours, job in enumerate(jobs, 1):
        await store.note_next_slot(UUID(job["id"]), 1, NOW + timedelta(hours=hours), datetime.now(UTC))
    wanted = ["alpha", "Delta 100%_x", "epsilon", "gamma"]
    assert await titles(http, sort="next_slot_at") == [*wanted, "Beta"]
    assert await titles(http, sort="-next_slot_at") == ["Beta", *wanted[::-1]]


@pytest.mark.parametrize("sort", ORDERS)
async def test_pages_show_each_job_once_while_others_come_and_go(http: httpx.AsyncClient, sort: str) -> None:
    ids = [(await submit(http, title=f"Job {n}"))["id"] for n in range(7)]
    page = (await http.get(JOBS, params={"limit": 2, "sort": sort})).json()
    seen = [job["id"] for job in page["items"]]
    gone = {ids[3]}
    await http.delete(f"{JOBS}/{ids[3]}", headers={"If-Match": '"1"'})
    while page["next"]:
        await submit(http, title="Added meanwhile")
        page = (await http.get(JOBS, params={"limit": 2, "sort": sort, "after": page["next"]})).json()
        seen += [job["id"] for job in page["items"]]
        if len(seen) > 60:
            break  # New jobs come after the place in ascending orders of time.
    assert len(seen) == len(set(seen))
    assert set(ids) - gone <= set(seen)


async def test_a_list_shows_what_one_job_shows(http: httpx.AsyncClient, store: Store) -> None:
    job = await submit(http)
    await see(store, job, RunStatus.RUNNING, started_at=NOW)
    answer = (await http.get(f"{JOBS}/{job['id']}")).json()
    assert answer["latest_run"]["state"] == "running"
    assert (await http.get(JOBS)).json() == {"items": [answer], "next": None}


def place(*parts: object) -> str:
    return urlsafe_b64encode(orjson.dumps(parts)).decode().rstrip("=")


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"limit": 0}, "/query/limit"),
        ({"limit": 201}, "/query/limit"),
        ({"limit": "many"}, "/query/limit"),
        ({"after": "xyz"}, "/query/after"),
        ({"after": "ä"}, "/query/after"),
        ({"after": place()}, "/query/after"),
        ({"after": place("-created_at", 1, str(UNKNOWN))}, "/query/after"),
        ({"after": place("-created_at", "2026-01-01T00:00:00", str(UNKNOWN))}, "/query/after"),
        ({"after": place("-created_at", "0001-01-01T00:00:00+14:00", str(UNKNOWN))}, "/query/after"),
        ({"after": place("-created_at", "yesterday", str(UNKNOWN))}, "/query/after"),
        ({"after": place("-created_at", "2026-01-01T00:00:00Z", "1")}, "/query/after"),
        ({"after": place("title", "a\0", str(UNKNOWN)), "sort": "title"}, "/query/after"),
        ({"after": position("title", "a", UNKNOWN), "sort": "-title"}, "/query/after"),
        ({"after": position("title", "a", UNKNOWN)}, "/query/after"),
        ({"sort": "colour"}, "/query/sort"),
        ({"sort": "--title"}, "/query/sort"),
        ({"sort": ""}, "/query/sort"),
        ({"state": "deleted"}, "/query/state"),
        ({"status": "skipped"}, "/query/status"),
        ({"text": "a\0"}, "/query/text"),
        ({"text": ""}, "/query/text"),
        ({"source": "a\0"}, "/query/source"),
        ({"type": "Fax!"}, "/query/type"),
        ({"label": "team"}, "/query/label/0"),
        ({"label": ["team:a", "team:\0"]}, "/query/label/1"),
    ],
    ids=str,
)  # fmt: skip
async def test_a_list_that_cannot_be_is_refused(http: httpx.AsyncClient, query: dict[str, Any], pointer: str) -> None:
    body = problem(await http.get(JOBS, params=query), 422, "invalid")
    assert [error["pointer"] for error in body["errors"]] == [pointer]


words = st.text(max_size=20) | st.sampled_from(["title", "-created_at", "team:a", "\0", "9" * 100])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=st.dictionaries(
        st.sampled_from(["source", "type", "state", "status", "text", "label", "sort", "limit", "after"]), words
    )
)
async def test_no_query_whatever_makes_the_list_fail(http: httpx.AsyncClient, query: dict[str, str]) -> None:
    answer = await http.get(JOBS, params=query)
    assert answer.status_code in (200, 422), answer.text


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.text(max_size=30), sort=st.sampled_from(ORDERS))
async def test_no_cursor_whatever_makes_the_list_fail(http: httpx.AsyncClient, value: str, sort: str) -> None:
    answer = await http.get(JOBS, params={"sort": sort, "after": position(sort, value, UNKNOWN)})
    assert answer.status_code in (200, 422), answer.text


async def test_another_tenants_jobs_are_not_listed_whatever_the_order(
    http: httpx.AsyncClient, bearer: TokenFor
) -> None:
    await submit(http)
    for sort in ORDERS:
        answer = await http.get(JOBS, params={"sort": sort}, headers=bearer("globex"))
        assert answer.json() == {"items": [], "next": None}
