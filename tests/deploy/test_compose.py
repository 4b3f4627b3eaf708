"""What the compose file promises, read from it: safe, pinned, and settings that the services take. No engine needed."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import load_pem_public_key

import services.console.config
import services.exporter.config
import services.history.config
import services.job_api.config
import services.scheduler.config
from deploy.compose import secrets
from deploy.local.kafka import kafka_version
from deploy.local.secrets import private_key
from deploy.local.stack import SERVICES
from shared import starting
from shared.config import AuthSettings
from shared.sources import Sources
from tests.deploy.panels import ROOT, read_yaml

SETTINGS: dict[str, type[AuthSettings]] = {
    "job_api": services.job_api.config.Settings,
    "scheduler": services.scheduler.config.Settings,
    "exporter": services.exporter.config.Settings,
    "history": services.history.config.Settings,
    "console": services.console.config.Settings,
}
COMPOSE: dict[str, Any] = read_yaml("compose.yaml")
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN = {name: container for name, container in CONTAINERS.items() if "build" in container}
OFFICIAL = {name: container["image"] for name, container in CONTAINERS.items() if name not in OWN}


def named(service: str) -> dict[str, Any]:
    """The container of a service, called as a host may be called."""
    return CONTAINERS[service.replace("_", "-")]


@pytest.fixture(scope="session")
def dealt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of secrets, as the first start makes them."""
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    secrets.main(folder)
    return folder


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing of this machine's own settings."""

    for name in [name for name in os.environ if name.startswith("CDDS_")]:
        monkeypatch.delenv(name)
    return monkeypatch


def seen(value: object, dealt: Path, folder: str) -> str:
    """A setting as it is outside of the container."""
    text = str(value).replace("/run/secrets", str(dealt / folder))
    return text.replace("/etc/cdds/sources.toml", str(ROOT / "deploy/local/sources.toml"))


def of_image() -> dict[str, str]:
    """The settings that the Dockerfile gives to every service."""
    return dict(re.findall(r"(CDDS_\w+_HTTP_\w+)=(\S+)", (ROOT / "Dockerfile").read_text()))


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_takes_its_settings(service: str, dealt: Path, environment: pytest.MonkeyPatch) -> None:
    container = named(service)
    assert container["command"] == [service]
    for name, value in {**of_image(), **container["environment"]}.items():
        environment.setenv(name, seen(value, dealt, service))
    read = starting.read(SETTINGS[service])
    settings = read.settings
    assert read.unknown == ()
    # It says itself which risks it takes, and those that it does not take it does not name.
    assert {danger.risk for danger in read.taken} == settings.insecure
    assert (settings.http_host, settings.http_port) == ("0.0.0.0", 8000)
    assert settings.auth_public_key is not None
    load_pem_public_key(settings.auth_public_key.read_bytes())
    [mounted] = [mount for mount in container["volumes"] if mount["target"] == "/run/secrets"]
    assert (mounted["source"], mounted["volume"], mounted["read_only"]) == (
        "secrets", {"subpath": f"secrets/{service}"}, True,
    )  # fmt: skip


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_refuses_to_start_when_nobody_takes_its_risks(
    service: str, dealt: Path, environment: pytest.MonkeyPatch
) -> None:
    for name, value in {**of_image(), **named(service)["environment"]}.items():
        if not name.endswith("_INSECURE"):
            environment.setenv(name, seen(value, dealt, service))
    with pytest.raises(starting.Unusable, match="_INSECURE"):
        starting.read(SETTINGS[service])


