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
from pydantic_settings import SettingsError

from cli.console import Exit, Failure
from deploy.local.secrets import Secrets
from deploy.local.stack import SERVICES, running
from shared.config import secrets_in_files

STATEFUL: Final = ("job_api", "scheduler", "exporter", "history")
"""The services with a schema and a consumer group; both are named like the service."""
_TELLING: Final = ("HTTP_PORT", "POSTGRES", "KAFKA")
"""A service is configured here when one of these is; Grafana's variables begin with the same prefix."""

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
        if data is None and any(_prefix(name) + telling in environment for name in SERVICES for telling in _TELLING):
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
        return self.kafka or next((found for name in STATEFUL if (found := self.setting(name, "kafka"))), None)

    def url(self, service: str) -> str | None:
        """Where a service answers: as given, as the console reaches it, or where it listens on this machine."""
        if found := self.urls.get(service) or self.setting("console", service):
            return found.rstrip("/")
        if (port := self.setting(service, "http_port")) is None:
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


def kafka_of(installation: Installation) -> str:
    """The bootstrap address; raises Failure when there is none."""
    if (address := installation.bootstrap) is None:
        raise Failure(
            "no stack is running here and no CDDS_…_KAFKA is set: start one, or give --kafka", Exit.UNREACHABLE
        )
    return address


def _environment() -> dict[str, str]:
    try:
        return {**secrets_in_files(), **os.environ}
    except SettingsError as error:
        raise Failure(str(error)) from error


def _prefix(service: str) -> str:
    return f"CDDS_{service.upper()}_"
