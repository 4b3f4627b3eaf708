"""A history with something of everything, and Grafana's login to it as the documentation says to make it."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.history.store import Store
from shared.database import DirectConnection, connect
from shared.events import Event
from tests.conftest import fresh_database
from tests.deploy.panels import ROOT
from tests.history.events import Run, beside, finished_run, project


@pytest.fixture(scope="session")
async def filled(postgres: EmbeddedPostgres, templates: dict[str, str]) -> AsyncIterator[str]:
    """The DSN of the database; t1 and t2 have the same."""
    async with fresh_database(postgres, templates["history"]) as dsn:
        async with connect(dsn, "history") as database:
            store = Store(database)
            await store.keep_partitions()
            for tenant in ("t1", "t2"):
                await project(store, [*of_each_kind(tenant), *beside(tenant)])
        yield dsn


def of_each_kind(tenant: str) -> list[Event]:
    done, events = finished_run(tenant=tenant)
    failed, cancelled, running, again, queued, unheard, gone = (Run(tenant) for _ in range(7))
    today = Run(tenant, start=datetime.now(UTC) - timedelta(minutes=1))
    return [
        *events, done.deleted(1),
        failed.requested(), failed.queued(), failed.started(), failed.failed(),
        cancelled.requested(), cancelled.queued(), cancelled.cancelled(),
        # An attempt that has told how far it is, after one that failed.
        running.requested(), running.queued(), running.started(), running.progressed(), running.attempt_failed(),
        running.started(), running.progressed(),
        # One that has not told yet, and what the one before told counts no more.
        again.requested(), again.queued(), again.started(), again.progressed(), again.attempt_failed(), again.started(),
        queued.requested(), queued.queued(),
        # What history does not show: a run whose request is not heard of yet, and a deletion before its file.
        unheard.queued(), unheard.started(), gone.deleted(1),
        today.requested(), today.queued(), today.started(), *today.succeeded(),
    ]  # fmt: skip


@pytest.fixture(scope="session")
async def login(postgres: EmbeddedPostgres, filled: str) -> str:
    """The name of a role that was made as docs/operate/metrics.md says."""
    [statements] = re.findall(r"```sql\n(.*?)```", (ROOT / "docs/operate/metrics.md").read_text(), re.DOTALL)
    operator = await asyncpg.connect(filled)
    try:
        await operator.execute(statements)
    finally:
        await operator.close()
    return "grafana"


@pytest.fixture
async def grafana(filled: str, login: str) -> AsyncIterator[DirectConnection]:
    """Grafana's connection."""
    connection = await asyncpg.connect(filled, user=login)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def operator(filled: str) -> AsyncIterator[DirectConnection]:
    """A superuser's connection."""
    connection = await asyncpg.connect(filled)
    try:
        yield connection
    finally:
        await connection.close()
