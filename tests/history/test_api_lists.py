"""Lists of executions and artifacts: filters, orders, pages and totals."""

from base64 import urlsafe_b64encode
from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.history.domain.listing import ARTIFACT_COLUMNS, EXECUTION_COLUMNS, Order, orders
from services.history.store import Store, statement
from shared.clock import utc_text
from shared.database import Database
from shared.events import Event, RunRequested, Trigger
from shared.http import position
from tests.history.conftest import HeadersFor
from tests.history.events import START, Run, job_event, project
from tests.history.lists import HOUR, add, fleet, page, pages, request

EXECUTIONS, ARTIFACTS = orders(EXECUTION_COLUMNS), orders(ARTIFACT_COLUMNS)
ORDERS = [
    *(("executions", sort) for sort in EXECUTIONS),
    *(("artifacts", sort) for sort in ARTIFACTS),
]  # fmt: skip
UNKNOWN = UUID(int=1)


def expected(path: str, items: list[dict[str, Any]], order: Order) -> list[dict[str, Any]]:
    """The items as `order` says, worked out without PostgreSQL."""

    def rank(item: dict[str, Any]) -> Any:
        value = item[order.column]
        if value is not None and order.column == "title":
            value = value.casefold()
        keys = ("requested_at", "run_id") if path == "executions" else ("stored_at", "artifact_id")
        if order.column == "expires_at":
            keys = keys[1:]
        # What has no value is greater than all values.
        return value is None, 0 if value is None else value, *(item[key] for key in keys)

    return sorted(items, key=rank, reverse=order.descending)


@pytest.mark.parametrize(("path", "sort"), ORDERS)
@pytest.mark.parametrize("seed", [1, 2])
async def test_pages_are_the_whole_list_in_the_order_of_the_column_whatever_has_no_value(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor, path: str, sort: str, seed: int
) -> None:
    await project(store, [*fleet(Random(seed), 30), *fleet(Random(9), 5, "t2")])
    everything = await pages(client, path, headers_for("t1"), limit=200)

    found = await pages(client, path, headers_for("t1"), sort=sort, limit=3)

    assert found == expected(path, everything, Order.read(sort))
    assert path == "artifacts" or len(found) == 30


@pytest.mark.parametrize("sort", EXECUTIONS)
async def test_pages_of_a_state_or_a_job_are_their_whole_list_in_order(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor, sort: str
) -> None:
    """Where states leave no row with, or without, the value, no page looks for such rows."""
    await project(store, fleet(Random(3), 40))
    everything = await pages(client, "executions", headers_for("t1"), limit=200)

    async def shown(**only: Any) -> list[dict[str, Any]]:
        return await pages(client, "executions", headers_for("t1"), sort=sort, limit=3, **only)

    for states in (["succeeded"], ["failed"], ["running", "queued"], ["succeeded", "failed"]):
        wanted = [item for item in everything if item["state"] in states]
        assert await shown(state=states) == expected("executions", wanted, Order.read(sort))
    for job_id in {item["job_id"] for item in everything}:
        wanted = [item for item in everything if item["job_id"] == job_id]
        assert await shown(job_id=job_id) == expected("executions", wanted, Order.read(sort))


