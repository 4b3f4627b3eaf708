"""The ledger of slots, and a job's calendar."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from services.history.store import Store
from services.history.store import slots as slots_store
from shared import slots
from shared.clock import utc_text
from shared.events import Event, Slot, SlotMissed, SlotSkipped, SlotWaiting, Trigger
from shared.reasons import REMEDIES, SLOTS
from tests.history.conftest import HeadersFor
from tests.history.events import START, Run, job_event, project
from tests.history.lists import HOUR, pages, request

JOB = UUID("0b9c5a52-8f0e-4d7b-9a53-6f1f2f6f4a01")


def slot(hour: int, trigger: Trigger = Trigger.SCHEDULE) -> Slot:
    return Slot(key=f"{trigger}:{hour}", at=START + hour * HOUR, trigger=trigger)


def said(hour: int, tenant: str = "t1", job_id: UUID = JOB) -> dict[str, Any]:
    return {"tenant": tenant, "job_id": job_id, "job_version": 1, "occurred_at": START + hour * HOUR}


def requested(hour: int, asked: Slot, job_id: UUID = JOB) -> Event:
    """The run of this slot, named as the scheduler names it."""
    run = Run("t1", job_id, START + hour * HOUR - timedelta(seconds=1))
    run.run_id = slots.run_id(job_id, asked.key)
    return request(run).model_copy(update={"slot": asked})


@pytest.fixture
async def ledger(store: Store) -> None:
    """A slot of each kind, in the order of their hours, and two that waited before they were decided."""
    await project(
        store,
        [
            requested(1, slot(1)),
            SlotSkipped(**said(2), slot=slot(2), reason="overlap"),
            SlotMissed(**said(3), slot=slot(3), reason="suspended", count=7),
            SlotWaiting(**said(4), slot=slot(4)),
            SlotWaiting(**said(5), slot=slot(5)),
            requested(6, slot(5)),
            SlotWaiting(**said(5), slot=slot(7, Trigger.MANUAL)),
            SlotSkipped(**said(7), slot=slot(7, Trigger.MANUAL), reason="cancelled"),
            SlotSkipped(**said(8, job_id=UUID(int=8)), slot=slot(8), reason="buffer_full"),
            SlotSkipped(**said(9, "t2"), slot=slot(9), reason="buffer_full"),
        ],
    )


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize(
    ("query", "hours"),
    [
        ({}, [8, 7, 6, 4, 3, 2, 1]),
        ({"job_id": str(JOB)}, [7, 6, 4, 3, 2, 1]),
        ({"outcome": "requested"}, [6, 1]),
        ({"outcome": "waiting"}, [4]),
        ({"outcome": "skipped"}, [8, 7, 2]),
        ({"outcome": "missed"}, [3]),
        ({"trigger": "manual"}, [7]),
        ({"slot_from": utc_text(START + 3 * HOUR), "slot_to": utc_text(START + 7 * HOUR)}, [6, 4, 3]),
    ],
    ids=str,
)
@pytest.mark.parametrize("limit", [1, 2, 50])
async def test_the_ledger_shows_what_became_of_each_slot_what_was_decided_last_first(
    client: httpx.AsyncClient, headers_for: HeadersFor, query: dict[str, Any], hours: list[int], limit: int
) -> None:
    items = await pages(client, "slots", headers_for("t1"), limit=limit, **query)

    assert [item["decided_at"] for item in items] == [utc_text(START + hour * HOUR) for hour in hours]


@pytest.mark.usefixtures("ledger")
async def test_a_slot_says_why_it_did_not_run_or_which_run_it_became(
    client: httpx.AsyncClient, headers_for: HeadersFor
) -> None:
    items = await pages(client, "slots", headers_for("t1"), job_id=str(JOB))

    found = {item["slot_key"]: (item["outcome"], item["reason"], item["explanation"], item["count"]) for item in items}
    assert found == {
        "manual:7": ("skipped", "cancelled", SLOTS["cancelled"], 1),
        "schedule:5": ("requested", None, None, 1),
        "schedule:4": ("waiting", None, None, 1),
        "schedule:3": ("missed", "suspended", SLOTS["suspended"], 7),
        "schedule:2": ("skipped", "overlap", SLOTS["overlap"], 1),
        "schedule:1": ("requested", None, None, 1),
    }
    assert [item["run_id"] for item in items if item["run_id"]] == [
        str(slots.run_id(JOB, f"schedule:{hour}")) for hour in (5, 1)
    ]


async def test_slots_decided_at_the_same_moment_are_paged_each_once(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_store, "_LOOK", 3)
    events: list[Event] = []
    for hour in range(24):
        kind = hour % 4
        if kind == 0:
            events.append(requested(0, slot(hour)))
        elif kind == 1:
            events.append(SlotSkipped(**said(0), slot=slot(hour), reason="overlap"))
        else:
            events.append(SlotWaiting(**said(0), slot=slot(hour)))
            if kind == 2:
                events.append(requested(0, slot(hour)))
    await project(store, events)

    items = await pages(client, "slots", headers_for("t1"), limit=5)

    assert len(items) == 24
    assert {item["slot_key"] for item in items} == {slot(hour).key for hour in range(24)}
    assert [item["outcome"] for item in items].count("waiting") == 6


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"job_id": "7"}, "job_id"),
        ({"outcome": "lost"}, "outcome"),
        ({"trigger": "moon"}, "trigger"),
        ({"slot_from": "now"}, "slot_from"),
        ({"slot_from": utc_text(START), "slot_to": utc_text(START)}, "slot_to"),
        ({"limit": 201}, "limit"),
        ({"after": "xyz"}, "after"),
    ],
    ids=str,
)
async def test_a_ledger_that_cannot_be_is_refused(
    client: httpx.AsyncClient, headers_for: HeadersFor, query: dict[str, Any], pointer: str
) -> None:
    await refused(client, headers_for, "slots", query, pointer)


async def refused(
    client: httpx.AsyncClient, headers_for: HeadersFor, path: str, query: dict[str, Any], pointer: str
) -> None:
    answer = await client.get(f"/api/v1/{path}", params=query, headers=headers_for("t1"))
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), answer.text
    assert [(error["pointer"], bool(error["remedy"])) for error in answer.json()["errors"]] == [
        (f"/query/{pointer}", True)
    ]


# --- coverage -----------------------------------------------------------------------------------------------------


async def calendar(
    client: httpx.AsyncClient, headers: dict[str, str], begin: int, end: int, job_id: UUID = JOB
) -> list[tuple[int, int, str, list[str], str | None]]:
    """The calendar in hours since START."""
    query = {"job_id": str(job_id), "from": utc_text(START + begin * HOUR), "to": utc_text(START + end * HOUR)}
    answer = await client.get("/api/v1/coverage", params=query, headers=headers)
    assert answer.status_code == 200, answer.text
    hours = {utc_text(START + hour * HOUR): hour for hour in range(begin, end + 1)}
    return [
        (hours[one["from"]], hours[one["to"]], one["state"], one["runs"], one["reason"])
        for one in answer.json()["segments"]
    ]


async def test_a_calendar_says_what_became_of_each_stretch_of_data(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor
) -> None:
    names: dict[str, str] = {}
    events: list[Event] = []
    for name, begin, end in (("a", 0, 3), ("b", 2, 4), ("c", 5, 6), ("d", 6, 7), ("e", 8, 9)):
        run = Run("t1", JOB, START + 10 * HOUR)
        names[name] = str(run.run_id)
        events.append(request(run, data=(START + begin * HOUR, START + end * HOUR)))
        match name:
            case "c":
                events += [run.queued(), run.started(), run.failed()]
            case "d":
                events += [run.queued(), run.cancelled()]
            case "e":
                events += [run.queued()]
            case _:
                events += [run.queued(), run.started(), *run.succeeded(1)]
    job = job_event("t1", JOB, 1)
    settings = job.job.settings.model_validate(
        {
            **job.job.settings.model_dump(), "schedule": {"kind": "hourly", "every": 1},
            "timeframe": {"kind": "last", "count": 1, "unit": "hour"},
        }
    )  # fmt: skip
    job = job.model_copy(update={"job": job.job.model_copy(update={"settings": settings})})
    # The slots of hours 10 and 11 would have exported [9, 10) and [10, 11).
    missed = SlotMissed(**said(12), slot=slot(10), reason="suspended", count=2)
    await project(store, [*events, job, missed])

    assert await calendar(client, headers_for("t1"), -1, 13) == [
        (-1, 0, "missing", [], None),
        (0, 2, "exported", [names["a"]], None),
        (2, 3, "overlapping", sorted([names["a"], names["b"]], reverse=True), None),
        (3, 4, "exported", [names["b"]], None),
        (4, 5, "missing", [], None),
        (5, 6, "missing", [names["c"]], "source_refused"),
        (6, 7, "missing", [names["d"]], "cancelled"),
        (7, 8, "missing", [], None),
        (8, 9, "in_progress", [names["e"]], None),
        (9, 10, "missing", [], "suspended"),
        (10, 11, "missing", [], "suspended"),
        (11, 13, "missing", [], None),
    ]
    assert await calendar(client, headers_for("t2"), -1, 13) == [(-1, 13, "missing", [], None)]


async def test_data_since_the_beginning_is_exported_however_far_one_looks_back(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor
) -> None:
    run = Run("t1", JOB)
    await project(store, [request(run, data=(None, START)), run.queued(), run.started(), *run.succeeded(1)])

    assert [one[:3] for one in await calendar(client, headers_for("t1"), -1000, 1)] == [
        (-1000, 0, "exported"), (0, 1, "missing"),
    ]  # fmt: skip


async def test_what_is_missing_says_what_to_do(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor
) -> None:
    run = Run("t1", JOB)
    await project(store, [request(run), run.queued(), run.started(), run.failed()])
    query = {"job_id": str(JOB), "from": utc_text(START - HOUR), "to": utc_text(START)}

    [segment] = (await client.get("/api/v1/coverage", params=query, headers=headers_for("t1"))).json()["segments"]

    assert (segment["reason"], segment["explanation"]) == ("source_refused", REMEDIES["source_refused"])


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"job_id": None}, "job_id"),
        ({"job_id": "7"}, "job_id"),
        ({"from": None}, "from"),
        ({"from": "0001-01-01T00:00:00Z"}, "from"),
        ({"to": None}, "to"),
        ({"to": utc_text(START)}, "to"),
        ({"to": utc_text(START + timedelta(days=1101))}, "to"),
        ({"to": "1700000000"}, "to"),
    ],
    ids=str,
)
async def test_a_calendar_that_cannot_be_is_refused(
    client: httpx.AsyncClient, headers_for: HeadersFor, changes: dict[str, Any], pointer: str
) -> None:
    query = {"job_id": str(uuid4()), "from": utc_text(START), "to": utc_text(START + HOUR)} | changes
    given = {name: value for name, value in query.items() if value is not None}
    await refused(client, headers_for, "coverage", given, pointer)
