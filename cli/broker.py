"""The way to Kafka for an operator's commands: bounded, and without the library's own complaints on the terminal."""

import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final, TypeVar

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from cli.console import Exit, Failure

T = TypeVar("T")

PATIENCE: Final = timedelta(seconds=10)
"""For one answer."""


@asynccontextmanager
async def administrator(bootstrap: str) -> AsyncGenerator[AIOKafkaAdminClient]:
    """A connected admin client; raises KafkaError."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=PATIENCE // timedelta(milliseconds=1))
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


def be_quiet() -> None:
    """What fails is said by the command, once."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


async def reaching(bootstrap: str, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; a broker that does not answer becomes a Failure."""
    be_quiet()
    try:
        return await work
    except (KafkaError, OSError, ValueError) as error:  # aiokafka raises ValueError for an address it can't read
        reason = str(error) or type(error).__name__
        raise Failure(f"Kafka at {bootstrap} does not do it: {reason}", Exit.UNREACHABLE) from error