@pytest.mark.parametrize("sort", EXECUTIONS)
@pytest.mark.parametrize(
    "limits",
    [{}, {"MERGED": 0}, {"MERGED": 0, "LOOKED_AT": 4}, {"LOOKED_UP": 1}],
    ids=["merged", "near", "not near", "too many to look up"],
)
async def test_pages_of_a_text_or_label_are_their_whole_list_in_order_in_whatever_way_they_are_found(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor, monkeypatch: pytest.MonkeyPatch, sort: str,
    limits: dict[str, int],
) -> None:  # fmt: skip
    for name, limit in limits.items():
        monkeypatch.setattr(statement, name, limit)
    await project(store, named_by_version(fleet(Random(4), 40)))
    everything = await pages(client, "executions", headers_for("t1"), limit=200)
    jobs = sorted({item["job_id"] for item in everything})
    asked: list[tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = [
        ({"label": f"job:{jobs[0]}"}, lambda item: item["job_id"] == jobs[0]),
        ({"label": "half:first"}, lambda item: item["job_id"] in jobs[:2]),
        ({"label": "half:first", "state": ["failed", "succeeded"]},
         lambda item: item["job_id"] in jobs[:2] and item["state"] in ("failed", "succeeded")),
        ({"label": "title:apples"}, lambda item: item["title"] == "apples"),
        ({"text": "ÄPF"}, lambda item: item["title"].casefold() == "äpfel"),
        ({"text": "e"}, lambda item: True),
        ({"text": "a", "label": "half:first"},
         lambda item: item["job_id"] in jobs[:2] and "a" in item["title"].casefold()),
    ]  # fmt: skip

    for query, is_wanted in asked:
        found = await pages(client, "executions", headers_for("t1"), sort=sort, limit=3, **query)
        wanted = [item for item in everything if is_wanted(item)]
        assert wanted
        assert found == expected("executions", wanted, Order.read(sort)), query


def named_by_version(events: list[Event]) -> list[Event]:
    """The same, with a version of the job for each title it has, and labels that tell them apart."""
    titles = sorted({event.title for event in events if isinstance(event, RunRequested)})
    jobs = sorted({event.job_id for event in events if isinstance(event, RunRequested)}, key=str)
    named: list[Event] = [
        event.model_copy(update={"job_version": 1 + titles.index(event.title)})
        if isinstance(event, RunRequested) else event
        for event in events
    ]  # fmt: skip
    for job_id in jobs:
        for version, title in enumerate(titles, 1):
            told = job_event("t1", job_id, version)
            half = "first" if job_id in jobs[:2] else "second"
            labels = {"job": str(job_id), "half": half, "title": title}
            settings = told.job.settings.model_copy(update={"title": title, "labels": labels})
            named.append(told.model_copy(update={"job": told.job.model_copy(update={"settings": settings})}))
    return named


@pytest.mark.parametrize("sort", EXECUTIONS)
async def test_pages_show_each_execution_once_while_others_are_added(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor, sort: str
) -> None:
    events = fleet(Random(3), 12)
    await project(store, events)
    known = {str(run_id) for event in events if isinstance(run_id := getattr(event, "run_id", None), UUID)}

    items, more = await page(client, "executions", headers_for("t1"), sort=sort, limit=2)
    seen = [item["run_id"] for item in items]
    while more is not None and len(seen) < 60:  # New runs come after the place in ascending orders of time.
        await add(store, 1, start=START + timedelta(days=50))
        items, more = await page(client, "executions", headers_for("t1"), sort=sort, limit=2, after=more)
        seen += [item["run_id"] for item in items]

    assert len(seen) == len(set(seen))
    assert known <= set(seen)


# --- filters ------------------------------------------------------------------------------------------------------

JOB, OTHER_JOB = UUID(int=7), UUID(int=8)
ISO = utc_text


@pytest.fixture
async def five(store: Store) -> None:
    """Five runs that differ in everything, named by their sources."""
    alpha, beta = Run("t1", JOB, START), Run("t1", JOB, START + timedelta(days=31))
    gamma, delta, omega = (Run("t1", OTHER_JOB, START + n * HOUR) for n in (1, 2, 3))
    events: list[Event] = [
        request(alpha, source="alpha", title="Version 1", version=1, data=(START - 3 * HOUR, START - 2 * HOUR)),
        request(beta, source="beta", title="Version 2", version=2, data=(START - 2 * HOUR, START - HOUR)),
        request(gamma, source="gamma", title="100%_Zürich", type="contact", data=(None, START - 5 * HOUR)),
        request(delta, source="delta", title="Version 7", version=7, trigger=Trigger.BACKFILL),
        request(omega, source="omega", title="Version 7", version=7),
        *(alpha.queued(), alpha.started(), *alpha.succeeded(1)),
        *(beta.queued(), beta.started(), beta.failed()),
        *(gamma.queued(), gamma.started()),
        *(delta.queued(), delta.cancelled()),
    ]  # fmt: skip
    await project(store, events)
    labelled = job_event("t1", OTHER_JOB, 7)
    both = labelled.job.settings.model_copy(update={"labels": {"team": "t7", "site": "x:y"}})
    await project(
        store,
        [
            job_event("t1", JOB, 1), job_event("t1", JOB, 2),
            labelled.model_copy(update={"job": labelled.job.model_copy(update={"settings": both})}),
        ],
    )  # fmt: skip


@pytest.mark.usefixtures("five")
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, "beta omega delta gamma alpha"),
        ({"job_id": str(JOB)}, "beta alpha"),
        ({"job_id": str(UNKNOWN)}, ""),
        ({"source": "gamma"}, "gamma"),
        ({"type": "contact"}, "gamma"),
        ({"state": "requested"}, "omega"),
        ({"state": ["failed", "succeeded"]}, "beta alpha"),
        ({"state": ["failed", "failed"]}, "beta"),
        ({"trigger": "backfill"}, "delta"),
        ({"text": "vERSION"}, "beta omega delta alpha"),
        ({"text": "version 7", "sort": "source"}, "delta omega"),
        ({"text": "ZÜRICH"}, "gamma"),
        ({"text": "%_"}, "gamma"),
        ({"text": "nowhere"}, ""),
        ({"label": "team:t1"}, "beta alpha"),
        ({"label": "team:t7"}, "omega delta"),
        ({"label": ["team:t7", "site:x:y"]}, "omega delta"),
        ({"label": ["team:t7", "team:t1"]}, ""),
        ({"label": "team:T7"}, ""),
        ({"label": "team:t1", "text": "2"}, "beta"),
        ({"label": "team:t1", "job_id": str(OTHER_JOB)}, ""),
        ({"requested_from": ISO(START + HOUR), "requested_to": ISO(START + 3 * HOUR)}, "delta gamma"),
        ({"started_from": ISO(START + HOUR)}, "beta gamma"),
        ({"started_to": ISO(START + HOUR)}, "alpha"),
        ({"finished_from": ISO(START), "finished_to": ISO(START + 30 * 24 * HOUR)}, "delta alpha"),
        ({"data_from": ISO(START - 2 * HOUR)}, "beta omega delta"),
        ({"data_to": ISO(START - 2 * HOUR)}, "gamma alpha"),
        ({"data_from": ISO(START - 3 * HOUR), "data_to": ISO(START - HOUR)}, "beta alpha"),
        ({"data_from": "1900-01-01T00:00:00Z", "data_to": "1900-01-02T00:00:00Z"}, "gamma"),
    ],
    ids=str,
)
async def test_a_filter_keeps_what_it_says(
    client: httpx.AsyncClient, headers_for: HeadersFor, query: dict[str, Any], found: str
) -> None:
    items = await pages(client, "executions", headers_for("t1"), limit=2, **query)
    counting = {"total": True, **query}
    total = (await client.get("/api/v1/executions", params=counting, headers=headers_for("t1"))).json()

    assert [item["source"] for item in items] == found.split()
    assert (total["total"], total["total_is_estimate"]) == (len(items), False)


