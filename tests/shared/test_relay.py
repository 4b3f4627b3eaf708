"""The relay as a service runs it: killed, doubled, overtaken and asked to begin again."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from shared import database, outbox
from shared.cluster import Cluster
from shared.database import Database
from shared.messaging import Producer, producer
from shared.outbox import Relay
from tests.conftest import fresh_database
from tests.shared.events import Private, private

PATIENCE = timedelta(seconds=20)


@pytest.fixture
async def dsn(postgres: EmbeddedPostgres, templates: dict[str, str]) -> AsyncIterator[str]:
    async with fresh_database(postgres, templates["job_api"]) as address:
        yield address


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Database]:
    async with database.connect(dsn, "job_api", outbox=True) as connected:
        yield connected


@pytest.fixture
async def own(embedded: str, monkeypatch: pytest.MonkeyPatch) -> Private:
    return await private(embedded, monkeypatch)


@pytest.fixture
async def kafka(embedded: str) -> AsyncIterator[Producer]:
    async with producer(Cluster(embedded), "test", PATIENCE) as connected:
        yield connected


async def write(connection: database.Connection, own: Private, *numbers: int) -> None:
    values = [{"occurred_at": datetime.now(UTC), "tenant": "acme", "number": number} for number in numbers]
    await outbox.append(connection, [own.happened.model_validate(value) for value in values])


async def commit(pool: Database, own: Private, *numbers: int) -> None:
    async with pool.transaction() as connection:
        await write(connection, own, *numbers)


async def numbers_on(bootstrap: str, own: Private, count: int) -> list[int]:
    async with asyncio.timeout(30):
        records = await own.records(bootstrap, own.topic.name, count)
    return [own.happened.model_validate_json(record.value or b"").model_dump()["number"] for record in records]


async def until_all_sent(pool: Database) -> None:
    async with asyncio.timeout(30), pool.session() as connection:
        while await connection.fetchval("SELECT count(*) FROM outbox WHERE published_at IS NULL"):
            pass


@asynccontextmanager
async def relaying(pool: Database, kafka: Producer) -> AsyncGenerator["asyncio.Task[None]"]:
    task = asyncio.create_task(Relay(pool, kafka, timedelta(seconds=20)).run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_relay_killed_between_the_acknowledgement_and_the_mark_loses_nothing(
    dsn: str, pool: Database, kafka: Producer, embedded: str, own: Private
) -> None:
    await commit(pool, own, 1, 2, 3)
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.shared.relay", dsn, embedded,
        env={**os.environ, "CDDS_FAILPOINT": "outbox.sent"},
    )  # fmt: skip
    assert await killed.wait() == -signal.SIGKILL
    assert await own.end(embedded, own.topic.name) == 3
    async with pool.session() as connection:
        assert await connection.fetchval("SELECT count(*) FROM outbox WHERE published_at IS NULL") == 3
    async with relaying(pool, kafka):
        await until_all_sent(pool)
    assert await numbers_on(embedded, own, 6) == [1, 2, 3, 1, 2, 3]


async def holders(dsn: str) -> list[int]:
    """The server processes whose connections hold a relay's lock."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            """SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
        )
    finally:
        await connection.close()
    return [row["pid"] for row in rows]


async def end_connection(dsn: str, pid: int) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("SELECT pg_terminate_backend($1)", pid)
    finally:
        await connection.close()


async def test_of_two_relays_one_works_at_a_time_also_after_its_connection_has_died(
    dsn: str, pool: Database, kafka: Producer, embedded: str, own: Private
) -> None:
    async with (
        database.connect(dsn, "job_api", outbox=True) as other,
        relaying(pool, kafka) as first,
        relaying(other, kafka) as second,
    ):
        await commit(pool, own, *range(100))
        await until_all_sent(pool)
        [holder] = await holders(dsn)
        await end_connection(dsn, holder)
        async with asyncio.timeout(30):
            while (now := await holders(dsn)) in ([], [holder]):
                pass
        assert len(now) == 1
        await commit(pool, own, *range(100, 200))
        await until_all_sent(pool)
        # The one that lost its connection waits for its turn again.
        assert not first.done()
        assert not second.done()
    assert await own.end(embedded, own.topic.name) == 200
    assert await numbers_on(embedded, own, 200) == list(range(200))


async def test_an_event_that_commits_late_is_published_although_later_ones_are_out_already(
    pool: Database, kafka: Producer, embedded: str, own: Private
) -> None:
    async with relaying(pool, kafka):
        async with pool.transaction() as late:
            await write(late, own, 1)
            await commit(pool, own, 2)
            assert await numbers_on(embedded, own, 1) == [2]
        assert await numbers_on(embedded, own, 2) == [2, 1]


async def test_republishing_brings_every_event_again_in_its_old_order(
    dsn: str, pool: Database, kafka: Producer, embedded: str, own: Private
) -> None:
    async with relaying(pool, kafka):
        await commit(pool, own, *range(10))
        await until_all_sent(pool)
        operator = await asyncpg.connect(dsn)
        try:
            assert await outbox.republish(operator, "job_api") == 10
        finally:
            await operator.close()
        assert await numbers_on(embedded, own, 20) == [*range(10), *range(10)]
        await until_all_sent(pool)
    assert await own.end(embedded, own.topic.name) == 20
