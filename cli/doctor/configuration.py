"""The services' settings: complete, the same where they have to be, and fit for others than their author."""

import difflib
import ipaddress
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from pydantic import ValidationError
from pydantic_settings import SettingsError

from cli.doctor.findings import Finding, failed, ok, warning
from cli.installation import STATEFUL, Installation
from deploy.local.secrets import ISSUER
from shared.config import ProcessSettings, ServiceSettings
from shared.sources import Sources, SourcesInvalid

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
        except ValidationError as error:
            findings.extend(_problems(service, error))
            return None
        except SettingsError as error:
            message = str(error).replace('"', "").removesuffix(" from source EnvSettingsSource")
            findings.append(failed(CHECK, service, message, "write this setting as JSON"))
            return None
        findings.extend(_misspelt(installation, service, model))
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
    faulty = {finding.about for finding in settings.findings}
    for service in settings.services:
        if service not in faulty:
            yield ok(CHECK, service, "the settings are complete")
    yield from _disagreements(settings)
    yield from _token_keys(settings)
    if settings.exporter is not None:
        yield from _exporter_files(settings.exporter)
    if not installation.is_local:
        yield from _insecure(settings)


def _problems(service: str, error: ValidationError) -> Iterator[Finding]:
    for problem in error.errors():
        name = "_".join(str(part) for part in problem["loc"]).upper()
        variable = f"CDDS_{service.upper()}_{name}" if name else f"CDDS_{service.upper()}_…"
        message = "is not set" if problem["type"] == "missing" else problem["msg"].removeprefix("Value error, ")
        yield failed(CHECK, service, f"{variable}: {message}", f"set {variable} for {service}, then start it again")


def _misspelt(installation: Installation, service: str, model: type[ProcessSettings]) -> Iterator[Finding]:
    """Variables that look like settings and are none: a service reads over them without a word."""
    prefix = f"CDDS_{service.upper()}_"
    known = {prefix + name.upper() for name in model.model_fields}
    for name in sorted(installation.environment):
        if name.upper().startswith(prefix) and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, 1)
            remedy = f"{near[0]} may be meant" if near else "remove it"
            yield warning(CHECK, service, f"{name} is no setting of {service} and does nothing", remedy)


def _disagreements(settings: Read) -> Iterator[Finding]:
    for name in _SHARED:
        said = {
            service: str(getattr(known, name)) for service, known in settings.services.items() if hasattr(known, name)
        }
        if len(set(said.values())) > 1:
            sides = ", ".join(f"{service}: {value}" for service, value in said.items())
            yield warning(CHECK, name.upper(), f"services disagree ({sides})", "give all services the same value")


def _token_keys(settings: Read) -> Iterator[Finding]:
    for service in STATEFUL:
        known = settings.services.get(service)
        if not isinstance(known, ServiceSettings) or known.auth_public_key is None:
            continue
        name = f"CDDS_{service.upper()}_AUTH_PUBLIC_KEY"
        try:
            load_pem_public_key(known.auth_public_key.read_bytes())
        except OSError as error:
            yield failed(CHECK, service, f"{name}: {error.strerror}: {known.auth_public_key}", f"set {name} to a file")
        except ValueError:
            remedy = "put the public key that tokens are signed for there, as PEM"
            yield failed(CHECK, service, f"{name}: {known.auth_public_key} is no public key", remedy)


def _exporter_files(exporter: "ExporterSettings") -> Iterator[Finding]:
    try:
        Sources.load(exporter.sources)
    except SourcesInvalid as error:
        yield failed(CHECK, "exporter", f"CDDS_EXPORTER_SOURCES: {_first_line(error)}", "correct the file of sources")
    name = "CDDS_EXPORTER_SIGNING_KEY"
    try:
        key = load_pem_private_key(exporter.signing_key.read_bytes(), password=None)
    except OSError as error:
        yield failed(CHECK, "exporter", f"{name}: {error.strerror}: {exporter.signing_key}", f"set {name} to a file")
    except (ValueError, TypeError):
        yield failed(CHECK, "exporter", f"{name}: the file is no unencrypted private key", _MAKE_KEY)
    else:
        if not isinstance(key, Ed25519PrivateKey):
            yield failed(CHECK, "exporter", f"{name}: the key is not of the kind Ed25519", _MAKE_KEY)
        elif exporter.signing_key.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            yield warning(
                CHECK, "exporter", f"{name}: other accounts of this machine may read the key that signs manifests",
                f"chmod 600 {exporter.signing_key}",
            )  # fmt: skip
    if exporter.masking_key is None:
        yield warning(
            CHECK, "exporter", "CDDS_EXPORTER_MASKING_KEY is not set: runs that hash fields fail",
            "set it to a secret of at least 32 characters, and keep it: other keys give other hashes",
        )  # fmt: skip


_MAKE_KEY: Final = "make one with `openssl genpkey -algorithm ed25519`"


def _insecure(settings: Read) -> Iterator[Finding]:
    """What is fine on one's own machine and nowhere else."""
    for service, known in settings.services.items():
        if not isinstance(known, ServiceSettings):
            continue
        if known.auth_issuer == ISSUER:
            yield warning(
                CHECK, service, f"CDDS_{service.upper()}_AUTH_ISSUER is {ISSUER}, whose key `cdds up` made",
                "set it to the issuer of your identity provider",
            )  # fmt: skip
        if known.auth_jwks_url is not None and _is_open(known.auth_jwks_url):
            yield warning(
                CHECK, service, f"CDDS_{service.upper()}_AUTH_JWKS_URL is fetched without TLS",
                "use https: whoever can change the answer can make tokens",
            )  # fmt: skip
        if _is_unencrypted(known.postgres.get_secret_value()):
            yield warning(
                CHECK, service, f"CDDS_{service.upper()}_POSTGRES may be spoken to without TLS",
                "add sslmode=verify-full to the DSN",
            )  # fmt: skip
        if known.kafka_replication == 1:
            yield warning(
                CHECK, service, f"CDDS_{service.upper()}_KAFKA_REPLICATION is 1: topics are lost with their broker",
                "set it to 3 on a cluster; `cdds republish` refills a broker that lost its topics",
            )  # fmt: skip
    exporter = settings.exporter
    if exporter is not None and _is_open(exporter.object_options.get("endpoint", "")):
        yield warning(
            CHECK, "exporter", "CDDS_EXPORTER_OBJECT_OPTIONS names an endpoint without TLS", "use https for the store"
        )


def _is_open(url: str) -> bool:
    """Whether what is fetched there can be read and changed on its way."""
    return urlsplit(url).scheme == "http" and not _is_here(urlsplit(url).hostname)


def _is_unencrypted(dsn: str) -> bool:
    try:
        parts = urlsplit(dsn)
        modes = parse_qs(parts.query).get("sslmode", ["prefer"])
        return not _is_here(parts.hostname) and modes[-1] in ("disable", "allow", "prefer")
    except ValueError:
        return False


def _is_here(host: str | None) -> bool:
    if host is None or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