@pytest.fixture
async def files(store: Store) -> None:
    """Three files, named by their sources."""
    events: list[Event] = []
    for number, source in enumerate(("alpha", "beta", "gamma")):
        run = Run("t1", JOB if number else OTHER_JOB, START + number * HOUR)
        told = {"source": source, "title": f"Version {number}", "type": "contact" if number == 2 else "interaction"}
        [file, _] = run.succeeded(1)
        events += [request(run, title=told["title"], version=number), file.model_copy(update=told)]
        if number == 1:
            events.append(run.deleted(1))
    await project(store, events)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, "gamma beta alpha"),
        ({"job_id": str(JOB)}, "gamma beta"),
        ({"run_id": str(UNKNOWN)}, ""),
        ({"source": "beta"}, "beta"),
        ({"type": "contact"}, "gamma"),
        ({"text": "VERSION"}, "gamma beta alpha"),
        ({"text": "on 1"}, "beta"),
        ({"text": "nowhere"}, ""),
        ({"available": "true"}, "gamma alpha"),
        ({"available": "false"}, "beta"),
        ({"stored_from": ISO(START + HOUR)}, "gamma beta"),
        ({"stored_to": ISO(START + HOUR)}, "alpha"),
    ],
    ids=str,
)
async def test_a_filter_of_artifacts_keeps_what_it_says(
    client: httpx.AsyncClient, headers_for: HeadersFor, query: dict[str, Any], found: str
) -> None:
    items = await pages(client, "artifacts", headers_for("t1"), limit=2, **query)

    assert [item["source"] for item in items] == found.split()


