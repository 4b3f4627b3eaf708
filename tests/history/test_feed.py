"""The feed of artifacts: what a script keeps brings what has arrived since, each once."""

import asyncio
from random import Random
from typing import Any
from uuid import UUID

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.history.store import Store
from shared.database import Database
from shared.events import ArtifactStored
from shared.http import position
from tests.history.conftest import HeadersFor
from tests.history.events import Run, delivered, empty, project, streams

FEED = "/api/v1/artifacts"


async def arrived(
    client: httpx.AsyncClient, headers: dict[str, str], after: str | None = None, **query: Any
) -> tuple[list[dict[str, Any]], str]:
    """What has arrived since, and what to keep."""
    found: list[dict[str, Any]] = []
    while True:
        place = {} if after is None else {"after": after}
        answer = await client.get(FEED, params={"order": "arrival", **query, **place}, headers=headers)
        assert answer.status_code == 200, answer.text
        items, after = answer.json()["items"], answer.json()["next"]
        assert after is not None
        if not items:
            return found, after
        found += items


async def test_an_empty_feed_has_a_place_to_keep(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor
) -> None:
    nothing, kept = await arrived(client, headers_for("t1"))
    assert nothing == []
    assert await arrived(client, headers_for("t1"), kept) == ([], kept)

    run = Run()
    await project(store, run.succeeded(parts=2))

    items, later = await arrived(client, headers_for("t1"), kept)
    assert sorted(item["number"] for item in items) == [1, 2]
    assert await arrived(client, headers_for("t1"), later) == ([], later)


async def test_a_place_ahead_of_a_history_that_began_anew_is_refused(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor
) -> None:
    await project(store, Run().succeeded(parts=1))
    ahead = position("arrival", str(2**40), UUID(int=0))

    answer = await client.get(
        "/api/v1/artifacts", params={"order": "arrival", "after": ahead}, headers=headers_for("t1")
    )

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/query/after")


async def test_what_was_stored_earlier_but_heard_later_is_not_passed_over(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor
) -> None:
    early, late = Run(), Run()
    early_events, late_events = early.succeeded(1), late.succeeded(1)
    await project(store, late_events)
    _, kept = await arrived(client, headers_for("t1"))

    await project(store, early_events)

    items, _ = await arrived(client, headers_for("t1"), kept)
    assert [item["run_id"] for item in items] == [str(early.run_id)]


async def test_a_deleted_file_is_in_the_feed_and_says_so(
    client: httpx.AsyncClient, store: Store, headers_for: HeadersFor
) -> None:
    run = Run()
    await project(store, [*run.succeeded(1), run.deleted(1)])

    [item], _ = await arrived(client, headers_for("t1"))

    assert (item["remaining_days"], item["deletion_reason"], item["deleted_by"]) == (0, "expired", "retention")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers())
async def test_whoever_keeps_the_place_sees_each_file_once_however_events_arrive(
    client: httpx.AsyncClient, store: Store, database: Database, headers_for: HeadersFor, seed: int
) -> None:
    await empty(database)
    random = Random(seed)
    batches = delivered(streams(random), random)
    everything = {
        str(event.part.artifact_id): event.tenant
        for batch in batches for event in batch if isinstance(event, ArtifactStored)
    }  # fmt: skip
    seen: dict[str, list[str]] = {"t1": [], "t2": []}
    kept: dict[str, str | None] = {"t1": None, "t2": None}

    async def look(tenant: str) -> None:
        items, kept[tenant] = await arrived(client, headers_for(tenant), kept[tenant], limit=random.randint(1, 4))
        seen[tenant] += [item["artifact_id"] for item in items]

    for batch in batches:
        # Both at the same time, so that looks fall into the middle of projections.
        await asyncio.gather(project(store, batch), look(random.choice(["t1", "t2"])))
    for tenant in seen:
        await look(tenant)
        assert sorted(seen[tenant]) == sorted(key for key, owner in everything.items() if owner == tenant)
