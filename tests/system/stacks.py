"""Stacks for system tests, on either broker."""

import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from deploy.local.kafka import missing_for_apache
from deploy.local.stack import SERVICES, Options, Stack
from tests.brokers import ADDRESS, apache_kafka, docker_answers

BROKERS = ["embedded", pytest.param("apache", marks=pytest.mark.apache)]
QUICK: Mapping[str, str] = MappingProxyType({"CDDS_EXPORTER_LEASE": "PT3S", "CDDS_EXPORTER_BEAT": "PT0.5S"})
"""Lost runs are taken over after 3 s instead of 30 s."""


def impatient(patience: timedelta) -> Mapping[str, str]:
    """Settings with which every service ends, to be restarted, after an outage of `patience`."""
    return {f"CDDS_{name.upper()}_OUTAGE_PATIENCE": f"PT{patience.total_seconds():g}S" for name in SERVICES}


@asynccontextmanager
async def running(
    broker: str,
    *,
    environment: Mapping[str, str] = MappingProxyType({}),
    sources: Path | None = None,
    console_port: int | None = None,
    quiet: bool = False,
) -> AsyncGenerator[Stack]:
    """A stack in a new folder; what its processes write appears with the test that fails.

    A `quiet` one writes to a file: standard output is that of a command in this process.
    """
    # Not under pytest's own folder, which is closed to the account PostgreSQL runs as when root starts it.
    with TemporaryDirectory(prefix="cdds-test-", ignore_cleanup_errors=True) as folder:
        async with _kafka(broker) as kafka:
            options = Options(
                data=Path(folder) / "data", kafka=kafka, sources=sources, environment=environment,
                console_port=console_port,
            )  # fmt: skip
            async with Stack(options, output=Path(folder) / "services.log" if quiet else show) as stack:
                yield stack


def require_own_broker(stack: Stack) -> None:
    """Skip a test that kills the broker when it is somebody else's."""
    if stack.broker is None:
        pytest.skip("the broker is not ours to kill")


@asynccontextmanager
async def _kafka(broker: str) -> AsyncGenerator[str]:
    """What to give the stack: a kind of broker that it starts itself, or the address of one."""
    if broker == "embedded":
        yield broker
    elif os.environ.get(ADDRESS) or docker_answers() or missing_for_apache():
        async with apache_kafka(Path("unused")) as address:
            await empty_broker(address)
            yield address
    else:
        yield "apache"


async def empty_broker(address: str) -> None:
    """Remove topics and groups that an earlier stack left on a shared broker."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        if groups := [name for name, _ in await admin.list_consumer_groups()]:
            await admin.delete_consumer_groups(groups)
        if topics := [name for name in await admin.list_topics() if not name.startswith("__")]:
            await admin.delete_topics(topics)
    finally:
        await admin.close()


def show(name: str, line: str) -> None:
    sys.stdout.write(f"{name:9} │ {line}\n")