def test_sources_are_found_by_their_references(dealt: Path, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CDDS_SECRETS", str(dealt / "exporter"))
    for source in Sources.load(ROOT / "deploy/local/sources.toml").sources.values():
        assert source.resolve_dsn().startswith("postgresql://cdds_reader:")


def test_secrets_are_made_once_and_mended(dealt: Path) -> None:
    before = {path: path.read_bytes() for path in dealt.rglob("*") if path.is_file()}
    (dealt / "exporter" / "CDDS_EXPORTER_POSTGRES").unlink()
    secrets.main(dealt)
    assert {path: path.read_bytes() for path in dealt.rglob("*") if path.is_file()} == before


def test_no_two_installations_share_a_secret(dealt: Path, tmp_path: Path) -> None:
    secrets.main(tmp_path)
    for path in (dealt / "masters").iterdir():
        other = tmp_path / "masters" / path.name
        assert path.read_bytes() != other.read_bytes()
        assert len(path.read_bytes()) >= 20


def test_everybody_sees_their_own_secrets_only(dealt: Path) -> None:
    for service in SERVICES:
        names = {path.name for path in (dealt / service).iterdir()}
        others = {f"CDDS_{name.upper()}_" for name in SERVICES if name != service}
        assert not [name for name in names if name.startswith(tuple(others))]
        assert "token-key.pem" not in names
        assert not [path for path in (dealt / service).iterdir() if "_owner:" in path.read_text()]
        assert all(path.stat().st_mode & 0o077 == 0 for path in (dealt / service).iterdir())
    assert "manifest-key.pem" in {path.name for path in (dealt / "exporter").iterdir()}
    private_key(dealt / "operator" / "token-key.pem")


def strings(node: Any) -> Iterator[tuple[str, str]]:
    """Every name in the file with its text."""
    if isinstance(node, dict):
        for name, value in node.items():  # pyright: ignore[reportUnknownVariableType]
            if isinstance(value, dict | list):
                yield from strings(value)
            else:
                yield str(name), str(value)  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(node, list):
        for value in node:  # pyright: ignore[reportUnknownVariableType]
            yield from strings(value) if isinstance(value, dict | list) else iter([("", str(value))])  # pyright: ignore[reportUnknownArgumentType]


def test_no_secret_is_written_down() -> None:
    for name, value in strings(CONTAINERS):
        if re.search(r"PASSWORD|SECRET|(^|_)KEYS?(_|$)|TOKEN", name, re.IGNORECASE) and name != "CDDS_TOKEN_ISSUER":
            assert value.startswith("/run/secrets"), (name, value)
        assert not re.search(r"://[^/\s]*:[^/\s]*@", value), value


def test_only_this_machine_reaches_a_port() -> None:
    published = [port for container in CONTAINERS.values() for port in container.get("ports", [])]
    assert len(published) == 3
    for port in published:
        assert re.fullmatch(r"127\.0\.0\.1:\$\{\w+_PORT:-\d+\}:\d+", port), port
    assert not [name for name, container in CONTAINERS.items() if container.get("network_mode") == "host"]


def test_images_of_others_are_pinned_to_a_version() -> None:
    for image in OFFICIAL.values():
        assert re.fullmatch(r"[a-z]+(/[a-z]+)?:v?\d+\.\d+(\.\d+)?", image), image
    assert OFFICIAL["kafka"] == f"apache/kafka:{kafka_version()}"
    assert OFFICIAL["roles"] == OFFICIAL["postgres"]


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_can_do_no_more_than_it_must(name: str) -> None:
    container = CONTAINERS[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["mem_limit"]
    assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & set(container)
    assert "docker.sock" not in yaml.safe_dump(container)


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_is_watched_or_ends(name: str) -> None:
    container = CONTAINERS[name]
    waited_for = [
        needs[name]["condition"] for other in CONTAINERS.values() if name in (needs := other.get("depends_on", {}))
    ]
    if container["restart"] == "unless-stopped":
        assert container["healthcheck"]["test"]
        assert set(waited_for) <= {"service_healthy"}
    else:
        # `up --wait` takes the end of a container for a failure unless somebody depends on it.
        assert set(waited_for) == {"service_completed_successfully"} or container["profiles"]


def test_what_is_kept_is_in_named_volumes() -> None:
    assert set(COMPOSE["volumes"]) == {"secrets", "postgres", "kafka", "objects", "prometheus", "grafana"}
    for container in CONTAINERS.values():
        for mount in container.get("volumes", []):
            if isinstance(mount, str):
                assert mount.partition(":")[0] in COMPOSE["volumes"]
            elif mount["type"] == "bind":
                assert mount["read_only"] is True
                source = re.sub(r"\$\{\w+:-(.*)\}", r"\1", mount["source"])
                assert (ROOT / "deploy" / source).exists(), source


def test_prometheus_asks_every_service() -> None:
    [job] = read_yaml("prometheus", "prometheus.yaml")["scrape_configs"]
    targets = {each["labels"]["service"]: each["targets"] for each in job["static_configs"]}
    assert targets == {service: [f"{service.replace('_', '-')}:8000"] for service in SERVICES}
    assert all(service.replace("_", "-") in CONTAINERS for service in SERVICES)


def test_an_exporter_gets_the_time_that_it_lets_its_runs_end_in() -> None:
    grace = SETTINGS["exporter"].model_fields["grace"].default
    assert int(CONTAINERS["exporter"]["stop_grace_period"].removesuffix("s")) > grace.total_seconds()


def test_grafana_is_given_what_its_provisioning_asks_for() -> None:
    container = CONTAINERS["grafana"]
    asked = set(re.findall(r"\$(CDDS_\w+)", "".join(p.read_text() for p in (ROOT / "deploy/grafana").rglob("*.yaml"))))
    exported = set(re.findall(r"export (CDDS_\w+)=", container["entrypoint"][-1]))
    assert asked == {name for name in container["environment"] if name.startswith("CDDS_")} | exported
    assert container["environment"]["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
