"""The owners with their outboxes, a broker, and history, in one database.

`python -m tests.history.world DSN BOOTSTRAP` is a history in a process of its own; it runs until it is killed.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import asyncpg
from pydantic import SecretStr

from deploy.local.kafka import EmbeddedKafka
from services.history import consumers
from services.history.config import Settings
from services.history.loops.rebuild import Rebuilder
from services.history.store import Store
from services.job_api.store import NEEDED_EVENTS
from shared import database, migration, outbox
from shared.cluster import Cluster
from shared.database import Database
from shared.events import Event, RunProgressed
from shared.inbox import Inbox
from shared.messaging import Producer, Record, ensure_topics, producer
from shared.outbox import Relay
from shared.replay import Replay

OWNERS = ("job_api", "scheduler", "exporter")
PATIENCE = timedelta(seconds=20)


@dataclass(frozen=True)
class World:
    """What tests of rebuilds live in."""

    dsn: str
    bootstrap: str
    owners: dict[str, Database]
    kafka: Producer

    async def happen(self, events: Sequence[Event]) -> None:
        """Let the owners commit the events, each in its turn; ticks skip the outboxes."""
        for owner, some in groupby(events, key=lambda event: event.topic.owner):
            listed = list(some)
            async with self.owners[owner].transaction() as connection:
                await outbox.append(connection, [event for event in listed if not isinstance(event, RunProgressed)])
            await self.kafka.publish([Record.of(event) for event in listed if isinstance(event, RunProgressed)])

    async def until_projected(self) -> None:
        """Wait until history knows everything that the outboxes have."""
        told = " UNION ALL ".join(f"SELECT occurred_at, event_id FROM {owner}.outbox" for owner in OWNERS)
        async with asyncio.timeout(30):
            while await self.ask(f"SELECT EXISTS ({told} EXCEPT SELECT occurred_at, event_id FROM history.events)"):
                pass

    async def until_published(self) -> None:
        """Wait until all that the outboxes have was sent; history drops what is too old."""
        unsent = " OR ".join(f"EXISTS (SELECT FROM {owner}.outbox WHERE published_at IS NULL)" for owner in OWNERS)
        async with asyncio.timeout(30):
            while await self.ask(f"SELECT {unsent}"):
                pass

    async def purge(self) -> dict[str, int]:
        """Let the owners delete their old events; says how many."""
        return {name: await _purged(pool) for name, pool in self.owners.items()}

    async def ask(self, query: str, *arguments: object) -> object:
        """The one value that the login role is told."""
        async with connected(self.dsn) as connection:
            return await connection.fetchval(query, *arguments)

    async def command(self, *arguments: str) -> tuple[int, str, str]:
        """What `cdds history rebuild` says, and its exit code."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cli", "history", "rebuild", *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        answer, complaint = await process.communicate()
        assert process.returncode is not None
        return process.returncode, answer.decode(), complaint.decode()


async def _purged(owner: Database) -> int:
    needed = NEEDED_EVENTS if owner.schema == "job_api" else "false"
    retention, total = outbox.Retention(owner, timedelta(days=432), needed), 0
    while deleted := await retention.forget(2):
        total += deleted
    return total


@asynccontextmanager
async def connected(dsn: str) -> AsyncGenerator[database.DirectConnection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def world(dsn: str, folder: Path) -> AsyncGenerator[World]:
    """Owners that relay and copy their outboxes; history is started by `remembering`."""
    async with AsyncExitStack() as exits:
        broker = await exits.enter_async_context(EmbeddedKafka(folder / "broker"))
        await ensure_topics(Cluster(broker.bootstrap), 2, 1)
        kafka = await exits.enter_async_context(producer(Cluster(broker.bootstrap), "test", PATIENCE))
        await migration.migrate(dsn, "history", outbox=False)
        owners = {name: await exits.enter_async_context(database.connect(dsn, name, outbox=True)) for name in OWNERS}
        for pool in owners.values():
            for loop in (Relay, Replay):
                await exits.enter_async_context(running(loop(pool, kafka, PATIENCE).run()))
        yield World(dsn, broker.bootstrap, owners, kafka)


@asynccontextmanager
async def remembering(dsn: str, bootstrap: str) -> AsyncGenerator[Store]:
    """History, as its application is built."""
    settings = Settings(
        http_port=1, postgres=SecretStr(dsn), kafka=bootstrap, auth_issuer="test", auth_public_key=Path("unused")
    )
    async with (
        database.connect(dsn, "history") as pool,
        producer(Cluster(bootstrap), "history", PATIENCE) as kafka,
    ):
        store = Store(pool, settings.retention)
        await store.keep_partitions()
        inbox = Inbox("history", kafka, PATIENCE, "history-1")
        consumers.register(inbox, store)
        async with (
            running(inbox.run(Cluster(bootstrap), timedelta(milliseconds=50))),
            running(Rebuilder("history", settings, store).run()),
        ):
            yield store


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Cancel `work` afterwards; raises what it raised."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        failed = task.done()
        task.cancel()
        [ended] = await asyncio.gather(task, return_exceptions=True)
        if failed and isinstance(ended, Exception):
            raise ended


async def stay(dsn: str, bootstrap: str) -> None:
    async with remembering(dsn, bootstrap):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(stay(sys.argv[1], sys.argv[2]))
