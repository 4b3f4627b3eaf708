"""The way to Kafka for an operator's commands: bounded, and without the library's own complaints on the terminal."""

import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final, TypeVar

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
)

from cli.console import Exit, Failure
from shared.cluster import Cluster, Refused

T = TypeVar("T")

PATIENCE: Final = timedelta(seconds=10)
"""For one answer."""
NOT_PERMITTED: Final = (
    TopicAuthorizationFailedError,
    GroupAuthorizationFailedError,
    ClusterAuthorizationFailedError,
)


@asynccontextmanager
async def administrator(cluster: Cluster) -> AsyncGenerator[AIOKafkaAdminClient]:
    """A connected admin client; raises KafkaError."""
    admin = AIOKafkaAdminClient(**cluster.client(), request_timeout_ms=PATIENCE // timedelta(milliseconds=1))
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


def be_quiet() -> None:
    """What fails is said by the command, once."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


async def reaching(cluster: Cluster, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; that Kafka can't be reached or does not permit it becomes a Failure."""
    be_quiet()
    try:
        return await work
    except Refused as refused:
        raise Failure(str(refused), Exit.FAILED if refused.reached else Exit.UNREACHABLE) from refused
    except NOT_PERMITTED as error:
        raise Failure(str(not_permitted(cluster, error))) from error
    except (KafkaError, OSError, ValueError) as error:  # aiokafka raises ValueError for an address it can't read
        from shared import access

        if refused := await access.reason(cluster):
            raise Failure(str(refused), Exit.FAILED if refused.reached else Exit.UNREACHABLE) from error
        reason = str(error) or type(error).__name__
        raise Failure(f"Kafka at {cluster.bootstrap} does not do it: {reason}", Exit.UNREACHABLE) from error


def not_permitted(cluster: Cluster, error: BaseException) -> Refused:
    """What is missing is a permission."""
    said = ": ".join(str(part) for part in error.args if part)
    return Refused(
        f"Kafka does not permit {cluster.principal} to do it{f' ({said})' if said else ''}",
        "`cdds topics acls` says what the principals `operator` and `administrator` need; CDDS_KAFKA_USERNAME and"
        " CDDS_KAFKA_PASSWORD, or CDDS_KAFKA_CERTIFICATE and CDDS_KAFKA_KEY, say as whom to come",
        reached=True,
    )
