"""The history service as production starts it, and what its consumer group has committed."""

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from bench.harness import out
from deploy.local.postgres import EmbeddedPostgres
from deploy.local.processes import Child, free_port, until_ready
from deploy.local.secrets import ISSUER, Secrets
from shared.events import TOPICS

SERVICE: Final = "history"
PARTITIONS: Final = 6
READY_WITHIN: Final = timedelta(minutes=2)
SETTINGS: Final = {"shared_buffers": "2GB", "max_wal_size": "8GB", "maintenance_work_mem": "512MB"}
"""What one gives a PostgreSQL that is to hold millions of rows; its durability is the default."""


@dataclass(frozen=True, slots=True)
class Process:
    """The service, started."""

    child: Child
    url: str

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.child.pid
        return self.child.pid

    async def until_ready(self) -> None:
        """Return when it answers that it is ready."""
        await until_ready(self.child, self._is_ready, READY_WITHIN)

    async def _is_ready(self) -> bool:
        async with httpx.AsyncClient() as client:
            try:
                return (await client.get(f"{self.url}/health/ready")).is_success
            except httpx.TransportError:
                return False


@asynccontextmanager
async def running(
    postgres: EmbeddedPostgres, database: str, bootstrap: str, secrets: Secrets
) -> AsyncGenerator[Process]:
    """The service in a process of its own, until the block ends."""
    port = free_port()
    settings = {
        "postgres": postgres.dsn(database), "kafka": bootstrap, "kafka_partitions": PARTITIONS, "http_port": port,
        "log_format": "console", "log_level": "warning", "stop_with_parent": "true", "local": "true",
        "auth_issuer": ISSUER, "auth_public_key": secrets.token_public_key,
    }  # fmt: skip
    environment = {f"CDDS_{SERVICE.upper()}_{name.upper()}": str(value) for name, value in settings.items()}
    child = Child(
        SERVICE, [sys.executable, "-m", f"services.{SERVICE}"], output=_say, env={**os.environ, **environment}
    )  # fmt: skip
    await child.start()
    try:
        yield Process(child, f"http://127.0.0.1:{port}")
    finally:
        await child.stop()


def _say(name: str, line: str) -> None:
    out.print(f"{name}: {line}", markup=False)


async def committed(admin: AIOKafkaAdminClient) -> int:
    """How many records the group has committed."""
    offsets = await admin.list_consumer_group_offsets(SERVICE)
    return sum(max(0, offset.offset) for offset in offsets.values())


async def is_assigned(admin: AIOKafkaAdminClient) -> bool:
    """Whether the group has members, and they know their partitions."""
    answers: Any = await admin.describe_consumer_groups([SERVICE])
    return any(state == "Stable" for answer in answers for _, _, state, *_ in answer.groups)


async def set_offsets(bootstrap: str, *, to_end: bool) -> int:
    """Make the group, which nobody is in, start from the beginning or the end; how many records there are."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=SERVICE, enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic.name, number) for topic in TOPICS for number in range(PARTITIONS)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        await consumer.commit(ends if to_end else dict.fromkeys(partitions, 0))
        return sum(ends.values())
    finally:
        await consumer.stop()
