"""The settings every service has; each service adds its own under its own environment prefix."""

from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

EVENTS_AT_LEAST: Final = timedelta(days=31)
"""Much longer than topics keep records, so that a restored or rewound consumer finds in the outbox what it may miss."""
RECORDS_LONGER: Final = timedelta(days=30)
"""How much longer than events it is kept what they did: a replay, a dead letter sent again, a restored backup."""


class ProcessSettings(BaseSettings):
    """What any process needs; a missing or wrong setting stops the start by name."""

    # Whoever writes `NAME=` takes a setting back that a common file sets.
    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_ignore_empty=True)

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


class ServiceSettings(AuthSettings):
    """What a service with events and state needs (`CDDS_SCHEDULER_POSTGRES` …)."""

    postgres: SecretStr
    """DSN of the service's database; its role may create the service's schema and roles."""
    kafka: str
    """Bootstrap addresses, `host:port`, comma-separated."""
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


class PublisherSettings(ServiceSettings):
    """What a service that publishes needs, too: how long it remembers (docs/operate/retention.md)."""

    event_retention: timedelta = timedelta(days=432)
    """How long published events are kept, to refill a lost broker and rebuild history: its 400 days, and the month in
    which they begin."""
    record_retention: timedelta = timedelta(days=462)
    """How long it is kept what events did, so that they do it once. Older events are not followed any more, whoever
    sends them again."""
    purge_interval: timedelta = Field(default=timedelta(minutes=10), gt=timedelta(0))
    """How long nobody looks for what is too old, once there was nothing."""
    short_retentions: bool = False
    """Take retentions that are too short for anything but a trial; `make soak` does."""

    @model_validator(mode="after")
    def _remembers(self) -> Self:
        least, margin = (timedelta(0), timedelta(0)) if self.short_retentions else (EVENTS_AT_LEAST, RECORDS_LONGER)
        if self.event_retention < least:
            raise ValueError(f"set EVENT_RETENTION to {least.days} days or more, such as P432D")
        if self.record_retention < self.event_retention + margin:
            raise ValueError(f"set RECORD_RETENTION to EVENT_RETENTION and {margin.days} days or more, such as P462D")
        return self
