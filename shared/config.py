"""The settings every service has; each service adds its own under its own environment prefix."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from shared.cluster import KafkaSettings
from shared.safety import (
    LOCAL_ISSUER,
    Danger,
    Fault,
    Risk,
    dsn_dangers,
    dsn_faults,
    host_of,
    is_here,
    is_open,
    public_key_faults,
)

SECRETS: Final = "CDDS_SECRETS"
"""Names a folder of files, each named like a variable, in any case: its content is the value, where the environment has
none. That is how Docker and Kubernetes hand secrets over, and an environment is read by more than a file."""


def secrets_folder() -> Path | None:
    """The folder that is named, if one is; raises SettingsError when there is none."""
    if not (name := os.environ.get(SECRETS)):
        return None
    if not (folder := Path(name)).is_dir():
        raise SettingsError(f"{SECRETS}: there is no folder {folder}: mount it, or unset {SECRETS}")
    return folder


def secrets_in_files() -> dict[str, str]:
    """The variables that are files of that folder, as settings read them; raises SettingsError."""
    if (folder := secrets_folder()) is None:
        return {}
    files = [path for path in folder.iterdir() if path.name.upper().startswith("CDDS_") and path.is_file()]
    try:
        return {path.name.upper(): path.read_text(encoding="utf-8").strip() for path in files}
    except (OSError, ValueError) as error:
        raise SettingsError(f"{SECRETS}: a file in {folder} can't be read: {error}") from error


def _words(value: Any) -> Any:
    """`kafka,postgres` as a person writes it."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


EVENTS_AT_LEAST: Final = timedelta(days=31)
"""Much longer than topics keep records, so that a restored or rewound consumer finds in the outbox what it may miss."""
RECORDS_LONGER: Final = timedelta(days=30)
"""How much longer than events it is kept what they did: a replay, a dead letter sent again, a restored backup."""


class ProcessSettings(BaseSettings):
    """What any process needs; a missing or wrong setting stops the start by name."""

    # Whoever writes `NAME=` takes a setting back that a common file sets.
    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True)

    http_host: str = "127.0.0.1"
    http_port: int = Field(ge=1, le=65535)
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    traces: Literal["off", "otlp"] = "off"
    """Whether the work is traced; the standard's `OTEL_…` variables say where that goes."""
    stop_with_parent: bool = False
    """End when standard input reaches its end: the local stack's children must not outlive a killed parent."""
    insecure: Annotated[frozenset[Risk], NoDecode, BeforeValidator(_words)] = frozenset()
    """Risks that are taken because the network is trusted, comma-separated; the start is refused for all others."""
    local: bool = False
    """Set by `cdds up` for its children, which listen to their own machine only: there nothing is a risk."""

    def unusable(self) -> Iterator[Fault]:
        """What the settings name and a process could not use."""
        if self.local and not is_here(self.http_host):
            yield Fault("local", "is for `cdds up`, but HTTP_HOST lets other machines in", "remove one of them")

    def unsafe(self) -> Iterator[Danger]:
        """What is safe on one's own machine only."""
        if not self.local:
            yield from self.dangers()

    def dangers(self) -> Iterator[Danger]:
        """The same, wherever the process runs."""
        yield from ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the files of `CDDS_SECRETS`."""
        if (folder := secrets_folder()) is None:
            return init_settings, env_settings
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, secrets_dir=folder)


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

    def unusable(self) -> Iterator[Fault]:
        """A key that no token could be verified with, too."""
        yield from super().unusable()
        if self.auth_public_key is not None:
            yield from public_key_faults("auth_public_key", self.auth_public_key)

    def dangers(self) -> Iterator[Danger]:
        """Tokens that others than the identity provider could make."""
        yield from super().dangers()
        if self.auth_issuer == LOCAL_ISSUER:
            yield Danger(
                "issuer", "auth_issuer", f"is {LOCAL_ISSUER}, whose tokens `cdds up` makes for anybody there",
                "set it to the issuer of your identity provider",
            )  # fmt: skip
        if self.auth_jwks_url is not None and is_open(self.auth_jwks_url):
            yield Danger(
                "identity", "auth_jwks_url", "is fetched without TLS: whoever changes the answer can make tokens",
                "use https",
            )  # fmt: skip


class ServiceSettings(AuthSettings, KafkaSettings):  # pyright: ignore[reportIncompatibleVariableOverride] - model_config
    """What a service with events and state needs (`CDDS_SCHEDULER_POSTGRES` …)."""

    postgres: SecretStr
    """DSN of the service's database, with `?sslmode=verify-full&sslrootcert=…`; its role owns the service's schema."""
    migrate: bool = True
    """Whether the service applies its migrations; if not, it waits until `cdds migrate` has.

    Then its login need not own the schema: membership in `<service>_worker` and `<service>_tenant` is enough.
    """
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

    def unusable(self) -> Iterator[Fault]:
        """A DSN that is none, too."""
        yield from super().unusable()
        yield from dsn_faults("postgres", self.postgres.get_secret_value())

    def dangers(self) -> Iterator[Danger]:
        """State and events that could be read and changed on their way."""
        yield from super().dangers()
        yield from dsn_dangers("postgres", self.postgres.get_secret_value())
        if self.kafka_security == "plaintext" and not all(
            is_here(host_of(address)) for address in self.kafka.split(",")
        ):
            yield Danger(
                "kafka", "kafka", "names a broker on another machine, which is spoken to without TLS",
                "set KAFKA_SECURITY to ssl or sasl_ssl",
            )  # fmt: skip


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
