"""The way to a broker, and what is wrong with it in a sentence: aiokafka's clients tell that to their log only."""

import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, Final

from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.api import Request

from shared.cluster import Cluster, Refused

ANSWER: Final = timedelta(seconds=10)
"""How long one connection or answer is waited for."""


@asynccontextmanager
async def connection_to_any(cluster: Cluster) -> AsyncGenerator[AIOKafkaConnection]:
    """A connection to the first of the addresses that answers; raises Refused with the reason of the last."""
    try:
        hosts = collect_hosts(cluster.bootstrap, randomize=False)
    except ValueError as error:
        raise Refused(f"KAFKA is {cluster.bootstrap!r}, which is no address", "write HOST:PORT,HOST:PORT") from error
    *others, last = [(host, port) for host, port, _ in hosts]
    connection = None
    for host, port in others:
        with suppress(Refused):
            connection = await _connect(cluster, host, port)
            break
    async with _closed(cluster, connection or await _connect(cluster, *last)) as opened:
        yield opened


@asynccontextmanager
async def connection_to(cluster: Cluster, host: str, port: int) -> AsyncGenerator[AIOKafkaConnection]:
    """A connection to one broker; raises Refused."""
    async with _closed(cluster, await _connect(cluster, host, port)) as opened:
        yield opened


@asynccontextmanager
async def _closed(cluster: Cluster, connection: AIOKafkaConnection) -> AsyncGenerator[AIOKafkaConnection]:
    """The connection, which is closed at the end."""
    try:
        yield connection
    except KafkaConnectionError as error:
        # A broker that wants to know who comes closes at the first question.
        raise explained(cluster, f"{connection.host}:{connection.port}", error) from error
    finally:
        connection.close()


async def _connect(cluster: Cluster, host: str, port: int) -> AIOKafkaConnection:
    try:
        return await create_conn(
            host, port, client_id="cdds", request_timeout_ms=ANSWER // timedelta(milliseconds=1), **cluster.security()
        )
    except (OSError, KafkaError, TimeoutError, ValueError) as error:  # ValueError: the SCRAM answer of somebody else
        raise explained(cluster, f"{host}:{port}", error) from error


async def answer_of(connection: AIOKafkaConnection, request: Request[Any]) -> Any:
    """What the broker answers; raises KafkaError."""
    return await connection.send(request)


def explained(cluster: Cluster, address: str, error: Exception) -> Refused:
    """What `error` says about the way to `address`."""
    match error:
        case ssl.SSLCertVerificationError():
            return _distrusted(address, error)
        case ssl.SSLError():
            return Refused(
                f"TLS with Kafka at {address} failed: {error.reason or error}",
                "see that KAFKA has the port of a TLS listener, and that the listener takes TLS 1.2 or later",
            )
        case SaslAuthenticationFailed():
            return Refused(
                f"Kafka at {address} does not take user name and password of {cluster.username!r}",
                "correct KAFKA_USERNAME and KAFKA_PASSWORD, or make the user with kafka-configs.sh",
                reached=True,
            )
        case UnsupportedSaslMechanismError():
            offered = str(error).rpartition("are: ")[2]
            return Refused(
                f"Kafka at {address} does not offer {cluster.mechanism}, but {offered}",
                "set KAFKA_MECHANISM to one that it offers", reached=True,
            )  # fmt: skip
        case IllegalSaslStateError():
            return Refused(
                f"Kafka at {address} asks for no password on this port",
                "set KAFKA_SECURITY to ssl, or KAFKA to the port of a SASL_SSL listener", reached=True,
            )  # fmt: skip
        case socket.gaierror():
            return Refused(f"the name in {address} is not known here: {error.strerror}", "correct KAFKA")
        case KafkaConnectionError() | ConnectionResetError() | BrokenPipeError():
            return Refused(f"Kafka at {address} closes the connection at once", _CLOSED[_kind(cluster)])
        case TimeoutError():
            return Refused(
                f"Kafka at {address} does not answer within {ANSWER.total_seconds():g} s",
                f"see that it runs and is reached from here{'' if cluster.tls else ', and speaks no TLS on this port'}",
            )
        case OSError():
            return Refused(f"Kafka at {address} can't be reached: {error.strerror or error}", "see that it runs")
        case _:
            return Refused(f"Kafka at {address} does not let this client in: {error!r}", "read the log of the broker")


def is_away(refused: Refused) -> bool:
    """Whether the broker may just be restarting."""
    cause = refused.__cause__
    return isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError | socket.gaierror)


def _kind(cluster: Cluster) -> str:
    return "plaintext" if cluster.tls is None else "ssl" if cluster.mechanism is None else "sasl_ssl"


_CLOSED: Final = {
    "plaintext": "if this is the port of a TLS listener, set KAFKA_SECURITY to ssl or sasl_ssl",
    "ssl": "see that this is the port of a TLS listener; if it asks for a password, set KAFKA_SECURITY to sasl_ssl; if"
    " it asks for a certificate of the client, set KAFKA_CERTIFICATE and KAFKA_KEY to one that it believes",
    "sasl_ssl": "see that this is the port of a SASL_SSL listener; if it asks for a certificate of the client, too, set"
    " KAFKA_CERTIFICATE and KAFKA_KEY to one that it believes",
}

_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_OTHER_NAME: Final = (62, 64)
"""OpenSSL's X509_V_ERR_ numbers."""


def _distrusted(address: str, error: ssl.SSLCertVerificationError) -> Refused:
    host = address.rpartition(":")[0]
    match error.verify_code:
        case code if code == _EXPIRED:
            return Refused(
                f"the certificate of Kafka at {address}, or of its CA, has expired", "renew it, then restart the broker"
            )
        case code if code == _NOT_YET_VALID:
            return Refused(
                f"the certificate of Kafka at {address} is not valid yet",
                "set the clocks of this machine and the broker",
            )
        case code if code in _OTHER_NAME:
            return Refused(
                f"the certificate of Kafka at {address} is not for the name {host}",
                f"give the broker a certificate with {host} among its subjectAltNames, or write a name that it has in"
                " KAFKA and advertised.listeners",
            )
        case _:
            return Refused(
                f"the certificate of Kafka at {address} is signed by nobody who is believed here"
                f" ({error.verify_message})",
                "set KAFKA_CA to the file with the CA that signed it",
            )
