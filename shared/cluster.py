"""Kafka as clients reach it: where it is, how it is known, and as whom they come; one value for a whole process.

Certificates and password are read when a process starts. To change them, start it again.
"""

import ssl
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from pydantic import BaseModel, SecretStr, model_validator

Security: TypeAlias = Literal["plaintext", "ssl", "sasl_ssl"]
Mechanism: TypeAlias = Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"]


class Refused(Exception):
    """Kafka can't be reached this way, or does not let this process do what it has to."""

    def __init__(self, message: str, remedy: str, *, reached: bool = False) -> None:
        super().__init__(f"{message}: {remedy}")
        self.message = message
        self.remedy = remedy
        self.reached = reached
        """Whether Kafka itself has answered."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Kafka cluster and the principal that it is spoken to as; without more than an address, nobody on plain TCP."""

    bootstrap: str
    """`host:port`, comma-separated."""
    tls: ssl.SSLContext | None = None
    mechanism: Mechanism | None = None
    """None without SASL."""
    username: str | None = None
    password: SecretStr | None = field(default=None, repr=False)

    def client(self) -> dict[str, Any]:
        """What each client of aiokafka takes to reach it."""
        return {"bootstrap_servers": self.bootstrap, **self.security()}

    def security(self) -> dict[str, Any]:
        """The part of it that is not the address."""
        if self.tls is None:
            return {}
        if self.mechanism is None or self.password is None:
            return {"security_protocol": "SSL", "ssl_context": self.tls}
        return {
            "security_protocol": "SASL_SSL",
            "ssl_context": self.tls,
            "sasl_mechanism": self.mechanism,
            "sasl_plain_username": self.username,
            "sasl_plain_password": self.password.get_secret_value(),
        }

    @property
    def principal(self) -> str:
        """Whom Kafka takes the process for, as far as it knows that itself."""
        return f"User:{self.username}" if self.username else "this client"


class KafkaSettings(BaseModel):
    """How Kafka is reached; what does not fit together is refused with what to do about it."""

    kafka: str
    """Bootstrap addresses, `host:port`, comma-separated."""
    kafka_security: Security = "plaintext"
    """`sasl_ssl`: TLS and a password. `ssl`: TLS, and a client certificate if one is given."""
    kafka_ca: Path | None = None
    """PEM of the authorities that the brokers' certificates are believed from; those of the system otherwise."""
    kafka_certificate: Path | None = None
    """PEM of the client's certificate, and of those between it and its authority."""
    kafka_key: Path | None = None
    kafka_mechanism: Mechanism = "SCRAM-SHA-512"
    kafka_username: str | None = None
    kafka_password: SecretStr | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.kafka_security == "plaintext":
            for name in ("ca", "certificate", "key", "username", "password"):
                if getattr(self, f"kafka_{name}") is not None:
                    raise ValueError(
                        f"KAFKA_{name.upper()} is set, but KAFKA_SECURITY is plaintext: set KAFKA_SECURITY to"
                        f" {'sasl_ssl' if name in ('username', 'password') else 'ssl or sasl_ssl'}"
                    )
        elif self.kafka_security == "ssl":
            for name in ("username", "password"):
                if getattr(self, f"kafka_{name}") is not None:
                    raise ValueError(
                        f"KAFKA_{name.upper()} is set, but KAFKA_SECURITY is ssl, which has no passwords: set"
                        f" KAFKA_SECURITY to sasl_ssl, or take KAFKA_{name.upper()} back"
                    )
        else:
            for name in ("username", "password"):
                if getattr(self, f"kafka_{name}") is None:
                    raise ValueError(f"KAFKA_SECURITY is sasl_ssl: set KAFKA_{name.upper()}, too")
        if (self.kafka_certificate is None) != (self.kafka_key is None):
            raise ValueError("KAFKA_CERTIFICATE and KAFKA_KEY go together: set both, or none of them")
        _ = self.cluster
        return self

    @cached_property
    def cluster(self) -> Cluster:
        """What clients are made of; raises ValueError for files that can't be used."""
        if self.kafka_security == "plaintext":
            return Cluster(self.kafka)
        tls = self._tls()
        if self.kafka_security == "ssl":
            return Cluster(self.kafka, tls)
        return Cluster(self.kafka, tls, self.kafka_mechanism, self.kafka_username, self.kafka_password)

    def _tls(self) -> ssl.SSLContext:
        """Checks the brokers' certificates and names, which can't be turned off."""
        try:
            context = ssl.create_default_context(cafile=self.kafka_ca)
        except ssl.SSLError:
            raise ValueError(f"KAFKA_CA: {self.kafka_ca} has no certificates: put the CA's there, as PEM") from None
        except OSError as error:
            raise ValueError(f"KAFKA_CA: {error.strerror}: {self.kafka_ca}: set it to a readable file") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.kafka_certificate is None or self.kafka_key is None:
            return context
        for name, path in (("CERTIFICATE", self.kafka_certificate), ("KEY", self.kafka_key)):
            try:
                path.open("rb").close()
            except OSError as error:
                raise ValueError(f"KAFKA_{name}: {error.strerror}: {path}: set it to a readable file") from None
        try:
            # Asked for a password by OpenSSL, the process would wait for somebody to type it.
            context.load_cert_chain(self.kafka_certificate, self.kafka_key, password="")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ValueError("KAFKA_KEY is not the key of KAFKA_CERTIFICATE: set them to a pair") from None
            raise ValueError(
                "KAFKA_CERTIFICATE and KAFKA_KEY: one of the files is no certificate or no unencrypted private key:"
                " put both there as PEM"
            ) from None
        return context
