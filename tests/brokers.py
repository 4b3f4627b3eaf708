"""Apache Kafka for tests, from whichever of three places has it."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException
from testcontainers.community.kafka import KafkaContainer

from deploy.local.kafka import ApacheKafka, missing_for_apache

ADDRESS = "CDDS_TEST_KAFKA"
REQUIRED = "CDDS_REQUIRE_APACHE"


@asynccontextmanager
async def apache_kafka(data: Path) -> AsyncGenerator[str]:
    """The bootstrap address of an Apache Kafka: a given one, a container, or the jars; skips the test without any.

    With CDDS_REQUIRE_APACHE set, as in CI, the test fails instead of being skipped.
    """
    if address := os.environ.get(ADDRESS):
        yield address
    elif docker_answers():
        with KafkaContainer().with_kraft() as container:
            yield container.get_bootstrap_server()
    elif missing := missing_for_apache():
        sentence = f"no Apache Kafka: {ADDRESS} is not set, no Docker engine answers, and {missing}"
        if os.environ.get(REQUIRED):
            pytest.fail(sentence)
        pytest.skip(sentence)
    else:
        async with ApacheKafka(data) as broker:
            yield broker.bootstrap


def docker_answers() -> bool:
    """Whether a Docker engine is running here."""
    # With a fixed API version the client does not connect before it is asked to.
    client = docker.DockerClient(os.environ.get("DOCKER_HOST"), version="1.41", timeout=2)
    try:
        return bool(client.ping())
    except (DockerException, OSError):
        return False
    finally:
        client.close()
