"""Apache Kafka for tests, from whichever of three places has it."""

import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
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
    """Whether a Docker engine listens where DOCKER_HOST, or its default, says."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not host.startswith("unix://"):
        return True
    # Asked directly: the Docker client leaves its socket open when nobody answers.
    with socket.socket(socket.AF_UNIX) as engine:
        return engine.connect_ex(host.removeprefix("unix://")) == 0
