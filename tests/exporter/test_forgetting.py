"""Runs of long ago are forgotten with all they kept, once their files are gone, and do not run again."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import pytest

from deploy.local.kafka import EmbeddedKafka
from services.exporter import consumers
from services.exporter.domain import Failure
from services.exporter.store import Store
from shared.cluster import Cluster
from shared.database import Database
from shared.events import Event, RunRequested
from shared.inbox import Inbox
from shared.messaging import Record, ensure_topics, producer
from tests.exporter.runs import LEASE, cancel_order, claimed, outcome, published, requested, seal

AGE = timedelta(days=462)
PATIENCE = timedelta(seconds=20)
TABLES = ("runs", "artifacts", "documents", "cancellations")


E = TypeVar("E", bound=Event)


def long_ago(event: E, days: int = 463) -> E:
    return event.model_copy(update={"occurred_at": datetime.now(UTC) - timedelta(days=days)})


async def grow_old(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("UPDATE runs SET finished_at = finished_at - interval '463 days'")
        await connection.execute(
            "UPDATE artifacts SET expires_at = now() - interval '400 days' WHERE expires_at > now()"
        )


async def delete_files(store: Store, run_id: UUID | None = None) -> None:
    doomed = await store.take_deletions(100, LEASE)
    await store.finish_deletions([file.artifact_id for file in doomed])


async def forget(store: Store) -> dict[str, int]:
    return {table: await step(100) for table, step in store.forgetting(AGE).items()}


async def left(database: Database) -> dict[str, int]:
    async with database.session() as connection:
        return {table: await connection.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}


async def exported(store: Store, request: RunRequested) -> RunRequested:
    claim = await claimed(store, request)
    await store.succeed(claim, outcome(claim), seal)
    return request


async def failed(store: Store, request: RunRequested) -> RunRequested:
    await store.fail_attempt(await claimed(store, request), Failure("broken", "It broke.", repeatable=False))
    return request


async def test_a_run_goes_with_all_it_kept_once_its_files_are_gone(database: Database, store: Store) -> None:
    await exported(store, long_ago(requested()))
    await failed(store, long_ago(requested()))
    await store.order_cancel(long_ago(cancel_order(requested())))  # whose request never came
    assert await forget(store) == {"runs": 0, "cancellations": 1}

    await grow_old(database)
    assert await forget(store) == {"runs": 1, "cancellations": 0}  # the one without files
    await delete_files(store)
    assert await forget(store) == {"runs": 1, "cancellations": 0}

    assert await left(database) == dict.fromkeys(TABLES, 0)
    async with database.session() as connection:
        assert await connection.fetchval("SELECT count(*) FROM chain_heads") == 1


async def test_a_run_that_is_open_or_was_asked_for_lately_stays(database: Database, store: Store) -> None:
    await failed(store, requested().model_copy(update={"occurred_at": datetime.now(UTC)}))
    await claimed(store, long_ago(requested()))
    await store.queue_run(long_ago(requested()))
    await grow_old(database)
    assert (await forget(store))["runs"] == 0


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[str]:
    async with EmbeddedKafka(tmp_path / "broker") as started:
        await ensure_topics(Cluster(started.bootstrap), 1, 1)
        yield started.bootstrap


async def test_a_forgotten_run_that_is_asked_for_again_does_not_run_again(
    database: Database, store: Store, broker: str
) -> None:
    """As `cdds republish` asks for it, where the scheduler keeps its events longer than we keep runs."""
    forgotten = await failed(store, long_ago(requested()))
    known = await failed(store, long_ago(requested(), days=100))
    await grow_old(database)
    assert (await forget(store))["runs"] == 1
    new = requested().model_copy(update={"occurred_at": datetime.now(UTC)})
    replay: list[Event] = [forgotten, long_ago(cancel_order(forgotten)), known, new]

    async with producer(Cluster(broker), "test", PATIENCE) as kafka:
        await kafka.publish([Record.of(event) for event in replay])
        inbox = Inbox("exporter", kafka, PATIENCE, follows_for=AGE)
        consumers.register(inbox, store)
        running = asyncio.create_task(inbox.run(Cluster(broker)))
        try:
            async with asyncio.timeout(30):
                while not await published(database, new.run_id):
                    pass
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async with database.session() as connection:
        rows = await connection.fetch("SELECT run_id, state FROM runs")
    assert {row["run_id"]: row["state"] for row in rows} == {known.run_id: "failed", new.run_id: "queued"}
    assert (await left(database))["cancellations"] == 0