# --- totals -------------------------------------------------------------------------------------------------------


async def test_a_total_is_said_only_when_it_is_asked_for(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor
) -> None:
    await add(store, 3)
    answer = (await client.get("/api/v1/executions", params={"limit": 1}, headers=headers_for("t1"))).json()

    assert (answer["total"], answer["total_is_estimate"]) == (None, None)


async def test_more_than_are_counted_are_estimated(
    client: httpx.AsyncClient, store: Store, database: Database, headers_for: HeadersFor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(statement, "COUNTED", 20)
    await project(store, [*fleet(Random(1), 20), *fleet(Random(2), 300, "t2")])
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL ROLE NONE")
        await connection.execute("ANALYZE executions")

    async def total(tenant: str) -> tuple[int, bool]:
        answer = await client.get("/api/v1/executions?total=true", headers=headers_for(tenant))
        return answer.json()["total"], answer.json()["total_is_estimate"]

    assert await total("t1") == (20, False)
    estimate, is_estimate = await total("t2")
    assert (is_estimate, 150 < estimate < 600) == (True, True), estimate


# --- what can't be ------------------------------------------------------------------------------------------------


def place(*parts: object) -> str:
    return urlsafe_b64encode(orjson.dumps(parts)).decode().rstrip("=")


def behind(order: str, *value: object) -> str:
    return position(order, orjson.dumps(value).decode(), UNKNOWN)


NOW, SECONDS = ISO(START), "duration_seconds"


@pytest.mark.parametrize(
    ("path", "query", "pointer"),
    [
        *(
            (path, query, pointer)
            for path, order in (("executions", "-requested_at"), ("artifacts", "-stored_at"))
            for query, pointer in (
                ({"limit": 0}, "limit"),
                ({"limit": 201}, "limit"),
                ({"limit": "many"}, "limit"),
                ({"after": "xyz"}, "after"),
                ({"after": place()}, "after"),
                ({"after": place(order, 1, str(UNKNOWN))}, "after"),
                ({"after": place(order, "[]", str(UNKNOWN))}, "after"),
                ({"after": place(order, "1", str(UNKNOWN))}, "after"),
                ({"after": place(order, "nonsense", str(UNKNOWN))}, "after"),
                ({"after": behind("title", "a", NOW)}, "after"),
                ({"after": behind(order, NOW, "2026-01-01T00:00:00")}, "after"),
                ({"after": behind(order, NOW, "0001-01-01T00:00:00+14:00")}, "after"),
                ({"after": behind(order, NOW, None)}, "after"),
                ({"after": behind(order, 7, NOW)}, "after"),
                ({"after": behind(order, NOW, NOW, NOW)}, "after"),
                ({"after": behind("rows", True, NOW), "sort": "rows"}, "after"),
                ({"after": behind("rows", 2**63, NOW), "sort": "rows"}, "after"),
                ({"after": behind("rows", 1.5, NOW), "sort": "rows"}, "after"),
                ({"after": behind("title", "a\0", NOW), "sort": "title"}, "after"),
                ({"after": behind("title", {}, NOW), "sort": "title"}, "after"),
                ({"sort": "colour"}, "sort"),
                ({"sort": "--rows"}, "sort"),
                ({"sort": ""}, "sort"),
                ({"text": ""}, "text"),
                ({"text": "a\0"}, "text"),
                ({"text": "a" * 201}, "text"),
                ({"source": "a\0"}, "source"),
                ({"type": "Fax!"}, "type"),
                ({"job_id": "7"}, "job_id"),
            )
        ),
        ("executions", {"after": place(SECONDS, '["1",1]', str(UNKNOWN)), "sort": SECONDS}, "after"),
        ("executions", {"after": place(SECONDS, "[1e999,1]", str(UNKNOWN)), "sort": SECONDS}, "after"),
        ("executions", {"state": "lost"}, "state/0"),
        ("executions", {"state": ["failed"] * 7}, "state"),
        ("executions", {"trigger": "moon"}, "trigger"),
        ("executions", {"label": "team"}, "label/0"),
        ("executions", {"label": ["team:a", "team:\0"]}, "label/1"),
        ("executions", {"label": ["team:a"] * 21}, "label"),
        ("executions", {"requested_from": "yesterday"}, "requested_from"),
        ("executions", {"requested_from": "1700000000"}, "requested_from"),
        ("executions", {"started_to": "2026-01-01T00:00:00"}, "started_to"),
        ("executions", {"finished_to": "9999-12-31T23:59:59Z"}, "finished_to"),
        ("executions", {"requested_from": NOW, "requested_to": NOW}, "requested_to"),
        ("executions", {"data_from": NOW, "data_to": "2000-01-01T00:00:00Z"}, "data_to"),
        ("executions", {"total": "perhaps"}, "total"),
        ("artifacts", {"run_id": "7"}, "run_id"),
        ("artifacts", {"available": "perhaps"}, "available"),
        ("artifacts", {"stored_from": NOW, "stored_to": NOW}, "stored_to"),
        ("artifacts", {"order": "departure"}, "order"),
        ("artifacts", {"order": "arrival", "sort": "rows"}, "sort"),
        ("artifacts", {"order": "arrival", "job_id": str(UNKNOWN)}, "job_id"),
        ("artifacts", {"order": "arrival", "after": "xyz"}, "after"),
        ("artifacts", {"order": "arrival", "after": position("arrival", "-1", UNKNOWN)}, "after"),
        ("artifacts", {"order": "arrival", "after": position("arrival", "²", UNKNOWN)}, "after"),
        ("artifacts", {"order": "arrival", "after": position("arrival", "9" * 19, UNKNOWN)}, "after"),
        ("artifacts", {"order": "arrival", "after": position("arrival", "9" * 20, UNKNOWN)}, "after"),
        ("artifacts", {"order": "arrival", "after": behind("-stored_at", NOW, NOW)}, "after"),
        ("artifacts", {"after": position("arrival", "1", UNKNOWN)}, "after"),
    ],
    ids=str,
)  # fmt: skip
async def test_a_list_that_cannot_be_is_refused(
    client: httpx.AsyncClient, headers_for: HeadersFor, path: str, query: dict[str, Any], pointer: str
) -> None:
    answer = await client.get(f"/api/v1/{path}", params=query, headers=headers_for("t1"))

    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), answer.text
    [error] = answer.json()["errors"]
    assert error["pointer"] == f"/query/{pointer}"
    assert error["remedy"]


