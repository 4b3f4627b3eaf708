"""Every endpoint shows each tenant its own, also where two share the only connection."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from deploy.local.postgres import EmbeddedPostgres
from services.history import api
from services.history.feed import Feed
from services.history.store import Store
from shared import database
from shared.auth import Authenticator
from shared.clock import utc_text
from shared.database import Database
from shared.http import create_app
from tests.conftest import fresh_database
from tests.history.conftest import HeadersFor
from tests.history.events import START, Run, beside, job_event, project
from tests.history.lists import request

TENANTS = ("t1", "t2")
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Shared:
    client: httpx.AsyncClient
    runs: dict[str, Run]


@pytest.fixture
async def shared(
    postgres: EmbeddedPostgres, templates: dict[str, str], authenticator: Authenticator
) -> AsyncIterator[Shared]:
    """A service whose pool has one connection, with as much of one tenant as of the other."""
    async with fresh_database(postgres, templates["history"]) as dsn, database.connect(dsn, "history") as first:
        await Store(first).keep_partitions()
        async with asyncpg.create_pool(
            dsn, min_size=1, max_size=1, init=database._prepare,
            server_settings={"role": "history_worker", "search_path": "history", "timezone": "UTC"},
        ) as pool:  # fmt: skip
            store = Store(Database(pool, "history"))
            await store.look_at_partitions()
            runs = {tenant: Run(tenant) for tenant in TENANTS}
            for tenant, run in runs.items():
                await project(
                    store,
                    [
                        request(run, title="Version 1"), run.queued(), run.started(), *run.succeeded(2),
                        run.downloaded(1), *beside(tenant, run.job_id), job_event(tenant, run.job_id, 2),
                    ],
                )  # fmt: skip
            app: FastAPI = create_app("CDDS history", authenticator, {})
            app.include_router(api.router(store, Feed(store, timedelta(seconds=5))))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://history") as client:
                yield Shared(client, runs)


def strings(value: Any) -> set[str]:
    """All texts in an answer."""
    match value:
        case dict():
            return set().union(*map(strings, value.values()))
        case list():
            return set().union(*map(strings, value))
        case _:
            return {str(value)}


async def test_no_endpoint_shows_anything_of_another_tenant(shared: Shared, headers_for: HeadersFor) -> None:
    job_ids: dict[str, UUID] = {tenant: run.job_id for tenant, run in shared.runs.items()}
    for tenant in [*TENANTS, "t3"] * 3:
        headers = headers_for(tenant, "admin")
        for owner, run in shared.runs.items():
            span = {"from": utc_text(START - 2 * DAY), "to": utc_text(START + DAY)}
            days = {"from": START.date().isoformat(), "to": (START + DAY).date().isoformat()}
            listed = {"job_id": str(run.job_id)}
            foreign = {str(job_ids[other]) for other in TENANTS if other != tenant}
            foreign |= {str(shared.runs[other].run_id) for other in TENANTS if other != tenant}
            for path, query, own in (
                (f"executions/{run.run_id}", {}, owner == tenant),
                (f"executions/{run.run_id}/events", {}, owner == tenant),
                ("executions", {}, tenant in TENANTS),
                ("executions", listed | {"total": "true"}, owner == tenant),
                ("executions", {"text": "version 1"}, tenant in TENANTS),
                ("executions", {"label": f"team:{owner}"}, owner == tenant),
                ("artifacts", {}, tenant in TENANTS),
                ("artifacts", {"run_id": str(run.run_id)}, owner == tenant),
                ("artifacts", {"order": "arrival"}, tenant in TENANTS),
                ("slots", {}, tenant in TENANTS),
                ("slots", listed, owner == tenant),
                ("coverage", {**listed, **span}, owner == tenant),
                ("statistics", {**days, "group": "source"}, tenant in TENANTS),
                ("audit", {}, tenant in TENANTS),
                ("audit", listed, owner == tenant),
            ):
                answer = await shared.client.get(f"/api/v1/{path}", params=query, headers=headers)
                where = (tenant, owner, path, query, answer.text)
                if path.startswith("executions/"):
                    assert answer.status_code == (200 if own else 404), where
                    continue
                assert answer.status_code == 200, where
                body = answer.json()
                if path == "coverage":
                    assert ("exported" in {one["state"] for one in body["segments"]}) is own, where
                    continue
                assert bool(body["items"]) is own, where
                assert body.get("total") in (None, len(body["items"])), where
                assert not strings(body) & foreign, where
                if path == "statistics" and own:
                    assert [one["runs"] for one in body["items"]] == [1], where
        table = await shared.client.get("/api/v1/audit", params={"format": "csv"}, headers=headers)
        assert not any(str(job_ids[other]) in table.text for other in TENANTS if other != tenant)


async def test_nothing_is_shown_to_nobody(shared: Shared) -> None:
    run = shared.runs["t1"]
    for path in (
        "executions", f"executions/{run.run_id}", f"executions/{run.run_id}/events", "artifacts", "slots",
        f"coverage?job_id={run.job_id}&from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z", "statistics", "audit",
    ):  # fmt: skip
        assert (await shared.client.get(f"/api/v1/{path}")).status_code == 401, path
