"""The backbone of a service: database, producer, inbox, relay and HTTP, opened in order and closed in reverse."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from aiokafka.errors import ClusterAuthorizationFailedError, TopicAuthorizationFailedError
from fastapi import APIRouter

from shared import access, database, migration, outbox, runtime
from shared.auth import Authenticator
from shared.cluster import Refused
from shared.config import PublisherSettings, ServiceSettings
from shared.database import Database
from shared.http import Problem, create_app
from shared.inbox import Inbox
from shared.messaging import Producer, ensure_topics, producer
from shared.replay import Replay
from shared.rights import RIGHTS

LOOK_AT_RIGHTS: Final = timedelta(minutes=1)
"""How long a permission may be gone before the service says so."""


class SchemaAwaited(Exception):
    """The migrations of this version are not applied yet."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """What `app.py` builds a service on."""

    name: str
    settings: ServiceSettings
    database: Database
    producer: Producer
    inbox: Inbox
    outbox: bool

    async def run(
        self,
        *work: Coroutine[Any, Any, None],
        router: APIRouter | None = None,
        problems: Mapping[type[Exception], Callable[[Any], Problem]] = MappingProxyType({}),
        drain: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """Consume, relay, serve and do `work` until one of them fails or the process is told to stop.

        Everything goes on until `drain` has returned, see `runtime.run_all`.
        """
        settings = self.settings
        checks = {"postgres": self.database.ping, "consumer": self.inbox.check}
        app = create_app(f"CDDS {self.name}", Authenticator(settings), checks, problems)
        if router is not None:
            app.include_router(router)
        patience = settings.outage_patience
        publishing = (
            [
                outbox.Relay(self.database, self.producer, patience).run(),
                runtime.measure_every(runtime.MEASURE, partial(outbox.measure, self.database), patience),
                Replay(self.database, self.producer, patience).run(),
            ]
            if self.outbox
            else []
        )
        await runtime.run_all(
            settings,
            self.inbox.run(settings.cluster, settings.kafka_fetch_pause),
            runtime.serve_http(app, settings.http_host, settings.http_port),
            access.keep_looking(settings.cluster, RIGHTS[self.name], LOOK_AT_RIGHTS),
            *publishing,
            *work,
            drain=drain,
        )


@asynccontextmanager
async def backbone(
    name: str, settings: ServiceSettings, *, outbox: bool = True, batch_records: int = 500
) -> AsyncGenerator[Backbone]:
    """Make sure of topics and schema, and connect; `outbox` is False for a service that publishes nothing.

    Handlers of batches get at most `batch_records` events at once.
    """
    if not settings.migrate:
        await _schema_there(name, settings, outbox=outbox)
    await _admitted(name, settings)
    async with (
        database.connect(settings.postgres.get_secret_value(), name, outbox=outbox, migrate=settings.migrate) as db,
        producer(settings.cluster, name, settings.outage_patience) as kafka,
    ):
        follows_for = settings.record_retention if isinstance(settings, PublisherSettings) else None
        inbox = Inbox(name, kafka, settings.outage_patience, settings.kafka_member, batch_records, follows_for)
        yield Backbone(name, settings, db, kafka, inbox, outbox)


async def _admitted(name: str, settings: ServiceSettings) -> None:
    """See that Kafka has what the service needs and permits it; topics that are missing are made, unless expected.

    Raises Refused.
    """
    found = await access.look(settings.cluster, RIGHTS[name])
    if found.missing and settings.kafka_topics == "ensure":
        try:
            await ensure_topics(settings.cluster, settings.kafka_partitions, settings.kafka_replication)
        except (TopicAuthorizationFailedError, ClusterAuthorizationFailedError) as error:
            raise Refused(
                f"Kafka does not permit {settings.cluster.principal} to make topics, and {error.args[0]} is missing",
                "run `cdds topics ensure` as a principal that may, and set KAFKA_TOPICS to expect",
                reached=True,
            ) from error
        # Kafka has made them; its brokers hear of that a moment later.
        async with asyncio.timeout(access.ANSWER.total_seconds()):
            while (found := await access.look(settings.cluster, RIGHTS[name])).missing:  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(0.05)
    access.require(settings.cluster, found)


async def _schema_there(name: str, settings: ServiceSettings, *, outbox: bool) -> None:
    """Wait for the schema of this version, alive and not ready, for as long as it takes."""

    async def migrated() -> None:
        raise SchemaAwaited

    app = create_app(f"CDDS {name}", Authenticator(settings), {"schema": migrated})
    serving = asyncio.create_task(runtime.serve_http(app, settings.http_host, settings.http_port))
    waiting = asyncio.create_task(migration.wait_for_schema(settings.postgres.get_secret_value(), name, outbox=outbox))
    try:
        done, _ = await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (serving, waiting):
            task.cancel()
        await asyncio.gather(serving, waiting, return_exceptions=True)
