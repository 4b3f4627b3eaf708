"""The services' settings: complete, the same where they have to be, and fit for others than their author."""

import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import ValidationError
from pydantic_settings import SettingsError

from cli.doctor.findings import Finding, Status, failed, ok, warning
from cli.installation import Installation
from shared.config import ProcessSettings, ServiceSettings
from shared.safety import Fault
from shared.starting import in_full, misspelt, unknown, unreadable, variable

if TYPE_CHECKING:
    from services.exporter.config import Settings as ExporterSettings

S = TypeVar("S", bound=ProcessSettings)

CHECK: Final = "configuration"
_SHARED: Final = ("kafka", "kafka_partitions", "kafka_replication", "auth_issuer", "auth_audience", "sources")
"""Settings that all services that have them should agree on."""


@dataclass(frozen=True, slots=True)
class Read:
    """The settings that could be read, and what is wrong with the others."""

    services: Mapping[str, ProcessSettings] = field(default_factory=dict[str, ProcessSettings])
    exporter: "ExporterSettings | None" = None
    findings: tuple[Finding, ...] = ()

    @property
    def faulty(self) -> set[str]:
        """The services that can't start on their settings."""
        return {finding.about for finding in self.findings if finding.status == Status.FAILED}


def read(installation: Installation) -> Read:
    """Read the settings of the configured services, as they do themselves; needs `installation.in_environment()`."""
    from services.console.config import Settings as Console
    from services.exporter.config import Settings as Exporter
    from services.history.config import Settings as History
    from services.job_api.config import Settings as JobApi
    from services.scheduler.config import Settings as Scheduler

    findings: list[Finding] = []
    found: dict[str, ProcessSettings] = {}

    def one(service: str, model: type[S]) -> S | None:
        if service not in installation.configured:
            return None
        try:
            settings = model()  # pyright: ignore[reportCallIssue] - the values come from the environment
        except (ValidationError, SettingsError) as error:
            findings.extend(_fault(service, fault, model) for fault in [*misspelt(model), *unreadable(error)])
            return None
        faults = [*misspelt(model), *settings.unusable()]
        findings.extend(_fault(service, fault, model) for fault in faults)
        findings.extend(
            warning(CHECK, service, f"{name} is no setting of {service} and does nothing", "remove it")
            for name in unknown(model)
        )
        found[service] = settings
        return settings

    one("job_api", JobApi)
    one("scheduler", Scheduler)
    exporter = one("exporter", Exporter)
    one("history", History)
    one("console", Console)
    return Read(found, exporter, tuple(findings))


def check(installation: Installation, settings: Read) -> Iterator[Finding]:
    """Everything that can be said about the settings without asking anybody."""
    if not installation.configured:
        yield warning(
            CHECK, "settings", "no settings are known here, so files, sources and the object store are not checked",
            "run it where the CDDS_… variables of the services are set, or give --data",
        )  # fmt: skip
    yield from settings.findings
    for service in settings.services:
        if service not in settings.faulty:
            yield ok(CHECK, service, "the settings are complete")
    yield from _disagreements(settings)
    if settings.exporter is not None:
        yield from _of_exporter(settings.exporter)
    yield from _unsafe(settings)


def _fault(service: str, fault: Fault, model: type[ProcessSettings]) -> Finding:
    name, message, remedy = (in_full(part, model) for part in (fault.setting, fault.message, fault.remedy))
    about = f"{variable(name, model)}: {message}" if name else message
    return failed(CHECK, service, about, remedy or f"correct it for {service}, then start it again")


def _disagreements(settings: Read) -> Iterator[Finding]:
    for name in _SHARED:
        said = {
            service: str(getattr(known, name)) for service, known in settings.services.items() if hasattr(known, name)
        }
        if len(set(said.values())) > 1:
            sides = ", ".join(f"{service}: {value}" for service, value in said.items())
            yield warning(CHECK, name.upper(), f"services disagree ({sides})", "give all services the same value")


def _of_exporter(exporter: "ExporterSettings") -> Iterator[Finding]:
    name = "CDDS_EXPORTER_SIGNING_KEY"
    with suppress(OSError):
        if exporter.signing_key.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            yield warning(
                CHECK, "exporter", f"{name}: other accounts of this machine may read the key that signs manifests",
                f"chmod 600 {exporter.signing_key}",
            )  # fmt: skip
    if exporter.masking_key is None:
        yield warning(
            CHECK, "exporter", "CDDS_EXPORTER_MASKING_KEY is not set: runs that hash fields fail",
            "set it to a secret of at least 32 characters, and keep it: other keys give other hashes",
        )  # fmt: skip


def _unsafe(settings: Read) -> Iterator[Finding]:
    """What is fine on one's own machine and nowhere else."""
    for service, known in settings.services.items():
        for danger in known.unsafe() if service not in settings.faulty else ():
            said = f"{variable(danger.setting, type(known))} {danger.message}"
            if danger.risk in known.insecure:
                yield warning(
                    CHECK, service, f"{said}, which {variable('insecure', type(known))} allows", danger.remedy
                )
            else:
                yield failed(CHECK, service, f"{said}: it does not start", in_full(danger.remedy, type(known)))
        if isinstance(known, ServiceSettings) and not known.local and known.kafka_replication == 1:
            yield warning(
                CHECK, service, f"CDDS_{service.upper()}_KAFKA_REPLICATION is 1: topics are lost with their broker",
                "set it to 3 on a cluster; `cdds republish` refills a broker that lost its topics",
            )  # fmt: skip
