"""One Apache Kafka that believes nobody without a password or a certificate, and permits what was permitted only."""

import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.local.kafka import ApacheKafka, missing_for_apache
from deploy.local.processes import free_port
from shared.cluster import Cluster, KafkaSettings
from shared.rights import CONSUMES
from tests.brokers import REQUIRED
from tests.kafka.certificates import DAY, Authority

PASSWORDS = {name: f"{name}-correct-horse" for name in (*CONSUMES, "operator", "administrator", "scheduler2", "nobody")}
"""By user; `scheduler2` is the scheduler's next name, `nobody` is permitted nothing."""
LISTENERS = {
    "SASL_SSL": "SASL_SSL",
    "SSL": "SSL",
    "EXPIRED": "SSL",
    "ELSEWHERE": "SSL",
}
"""Listeners and their protocols; EXPIRED has an old certificate, ELSEWHERE one for another name."""


@dataclass(frozen=True, slots=True)
class Secured:
    """The broker, and what its clients have."""

    broker: ApacheKafka
    ports: Mapping[str, int]
    authority: Authority
    other: Authority
    """Which has signed nothing here."""
    client: tuple[Path, Path]
    """Certificate and key of User:CN=scheduler."""

    def settings(self, listener: str, **changes: Any) -> dict[str, str]:
        """Settings of a client, by their names; those that are None are left out."""
        settings: dict[str, Any] = {
            "kafka": f"127.0.0.1:{self.ports[listener]}",
            "kafka_security": LISTENERS[listener].lower(),
            "kafka_ca": self.authority.path,
            **changes,
        }
        return {name: str(value) for name, value in settings.items() if value is not None}

    def as_user(self, name: str, **changes: Any) -> dict[str, str]:
        """Settings of a user with a password."""
        return self.settings("SASL_SSL", kafka_username=name, kafka_password=PASSWORDS[name], **changes)

    def cluster(self, **settings: Any) -> Cluster:
        """What a client with these settings is made of."""
        return KafkaSettings.model_validate(settings).cluster

    @property
    def by_anybody(self) -> Cluster:
        """The plain listener, which lets the tests do everything."""
        return Cluster(self.broker.bootstrap)


@pytest.fixture(scope="session")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    if missing := missing_for_apache():
        sentence = f"a broker with TLS is made from Kafka's jars, but {missing}"
        if os.environ.get(REQUIRED):
            pytest.fail(sentence)
        pytest.skip(sentence)
    folder = tmp_path_factory.mktemp("secured")
    authority, other = Authority(folder, "authority"), Authority(folder, "other")
    authority.issue("broker", "127.0.0.1", "localhost")
    authority.issue("expired", "127.0.0.1", ends_in=-DAY)
    authority.issue("elsewhere", "kafka.example")
    client = authority.issue("scheduler")
    ports = {name: free_port() for name in LISTENERS}
    properties = {
        "listener.security.protocol.map": ",".join(
            f"{name}:{protocol}"
            for name, protocol in {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **LISTENERS}.items()
        ),
        "sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "listener.name.sasl_ssl.plain.sasl.jaas.config": (
            f'org.apache.kafka.common.security.plain.PlainLoginModule required user_nobody="{PASSWORDS["nobody"]}";'
        ),
        "listener.name.ssl.ssl.client.auth": "required",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.path),
        "ssl.keystore.type": "PEM",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        # Those on the plain listener: the broker itself, and the tests.
        "super.users": "User:ANONYMOUS",
        **{
            f"listener.name.{name.lower()}.ssl.keystore.location": str(
                folder / f"{name.lower() if name in ('EXPIRED', 'ELSEWHERE') else 'broker'}.both.pem"
            )
            for name in LISTENERS
        },
    }
    broker = ApacheKafka(folder / "broker", listeners=ports, properties=properties, users=PASSWORDS)
    async with broker:
        yield Secured(broker, ports, authority, other, client)
