"""Apache Kafka for tests, from whichever of three places has it."""

import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from deploy.local.kafka import ApacheKafka, kafka_version, missing_for_apache
from deploy.local.processes import free_port

ADDRESS = "CDDS_TEST_KAFKA"
REQUIRED = "CDDS_REQUIRE_APACHE"
IMAGE = f"apache/kafka:{kafka_version()}"
"""The one that the compose file names."""
PATIENCE_SECONDS = 60

# As the jars are started by `ApacheKafka`, where it matters to tests.
SETTINGS = {
    "CLUSTER_ID": "Y2Rkcy10ZXN0cy1rYWZrYQ",
    "KAFKA_NODE_ID": "1",
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "4",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_HEAP_OPTS": "-Xms256m -Xmx512m",
}


def kind_of_broker() -> str:
    """Apache Kafka where there are Java and Maven, else the embedded one."""
    return "embedded" if missing_for_apache() else "apache"


@asynccontextmanager
async def apache_kafka(data: Path) -> AsyncGenerator[str]:
    """The bootstrap address of an Apache Kafka: a given one, a container, or the jars; skips the test without any.

    With CDDS_REQUIRE_APACHE set, as in CI, the test fails instead of being skipped.
    """
    if address := os.environ.get(ADDRESS):
        yield address
    elif docker_answers():
        # The library's own class is made for another image.
        container = DockerContainer(IMAGE).with_envs(**SETTINGS)
        # A broker has to tell its clients where they reach it, so that its port is chosen before it starts.
        address = f"{container.get_docker_client().host()}:{(port := free_port())}"
        container = container.with_bind_ports(9092, port).with_env(
            "KAFKA_ADVERTISED_LISTENERS", f"PLAINTEXT://{address}"
        )
        started = LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(PATIENCE_SECONDS)
        with container.waiting_for(started):
            yield address
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