words = st.text(max_size=20) | st.sampled_from(["title", "-rows", "team:a", "\0", "9" * 100, "arrival", "true", NOW])
NAMES = {
    "executions": "job_id source type state trigger label text requested_from started_to data_from sort total limit"
    " after",
    "executions/00000000-0000-0000-0000-000000000001/events": "limit after",
    "artifacts": "job_id run_id source type text available stored_from stored_to sort order limit after",
    "slots": "job_id outcome trigger slot_from slot_to limit after",
    "coverage": "job_id from to",
    "statistics": "from to group",
    "audit": "actor action job_id run_id from to format limit after",
}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
async def test_no_query_whatever_makes_an_endpoint_fail(
    client: httpx.AsyncClient, headers_for: HeadersFor, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(sorted(NAMES)))
    query = data.draw(st.dictionaries(st.sampled_from(NAMES[path].split()), words))
    answer = await client.get(f"/api/v1/{path}", params=query, headers=headers_for("t1", "admin"))
    assert answer.status_code in (200, 404, 422), answer.text


json = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.datetimes().map(datetime.isoformat)
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.sampled_from([*ORDERS, ("slots", "-decided_at")]), value=json, moment=json)
async def test_no_cursor_whatever_makes_a_list_fail(
    client: httpx.AsyncClient, headers_for: HeadersFor, where: tuple[str, str], value: object, moment: object
) -> None:
    path, sort = where
    written = orjson.dumps([value, moment], option=orjson.OPT_NON_STR_KEYS).decode() if _fits(value, moment) else "[]"
    query = {"after": position(sort, written, UNKNOWN)} | ({} if path == "slots" else {"sort": sort})
    answer = await client.get(f"/api/v1/{path}", params=query, headers=headers_for("t1"))
    assert answer.status_code in (200, 422), answer.text


def _fits(*values: object) -> bool:
    """Whether orjson can write it: integers of 64 bits."""
    return all(not isinstance(value, int) or -(2**63) <= value < 2**64 for value in values)
