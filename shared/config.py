"""The settings every service has; each service adds its own under its own environment prefix."""

from datetime import timedelta
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.cluster import KafkaSettings


class ProcessSettings(BaseSettings):
    """What any process needs; a missing or wrong setting stops the start by name."""

    # Whoever writes `NAME=` takes a setting back that a common file sets.
    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True)

    http_host: str = "127.0.0.1"
    http_port: int = Field(ge=1, le=65535)
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    stop_with_parent: bool = False
    """End when standard input reaches its end: the local stack's children must not outlive a killed parent."""


class AuthSettings(ProcessSettings):
    """Whose tokens are believed."""

    auth_issuer: str
    auth_audience: str = "cdds"
    auth_jwks_url: str | None = None
    auth_public_key: Path | None = None

    @model_validator(mode="after")
    def _authenticates(self) -> Self:
        if (self.auth_jwks_url is None) == (self.auth_public_key is None):
            raise ValueError("set exactly one of AUTH_JWKS_URL and AUTH_PUBLIC_KEY")
        return self


class ServiceSettings(AuthSettings, KafkaSettings):  # pyright: ignore[reportIncompatibleVariableOverride] - model_config
    """What a service with events and state needs (`CDDS_SCHEDULER_POSTGRES` …)."""

    postgres: SecretStr
    """DSN of the service's database; its role may create the service's schema and roles."""
    kafka_topics: Literal["ensure", "expect"] = "ensure"
    """Whether topics that are missing are made at the start, which Kafka must permit, or asked for."""
    kafka_fetch_pause: timedelta = timedelta(0)
    """A pause between fetches, for a broker that answers an empty fetch at once, as the embedded one does."""
    kafka_partitions: int = Field(default=6, ge=1)
    kafka_replication: int = Field(default=1, ge=1)
    kafka_member: str | None = None
    """A name that this replica alone has and keeps over restarts, for brokers that do not forget dead members.

    Leave it out with Apache Kafka: it gives a member that returns its old partitions back at once, but does not notice
    then that topics were made meanwhile (KIP-814).
    """
    outage_patience: timedelta = timedelta(minutes=1)
    """How long a lost PostgreSQL or broker is waited for before the process exits to be restarted."""
