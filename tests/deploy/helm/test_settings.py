"""What a service is told by its pod is what it takes, and its secrets are told by reference."""

import importlib
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from shared.config import ProcessSettings
from tests.deploy.helm.chart import SERVICES, Helm, Manifest, Release, container_of

# What stands behind the references.
SECRETS = {
    "POSTGRES": "postgresql://cdds:secret@postgres/cdds?sslmode=verify-full",
    "KAFKA_PASSWORD": "a password",
    "MASKING_KEY": "5" * 32,
    "SESSION_KEYS": Fernet.generate_key().decode(),
    "CLIENT_SECRET": "a secret",
}
# Told to libraries rather than to services.
OTHERS = ("AWS_", "OTEL_", "CDDS_SOURCE_", "PGAPPNAME", "CDDS_SECRETS")


@pytest.mark.parametrize("service", SERVICES)
def test_services_take_what_their_pods_tell_them(
    service: str, release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, model = f"CDDS_{service.upper()}_", model_of(service)
    told = environment(release.pods[service])
    own = {name for name in told if name.startswith(prefix)}
    assert {name for name in told if not name.startswith(OTHERS)} == own
    assert {name.removeprefix(prefix).lower() for name in own} <= set(model.model_fields), "a service would not notice"
    for name, value in told.items():
        monkeypatch.setenv(name, SECRETS.get(name.removeprefix(prefix), "x") if value is None else value)
    if "CDDS_SECRETS" in told:
        for file in files(release.pods[service], "/etc/cdds/secrets"):
            (tmp_path / file).write_text(SECRETS[file.removeprefix(prefix)])
        monkeypatch.setenv("CDDS_SECRETS", str(tmp_path))
    settings = model()
    assert settings.http_host == "0.0.0.0"
    for field in secret_fields(model) - {"masking_key", "client_secret", "kafka_password"}:
        assert isinstance(getattr(settings, field), SecretStr), "it was found"


def test_secrets_are_told_by_reference(release: Release) -> None:
    assert not list(release.of("Secret"))
    for component, pod in release.pods.items():
        # Jobs read settings of services.
        hidden = {
            f"CDDS_{service.upper()}_{field.upper()}"
            for service in SERVICES
            for field in secret_fields(model_of(service))
        } | {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
        for variable in container_of(pod)["env"]:
            if variable["name"] in hidden or variable["name"].startswith("CDDS_SOURCE_"):
                assert variable["valueFrom"]["secretKeyRef"]["name"], (component, variable)
                assert variable["valueFrom"]["secretKeyRef"]["key"], (component, variable)
                assert "value" not in variable


def test_each_service_is_told_its_own_secrets_only(helm: Helm) -> None:
    """What a service could give away is what it works with."""
    pods = helm.release("everything").pods
    told = {
        component: {name for name, value in environment(pods[component]).items() if value is None} for component in pods
    }
    assert told == {
        "job_api": {"CDDS_JOB_API_POSTGRES", "CDDS_JOB_API_KAFKA_PASSWORD"},
        "scheduler": {"CDDS_SCHEDULER_POSTGRES", "CDDS_SCHEDULER_KAFKA_PASSWORD"},
        "exporter": {
            "CDDS_EXPORTER_POSTGRES",
            "CDDS_EXPORTER_KAFKA_PASSWORD",
            "CDDS_EXPORTER_MASKING_KEY",
            "CDDS_SOURCE_UCS",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
        },
        "history": {"CDDS_HISTORY_POSTGRES", "CDDS_HISTORY_KAFKA_PASSWORD"},
        "console": {"CDDS_CONSOLE_SESSION_KEYS", "CDDS_CONSOLE_CLIENT_SECRET"},
        "migrations": {f"CDDS_{service.upper()}_POSTGRES" for service in SERVICES if service != "console"},
        "topics": {"CDDS_JOB_API_KAFKA_PASSWORD"},
    }


def test_secrets_can_be_files_instead(helm: Helm) -> None:
    pods = helm.release("everything", "secretsAsFiles=true").pods
    for service in SERVICES:
        variables = {name for name, value in environment(pods[service]).items() if value is None}
        assert variables <= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert files(pods["exporter"], "/etc/cdds/secrets") == {
        "CDDS_EXPORTER_POSTGRES", "CDDS_EXPORTER_KAFKA_PASSWORD", "CDDS_EXPORTER_MASKING_KEY",
    }  # fmt: skip
    assert files(pods["exporter"], "/etc/cdds/dsns") == {"CDDS_SOURCE_UCS"}


def test_files_that_are_named_are_mounted(release: Release) -> None:
    for component, pod in release.pods.items():
        for name, value in environment(pod).items():
            if value is not None and value.startswith("/etc/cdds/") and name != "CDDS_SECRETS":
                path = Path(value)
                assert path.name in files(pod, str(path.parent)), (component, name)


def test_the_console_forwards_to_services_that_are_there(release: Release) -> None:
    ports = {service["metadata"]["name"]: service["spec"]["ports"][0]["port"] for service in release.of("Service")}
    told = environment(release.pods["console"])
    for owner in ("job_api", "exporter", "history"):
        host, _, port = str(told[f"CDDS_CONSOLE_{owner.upper()}"]).removeprefix("http://").partition(":")
        assert host.endswith(owner.replace("_", "-"))
        assert ports[host] == int(port)


def test_settings_are_told_as_variables_have_them(everything: Release) -> None:
    assert environment(everything.pods["exporter"])["CDDS_EXPORTER_RETENTION_BY_TENANT"] == '{"acme":"P90D"}'
    assert environment(everything.pods["history"])["CDDS_HISTORY_STREAM_READERS"] == "5000000"
    assert environment(everything.pods["job_api"])["CDDS_JOB_API_INSECURE"] == "postgres"


def model_of(service: str) -> type[ProcessSettings]:
    return importlib.import_module(f"services.{service}.config").Settings


def secret_fields(model: type[ProcessSettings]) -> set[str]:
    return {name for name, field in model.model_fields.items() if "SecretStr" in str(field.annotation)}


def environment(pod: Manifest) -> dict[str, str | None]:
    """The variables of a pod's container; None where the value comes from a Secret."""
    variables = container_of(pod)["env"]
    names = [variable["name"] for variable in variables]
    assert len(names) == len(set(names)), names
    return {variable["name"]: variable.get("value") for variable in variables}


def files(pod: Manifest, folder: str) -> set[str]:
    """The files that are mounted in a folder."""
    [mount] = [each for each in container_of(pod)["volumeMounts"] if each["mountPath"] == folder]
    [volume] = [each for each in pod["spec"]["volumes"] if each["name"] == mount["name"]]
    assert mount["readOnly"] is True
    if "projected" in volume:
        return {item["path"] for source in volume["projected"]["sources"] for item in source["secret"]["items"]}
    source = volume.get("secret") or volume["configMap"]
    if "items" not in source:
        return {"sources.toml"}  # a ConfigMap of the chart, with this key
    return {item["path"] for item in source["items"]}
