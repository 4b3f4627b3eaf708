"""Sums of runs."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from services.history.store import Store
from tests.history.conftest import HeadersFor
from tests.history.events import START, Run, project
from tests.history.lists import request

FIRST, SECOND, LAST = ((START + timedelta(days=days)).date().isoformat() for days in (0, 1, 2))


@pytest.fixture
async def ended(store: Store) -> None:
    """Two days of two sources: three runs that succeeded after 1, 1 and 3 seconds, one that failed, one cancelled."""
    for day, source, seconds in ((0, "ucs", 0), (0, "crm", 0), (1, "ucs", 2)):
        run = Run("t1", start=START + timedelta(days=day))
        events = [request(run, source=source), run.queued(), run.started()]
        run.now += timedelta(seconds=seconds)
        await project(store, [*events, *run.succeeded(1)])
    failed, cancelled, other = Run("t1"), Run("t1", start=START + timedelta(days=1)), Run("t2")
    await project(store, [request(failed), failed.started(), failed.failed()])
    await project(store, [request(cancelled), cancelled.cancelled()])
    await project(store, [request(other, source="other"), other.started(), *other.succeeded(1)])
    await project(store, [Run("t1").requested()])


async def sums(client: httpx.AsyncClient, headers: dict[str, str], **query: str) -> list[dict[str, Any]]:
    answer = await client.get("/api/v1/statistics", params={"from": FIRST, "to": LAST, **query}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


@pytest.mark.usefixtures("ended")
async def test_all_runs_are_one_sum(client: httpx.AsyncClient, headers_for: HeadersFor) -> None:
    assert await sums(client, headers_for("t1")) == [
        {
            "day": None, "source": None, "type": None, "runs": 5, "succeeded": 3, "failed": 1, "cancelled": 1,
            "success_rate": 0.75, "rows": 30, "bytes": 300, "mean_duration_seconds": 5 / 3,
            "longest_duration_seconds": 3.0,
        }
    ]  # fmt: skip


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("day", [(FIRST, None, None, 3), (SECOND, None, None, 2)]),
        ("source", [(None, "crm", None, 1), (None, "ucs", None, 4)]),
        ("type", [(None, None, "interaction", 5)]),
        (
            "source,day",
            [(FIRST, "crm", None, 1), (FIRST, "ucs", None, 2), (SECOND, "ucs", None, 2)],
        ),
        (
            "day,source,type",
            [(FIRST, "crm", "interaction", 1), (FIRST, "ucs", "interaction", 2), (SECOND, "ucs", "interaction", 2)],
        ),
    ],
)  # fmt: skip
async def test_runs_are_summed_up_by_what_is_asked_for(
    client: httpx.AsyncClient, headers_for: HeadersFor, group: str, expected: list[tuple[Any, ...]]
) -> None:
    found = await sums(client, headers_for("t1"), group=group)

    assert [(one["day"], one["source"], one["type"], one["runs"]) for one in found] == expected


@pytest.mark.usefixtures("ended")
async def test_only_the_days_that_are_asked_for_are_counted_both_ends_included(
    client: httpx.AsyncClient, headers_for: HeadersFor
) -> None:
    assert [one["runs"] for one in await sums(client, headers_for("t1"), to=FIRST)] == [3]
    assert [one["runs"] for one in await sums(client, headers_for("t1"), **{"from": SECOND})] == [2]
    assert await sums(client, headers_for("t1"), **{"from": LAST}) == []
    assert await sums(client, headers_for("t3")) == []


@pytest.mark.usefixtures("ended")
async def test_without_an_end_there_is_no_rate(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor
) -> None:
    run = Run("t4")
    await project(store, [request(run), run.cancelled()])

    [found] = await sums(client, headers_for("t4"))

    assert (found["success_rate"], found["mean_duration_seconds"], found["longest_duration_seconds"]) == (None,) * 3


async def test_by_default_these_are_the_last_thirty_days(client: httpx.AsyncClient, headers_for: HeadersFor) -> None:
    answer = (await client.get("/api/v1/statistics", params={"to": "2026-03-30"}, headers=headers_for("t1"))).json()
    assert (answer["from"], answer["to"]) == ("2026-03-01", "2026-03-30")


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"from": "yesterday"}, "from"),
        ({"from": "1700000000"}, "from"),
        ({"from": "2026-02-30"}, "from"),
        ({"to": "2026-01-01T00:00:00Z"}, "to"),
        ({"to": "9999-12-31"}, "to"),
        ({"from": "2026-01-02", "to": "2026-01-01"}, "to"),
        ({"from": "2020-01-01", "to": "2026-01-01"}, "to"),
        ({"group": ""}, "group"),
        ({"group": "day,colour"}, "group"),
        ({"group": "day,day"}, "group"),
        ({"group": "day;DROP TABLE statistics"}, "group"),
    ],
    ids=str,
)
async def test_sums_that_cannot_be_are_refused(
    client: httpx.AsyncClient, headers_for: HeadersFor, query: dict[str, str], pointer: str
) -> None:
    answer = await client.get("/api/v1/statistics", params=query, headers=headers_for("t1"))

    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), answer.text
    assert [(error["pointer"], bool(error["remedy"])) for error in answer.json()["errors"]] == [
        (f"/query/{pointer}", True)
    ]
