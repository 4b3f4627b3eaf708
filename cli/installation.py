"""The installation that an operator's command is about: its settings, and the addresses in them.

It is the one whose `CDDS_…` settings are in the environment, or in the files that `CDDS_SECRETS` names, as in the
container of a service; otherwise the stack that runs on this machine, which tells its settings itself.
"""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Self

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from cli.console import Exit, Failure
from deploy.local.secrets import Secrets
from deploy.local.stack import SERVICES, running
from shared.cluster import Cluster, KafkaSettings
from shared.config import secrets_in_files

STATEFUL: Final = ("job_api", "scheduler", "exporter", "history")
"""The services with a schema and a consumer group; both are named like the service."""
_TELLING: Final = ("POSTGRES", "KAFKA", "AUTH_ISSUER")
"""A service is configured here when one of these is; Grafana's variables begin with the same prefix, and the image
says on which port each service would listen."""

DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="The folder of a stack on this machine; .cdds, when no settings are given."),
]
KafkaOption = Annotated[
    str | None,
    typer.Option("--kafka", help="HOST:PORT of Kafka; that of the settings, or of the running local stack, otherwise."),
]


@dataclass(frozen=True, slots=True)
class Installation:
    """The settings of its services as environment variables, and what was given instead of them."""

    environment: Mapping[str, str]
    is_local: bool = False
    """Whether it is a stack of `cdds up`, which nobody else can reach."""
    postgres: str | None = None
    """A DSN that is used instead of the services'."""
    kafka: str | None = None
    """A bootstrap address that is used instead of the services'."""
    urls: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Addresses of services that are used instead of what the settings say."""

    @classmethod
    def find(
        cls,
        data: Path | None = None,
        postgres: str | None = None,
        kafka: str | None = None,
        urls: Mapping[str, str] = MappingProxyType({}),
    ) -> Self:
        """The installation of the environment, or that of the stack on `data`; one without settings if there is none.

        A folder that is given comes first.
        """
        environment = _environment()
        telling = {"CDDS_KAFKA", *(_prefix(name) + telling for name in SERVICES for telling in _TELLING)}
        if data is None and any(name in environment for name in telling):
            return cls(environment, postgres=postgres, kafka=kafka, urls=urls)
        described = running(folder := data or Path(".cdds"))
        if described is None:
            return cls(environment, postgres=postgres, kafka=kafka, urls=urls)
        settings: dict[str, dict[str, str]] = described.get("settings", {})
        secrets = Secrets(folder / "secrets")
        for name in SERVICES:
            environment |= settings.get(name, {}) | secrets.settings(name)
        services: dict[str, Any] = described["services"]
        known = {name: services[name]["url"] for name in services}
        return cls(
            environment,
            is_local=True,
            postgres=postgres or described["postgres"],
            kafka=kafka or described["kafka"],
            urls={**known, **urls},
        )

    def setting(self, service: str, name: str) -> str | None:
        """One setting as it stands in the environment."""
        return self.environment.get(_prefix(service) + name.upper())

    @property
    def configured(self) -> list[str]:
        """The services whose settings are known."""
        return [name for name in SERVICES if any(self.setting(name, telling) is not None for telling in _TELLING)]

    def dsn(self, service: str) -> str | None:
        """Where the schema of a service is."""
        return self.postgres or self.setting(service, "postgres")

    @property
    def bootstrap(self) -> str | None:
        """Where Kafka is; all services use the same."""
        return self.kafka or self._kafka_settings().get("kafka")

    def cluster(self) -> Cluster | None:
        """Kafka as a command reaches it, if its address is known; raises Failure for settings that can't be used.

        Its own settings are those of the services with `CDDS_` alone in front. Those that are not set are the first
        service's, but for CDDS_KAFKA_SECURITY, with which all of them are its own.
        """
        settings = self._kafka_settings()
        if not (address := self.kafka or settings.get("kafka")):
            return None
        try:
            return KafkaSettings.model_validate({**settings, "kafka": address}).cluster
        except ValidationError as error:
            problem = error.errors()[0]
            name = "_".join(str(part) for part in problem["loc"]).upper()
            message = problem["msg"].removeprefix("Value error, ")
            raise Failure(f"CDDS_…_{name or 'KAFKA_…'}: {message}") from None

    def _kafka_settings(self) -> dict[str, str]:
        """What is known of Kafka, by the names of KafkaSettings."""
        names = list(KafkaSettings.model_fields)
        own = {name: found for name in names if (found := self.environment.get(f"CDDS_{name.upper()}"))}
        service = next((service for service in STATEFUL if self.setting(service, "kafka")), None)
        if service is None:
            return own
        theirs = {name: found for name in names if (found := self.setting(service, name))}
        return {"kafka": theirs["kafka"], **own} if "kafka_security" in own else {**theirs, **own}

    def url(self, service: str) -> str | None:
        """Where a service answers: as given, as the console reaches it, or where it listens on this machine."""
        if found := self.urls.get(service) or self.setting("console", service):
            return found.rstrip("/")
        if service not in self.configured or (port := self.setting(service, "http_port")) is None:
            return None
        host = self.setting(service, "http_host") or "127.0.0.1"
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
        return f"http://{host}:{port}"

    @contextmanager
    def in_environment(self) -> Generator[None]:
        """Let this process see the settings as the services do, for as long as the block lasts."""
        before = dict(os.environ)
        os.environ.update(self.environment)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def cluster_of(installation: Installation) -> Cluster:
    """Kafka as a command reaches it; raises Failure when nobody says where it is."""
    if (cluster := installation.cluster()) is None:
        raise Failure(
            "no stack is running here and no CDDS_…_KAFKA is set: start one, or give --kafka", Exit.UNREACHABLE
        )
    return cluster


def _environment() -> dict[str, str]:
    try:
        return {**secrets_in_files(), **os.environ}
    except SettingsError as error:
        raise Failure(str(error)) from error


def _prefix(service: str) -> str:
    return f"CDDS_{service.upper()}_"
