"""What a service is told by its pod is what it takes, and its secrets are told by reference."""

import importlib
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from cli.installation import Installation
from shared import starting
from shared.config import ProcessSettings
from tests.deploy.helm.chart import JOBS, SERVICES, Helm, Manifest, Release, container_of
from tests.deploy.panels import ROOT
from tests.job_api.certificates import pem, rsa_key
from tests.shared.settings import SOURCES

# What stands behind the references.
SECRETS = {
    "POSTGRES": "postgresql://cdds:8Xq2nVw0@postgres/cdds?sslmode=verify-full",
    "SOURCE_UCS": "postgresql://reader:8Xq2nVw0@ucs/ucs?sslmode=verify-full",
    "KAFKA_PASSWORD": "8Xq2nVw0",
    "MASKING_KEY": secrets.token_hex(32),
    "AWS_ACCESS_KEY_ID": "AKIA8Q2W",
    "AWS_SECRET_ACCESS_KEY": "8Xq2nVw0",
    "SESSION_KEYS": Fernet.generate_key().decode(),
    "CLIENT_SECRET": "a secret",
}
# Told to libraries rather than to services.
OTHERS = ("AWS_", "OTEL_", "CDDS_SOURCE_", "PGAPPNAME", "CDDS_SECRETS")


@pytest.mark.parametrize("service", SERVICES)
def test_services_start_on_what_their_pods_tell_them(
    service: str, release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no name that they would read over, nothing missing, and no risk but those that are taken."""
    prefix, model = f"CDDS_{service.upper()}_", model_of(service)
    pod = release.pods[service]
    told = environment(pod)
    own = {name for name in told if name.startswith(prefix)}
    assert {name for name in told if not name.startswith(OTHERS)} == own
    assert {name.removeprefix(prefix).lower() for name in own} <= set(model.model_fields)
    inside = "/etc/cdds"
    for name, value in told.items():
        monkeypatch.setenv(name, behind(name) if value is None else value.replace(inside, str(tmp_path)))
    for mount in container_of(pod)["volumeMounts"]:
        if mount["mountPath"].startswith(inside):
            fill(tmp_path / mount["name"], files(pod, mount["mountPath"]))
    read = starting.read(model)
    assert read.unknown == ()
    assert [danger.risk for danger in read.taken] == (
        ["kafka"] if told.get(f"{prefix}KAFKA_SECURITY") == "plaintext" else []
    )
    if service != "console":
        assert read.settings.postgres.get_secret_value() == behind("POSTGRES")


def behind(name: str) -> str:
    """The value that a reference stands for."""
    return next(value for ending, value in SECRETS.items() if name.endswith(ending))


def fill(folder: Path, names: set[str]) -> None:
    """Make the files of a volume as they would be in a cluster."""
    signing = Ed25519PrivateKey.generate()
    contents = {
        "ca.crt": pem(),
        "tls.crt": pem(),
        "tls.key": rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "key.pem": signing.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "token.pem": signing.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "sources.toml": SOURCES.encode(),
    }
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(contents[name] if name in contents else behind(name).encode())


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
            if name == "CDDS_SECRETS":
                assert value is not None
                assert files(pod, value), component
            elif value is not None and value.startswith("/etc/cdds/"):
                path = Path(value)
                assert path.name in files(pod, str(path.parent)), (component, name)


def test_the_console_forwards_to_services_that_are_there(release: Release) -> None:
    ports = {service["metadata"]["name"]: service["spec"]["ports"][0]["port"] for service in release.of("Service")}
    told = environment(release.pods["console"])
    for owner in ("job_api", "exporter", "history"):
        host, _, port = str(told[f"CDDS_CONSOLE_{owner.upper()}"]).removeprefix("http://").partition(":")
        assert host.endswith(owner.replace("_", "-"))
        assert ports[host] == int(port)


@pytest.mark.parametrize("component", [*SERVICES, *JOBS])
def test_the_image_knows_what_pods_ask_of_it(component: str, everything: Release) -> None:
    arguments = container_of(everything.pods[component])["args"]
    if component in SERVICES:
        assert arguments == [component]
        return
    done = subprocess.run(
        [sys.executable, "-m", "deploy.image", *arguments, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("values", ["everything", "external"])
def test_jobs_find_what_they_work_on(values: str, helm: Helm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pods = helm.release(values).pods
    stateful = set(SERVICES) - {"console"}

    def found(job: str) -> Installation:
        with monkeypatch.context() as patch:
            folder = tmp_path / job
            folder.mkdir()
            for name, value in environment(pods[job]).items():
                patch.setenv(
                    name, str(folder) if name == "CDDS_SECRETS" else "behind a reference" if value is None else value
                )
            if "CDDS_SECRETS" in environment(pods[job]):
                for file in files(pods[job], "/etc/cdds/secrets"):
                    (folder / file).write_text("behind a reference")
            return Installation.find()

    migrations = found("migrations")
    assert {service for service in SERVICES if migrations.dsn(service) == "behind a reference"} == stateful
    topics = found("topics")
    assert topics.bootstrap == "kafka:9093"
    assert (topics.setting("job_api", "kafka_partitions"), topics.setting("job_api", "kafka_replication")) == ("6", "3")


@pytest.mark.parametrize("service", SERVICES)
def test_commands_in_a_pod_see_its_service_and_no_other(
    service: str, everything: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image sets the ports of all services, for whichever it becomes."""
    of_the_image = re.findall(r"\b(CDDS_\w+_HTTP_\w+)=(\S+)", (ROOT / "Dockerfile").read_text())
    for name, value in (*of_the_image, *environment(everything.pods[service]).items()):
        monkeypatch.setenv(name, "x" if value is None else value)
    installation = Installation.find()
    assert installation.configured == [service]
    forwarded = {"job_api", "exporter", "history"} if service == "console" else set()
    assert {name for name in SERVICES if installation.url(name)} == {service} | forwarded


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
