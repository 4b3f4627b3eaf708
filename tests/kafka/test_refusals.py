"""What is wrong with the way to Kafka is said in a sentence that names the setting, by real brokers' answers."""

from collections.abc import Callable
from typing import Any

import pytest

from shared import access
from shared.cluster import Cluster, Refused
from shared.rights import CONSUMES, RIGHTS
from tests.kafka.conftest import PASSWORDS, Secured

pytestmark = pytest.mark.apache

Settings = dict[str, str]

FAULTS: dict[str, tuple[Callable[[Secured], Settings], str, str]] = {
    "another CA": (
        lambda to: to.as_user("scheduler", kafka_ca=to.other.path), "is signed by nobody who is believed", "KAFKA_CA",
    ),
    "the system's CAs": (
        lambda to: to.as_user("scheduler", kafka_ca=None), "is signed by nobody who is believed", "KAFKA_CA",
    ),
    "an expired certificate": (lambda to: to.settings("EXPIRED"), "has expired", "renew it"),
    "a certificate of another name": (
        lambda to: to.settings("ELSEWHERE"), "is not for the name 127.0.0.1", "subjectAltNames",
    ),
    "a wrong password": (
        lambda to: to.as_user("scheduler") | {"kafka_password": "guessed"},
        "does not take user name and password of 'scheduler'", "KAFKA_PASSWORD",
    ),
    "an unknown user": (
        lambda to: to.as_user("scheduler") | {"kafka_username": "somebody"}, "of 'somebody'", "kafka-configs.sh",
    ),
    "a mechanism that is not offered": (
        lambda to: to.as_user("scheduler", kafka_mechanism="SCRAM-SHA-256"), "does not offer SCRAM-SHA-256",
        "KAFKA_MECHANISM",
    ),
    "no password where one is asked for": (
        lambda to: to.settings("SASL_SSL", kafka_security="ssl"), "closes the connection", "KAFKA_SECURITY to sasl_ssl",
    ),
    "a password where a certificate is asked for": (
        lambda to: to.as_user("scheduler", kafka=f"127.0.0.1:{to.ports['SSL']}"), "closes the connection",
        "KAFKA_CERTIFICATE",
    ),
    "a password where a certificate was enough": (
        lambda to: to.as_user(
            "scheduler", kafka=f"127.0.0.1:{to.ports['SSL']}", kafka_certificate=to.client[0], kafka_key=to.client[1]
        ),
        "asks for no password", "KAFKA_SECURITY to ssl",
    ),
    "no certificate of the client": (lambda to: to.settings("SSL"), "closes the connection", "KAFKA_CERTIFICATE"),
    "no TLS where it is asked for": (
        lambda to: {"kafka": f"127.0.0.1:{to.ports['SASL_SSL']}"}, "closes the connection", "KAFKA_SECURITY",
    ),
    "TLS where none is spoken": (
        lambda to: to.as_user("scheduler", kafka=to.broker.bootstrap), "closes the connection", "SASL_SSL listener",
    ),
    "an unknown name": (
        lambda to: to.as_user("scheduler", kafka="kafka.invalid:9093"), "is not known here", "correct KAFKA",
    ),
    "nobody": (lambda to: to.as_user("scheduler", kafka="127.0.0.1:1"), "can't be reached", "see that it runs"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_is_wrong_is_said_with_what_to_do(secured: Secured, fault: str) -> None:
    settings, message, remedy = FAULTS[fault]
    cluster = secured.cluster(**settings(secured))
    with pytest.raises(Refused) as raised:
        await access.look(cluster, RIGHTS["scheduler"])
    assert message in raised.value.message
    assert remedy in raised.value.remedy
    assert not [password for password in PASSWORDS.values() if password in str(raised.value) + repr(cluster)]


async def test_the_first_address_that_answers_will_do(secured: Secured) -> None:
    settings = secured.as_user("nobody")
    cluster = secured.cluster(**{**settings, "kafka": f"127.0.0.1:1,{settings['kafka']}"})
    assert await access.reason(cluster) is None


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
async def test_a_principal_without_permissions_hears_of_each(secured: Secured, mechanism: str) -> None:
    cluster = secured.cluster(**secured.as_user("nobody", kafka_mechanism=mechanism))
    found = await access.look(cluster, RIGHTS["history"])
    assert found.lacking == RIGHTS["history"]
    with pytest.raises(Refused) as raised:
        access.require(cluster, found)
    assert "User:nobody Read on topics exporter.runs.v1, exporter.runs.v1.replay, " in raised.value.message
    assert "; Write on topics exporter.runs.v1.dead, " in raised.value.message
    assert "; Read on groups history" in raised.value.message


@pytest.mark.parametrize("service", CONSUMES)
async def test_whoever_may_do_everything_lacks_nothing(secured: Secured, service: str) -> None:
    assert not (await access.look(secured.by_anybody, RIGHTS[service])).lacking.topics


async def test_a_broker_that_is_named_and_not_reached_is_a_reason() -> None:
    refused = await access.reason(Cluster("127.0.0.1:1"))
    assert refused is not None
    assert not refused.reached


def test_settings(secured: Secured) -> None:
    """The listeners are reached by name, too."""
    settings: dict[str, Any] = secured.as_user("nobody", kafka=f"localhost:{secured.ports['SASL_SSL']}")
    assert secured.cluster(**settings).client()["security_protocol"] == "SASL_SSL"
