"""What no service starts with, and what it says then: a sentence with the variable, on no account what it holds."""

import asyncio
import difflib
import importlib
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from deploy.local.processes import free_port
from shared import runtime, starting
from shared.config import ProcessSettings
from tests.shared.settings import PASSWORD, SERVICES, good, variable
from tests.system.driver import eventually

WITH_SOURCES = ("job_api", "scheduler", "exporter")
STATEFUL = (*WITH_SOURCES, "history")


def model_of(service: str) -> type[ProcessSettings]:
    return importlib.import_module(f"services.{service}.config").Settings


class Refused:
    """Starts a service on settings it must not start with; gives its lines."""

    def __init__(self, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._patch = patch
        self._capsys = capsys

    def __call__(self, service: str, environment: Mapping[str, str]) -> list[str]:
        for name in [name for name in os.environ if name.startswith("CDDS_")]:
            self._patch.delenv(name)
        for name, value in environment.items():
            self._patch.setenv(name, value)

        async def never(_: object) -> None:
            raise AssertionError("it started")

        with pytest.raises(SystemExit) as ended:
            runtime.main(service, model_of(service), never)
        said = self._capsys.readouterr()
        assert ended.value.code == 2, said
        assert "Traceback" not in said.err
        assert PASSWORD not in said.err + said.out
        lines = said.err.splitlines()
        assert all(line.startswith(f"{service}: ") and len(line) < 600 for line in lines)
        return lines


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    return Refused(monkeypatch, capsys)


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_that_is_missing_is_named(service: str, refused: Refused) -> None:
    required = [name for name, field in model_of(service).model_fields.items() if field.is_required()]
    assert refused(service, {}) == [
        f"{service}: {variable(service, name)}: is not set; set it for this service"
        for name in sorted(required, key=list(model_of(service).model_fields).index)
    ]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("http_port", "many", "input should be a valid integer"),
        ("log_level", "loud", "input should be 'debug', 'info', 'warning' or 'error'"),
        ("insecure", "kafka,everything", "1: input should be 'issuer', 'identity',"),
        ("auth_public_key", "/nowhere/key.pem", "No such file or directory: /nowhere/key.pem; name a file"),
        ("auth_jwks_url", "https://id.example/keys", "set exactly one of CDDS_"),
        ("local", "true", "is for `cdds up`, but CDDS_"),
        ("http_prot", "1", "is no setting; CDDS_"),
    ],
)
def test_a_setting_that_can_not_be_used_is_named(
    service: str, setting: str, value: str, said: str, refused: Refused, tmp_path: Path
) -> None:
    given = {setting: value, "http_host": "0.0.0.0", "public_url": "https://x" if service == "console" else None}
    [line] = refused(service, good(service, tmp_path, **given))
    assert variable(service, setting) in line
    assert said in line


@pytest.mark.parametrize("service", STATEFUL)
@pytest.mark.parametrize(
    "dsn", [PASSWORD, f"http://cdds:{PASSWORD}@db/cdds", f"postgresql://cdds:{PASSWORD}@db:x/cdds"]
)
def test_a_dsn_that_is_none_is_not_shown(service: str, dsn: str, refused: Refused, tmp_path: Path) -> None:
    [line] = refused(service, good(service, tmp_path, postgres=dsn))
    assert line.startswith(f"{service}: {variable(service, 'postgres')}: is no DSN of PostgreSQL; write postgresql://")


@pytest.mark.parametrize("service", WITH_SOURCES)
@pytest.mark.parametrize("content", [None, "sources = 3", "[sources.ucs]\ntitle = 'UCS'", "\0"])
def test_sources_that_are_none_are_named(service: str, content: str | None, refused: Refused, tmp_path: Path) -> None:
    environment = good(service, tmp_path)
    if content is None:
        (tmp_path / "sources.toml").unlink()
    else:
        (tmp_path / "sources.toml").write_text(content)
    [line] = refused(service, environment)
    assert line.startswith(f"{service}: {variable(service, 'sources')}: {tmp_path / 'sources.toml'}: ")
    assert line.endswith("; correct the file of sources")


@pytest.mark.parametrize(
    ("service", "setting"), [("exporter", "object_options"), ("exporter", "retention_by_tenant"),
                             ("console", "authorize_parameters")],
)  # fmt: skip
def test_what_is_not_json_is_named(service: str, setting: str, refused: Refused, tmp_path: Path) -> None:
    environment = good(service, tmp_path, **{setting: f'{{"secret_access_key": "{PASSWORD}"'})
    [line] = refused(service, environment)
    assert line.startswith(f"{service}: {variable(service, setting)}: is not JSON; write it as JSON")


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("signing_key", "missing.pem", "No such file or directory"),
        ("signing_key", "key.pub.pem", "is no unencrypted private key; make one with `openssl genpkey"),
        ("signing_key", "sources.toml", "is no unencrypted private key"),
        ("signing_key", "rsa.pem", "is not of the kind Ed25519"),
        ("signing_key", ".", "Is a directory"),
        ("auth_public_key", "key.pem", "is no public key"),
        ("auth_public_key", "weak.pub.pem", "has 1024 bits"),
        ("objects", "sources.toml", "is no folder that the service can write to"),
    ],
)
def test_a_file_of_the_wrong_kind_is_named(
    setting: str, value: str, said: str, refused: Refused, tmp_path: Path
) -> None:
    weak = rsa.generate_private_key(65537, 1024)
    public = weak.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "weak.pub.pem").write_bytes(public)
    (tmp_path / "rsa.pem").write_bytes(weak.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    [line] = refused("exporter", good("exporter", tmp_path, **{setting: str(tmp_path / value)}))
    assert line.startswith(f"exporter: {variable('exporter', setting)}: ")
    assert said in line


@pytest.mark.parametrize("location", ["ftp://nowhere/x", "s3://", "://"])
def test_a_store_that_is_none_is_named(location: str, refused: Refused, tmp_path: Path) -> None:
    [line] = refused("exporter", good("exporter", tmp_path, objects=location))
    assert line.startswith("exporter: CDDS_EXPORTER_OBJECTS: ")


@pytest.mark.parametrize(
    ("service", "setting", "value", "said"),
    [
        ("exporter", "masking_key", "short", "at least 32 items"),
        ("exporter", "masking_key", "m" * 32, "is not random"),
        ("exporter", "masking_key", "Please-change-me-before-production!", "is not random"),
        ("exporter", "retention_by_tenant", '{"acme": "P9000D"}', "acme: input should be less than or equal"),
        ("exporter", "beat", "PT20S", "set CDDS_EXPORTER_BEAT to at most a third of CDDS_EXPORTER_LEASE"),
        ("console", "session_keys", "A" * 43 + "=", "has a key that is not random"),
        ("console", "session_keys", PASSWORD, "must be Fernet keys"),
        ("console", "client_id", "cdds", "CDDS_CONSOLE_CLIENT_ID needs CDDS_CONSOLE_CLIENT_SECRET"),
    ],
)
def test_a_secret_or_a_choice_that_makes_no_sense_is_named(
    service: str, setting: str, value: str, said: str, refused: Refused, tmp_path: Path
) -> None:
    [line] = refused(service, good(service, tmp_path, **{setting: value}))
    assert variable(service, setting) in line
    assert said in line
    assert value not in line or len(value) < 8


def test_one_that_is_almost_a_setting_is_told_with_the_one_that_is_meant(refused: Refused, tmp_path: Path) -> None:
    environment = good("exporter", tmp_path, leasee="PT60S")
    assert refused("exporter", environment) == [
        "exporter: CDDS_EXPORTER_LEASEE: is no setting; CDDS_EXPORTER_LEASE may be meant; correct or remove it"
    ]


def test_files_of_secrets_may_be_misspelt_as_well(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "cdds_exporter_maskingkey").write_text("x")
    environment = {**good("exporter", tmp_path), "CDDS_SECRETS": str(tmp_path)}
    assert (
        "cdds_exporter_maskingkey: is no setting; CDDS_EXPORTER_MASKING_KEY may be"
        in refused("exporter", environment)[0]
    )


@pytest.mark.parametrize("service", SERVICES)
def test_no_setting_is_a_misspelt_other_one(service: str) -> None:
    names = list(model_of(service).model_fields)
    for name in names:
        others = [other for other in names if other != name]
        assert not difflib.get_close_matches(name, others, 1, starting.SIMILAR), name


@pytest.mark.parametrize("service", SERVICES)
def test_variables_of_others_are_nobodys_business(
    service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    others = {
        # What Kubernetes says of the Services in a namespace.
        variable(service, "service_host"): "10.0.0.1", variable(service, "port_8000_tcp_addr"): "10.0.0.1",
        variable(service, "service_port_http"): "8000", variable(service, "port"): "tcp://10.0.0.1:8000",
        **{variable(other, "leasee"): "x" for other in SERVICES if other != service}, "CDDS_SOURCE_UCS": "x",
    }  # fmt: skip
    for name, value in {**good(service, tmp_path), **others, variable(service, "colour"): "green"}.items():
        monkeypatch.setenv(name, value)
    read = starting.read(model_of(service))
    assert read.unknown == (variable(service, "colour"),), "which is said at the start, and does no harm"


# --- what is safe on one's own machine only -----------------------------------------------------------------------

REMOTE: dict[str, dict[str, str | None]] = {
    "issuer": {"auth_issuer": "cdds-local"},
    "identity": {"auth_public_key": None, "auth_jwks_url": "http://id.example/keys"},
    "postgres": {"postgres": f"postgresql://cdds:{PASSWORD}@db.example/cdds?sslmode=prefer"},
    "passwords": {"postgres": "postgresql://cdds:cdds@db.example/cdds?sslmode=verify-full"},
    "kafka": {"kafka": "127.0.0.1:9092,kafka.example:9092"},
    "objects": {"objects": "s3://bucket", "object_options": '{"endpoint": "http://s3.example"}'},
    "sources": {},
    "browser": {"public_url": "http://cdds.example"},
}  # fmt: skip
RISKS = [
    (service, risk)
    for risk in REMOTE
    for service in {
        "issuer": SERVICES, "identity": SERVICES, "postgres": STATEFUL, "passwords": STATEFUL, "kafka": STATEFUL,
        "objects": ("exporter",), "sources": ("exporter",), "browser": ("console",),
    }[risk]
]  # fmt: skip


def risky(service: str, risk: str, folder: Path, **changes: str | None) -> dict[str, str]:
    source = {"CDDS_SOURCE_UCS": f"host=ucs.example user=x password={PASSWORD}"} if risk == "sources" else {}
    return good(service, folder, **{**REMOTE[risk], **changes}) | source


@pytest.mark.parametrize(("service", "risk"), RISKS)
def test_a_risk_is_refused_in_a_sentence(service: str, risk: str, refused: Refused, tmp_path: Path) -> None:
    [line] = refused(service, risky(service, risk, tmp_path))
    assert re.match(rf"{service}: CDDS_{service.upper()}_\w+: [^;]+; .+", line)
    assert line.endswith(f"where the network is trusted, add {risk} to CDDS_{service.upper()}_INSECURE")


@pytest.mark.parametrize(("service", "risk"), RISKS)
@pytest.mark.parametrize("how", ["insecure", "local"])
def test_a_risk_that_is_named_is_taken_and_told(
    service: str, risk: str, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    change = {"insecure": f"{risk}, browser"} if how == "insecure" else {"local": "true"}
    for name, value in risky(service, risk, tmp_path, **change).items():
        monkeypatch.setenv(name, value)
    taken = starting.read(model_of(service)).taken
    assert [danger.risk for danger in taken] == ([risk] if how == "insecure" else [])


@pytest.mark.parametrize(
    ("service", "changes"),
    [
        ("history", {"postgres": f"postgresql://cdds:{PASSWORD}@db.example/cdds?sslmode=verify-full"}),
        ("history", {"postgres": f"postgresql://cdds:{PASSWORD}@localhost,[::1]:5432/cdds"}),
        ("history", {"postgres": "postgresql:///cdds?host=/run/postgresql"}),
        ("history", {"kafka": "localhost:9092,[::1]:9092"}),
        ("history", {"auth_public_key": None, "auth_jwks_url": "https://id.example/keys"}),
        ("console", {"public_url": "https://cdds.example", "http_host": "0.0.0.0"}),
        ("console", {"public_url": "http://localhost:8080", "http_host": "0.0.0.0"}),
        ("exporter", {"objects": "s3://bucket", "object_options": '{"endpoint": "http://127.0.0.1:9000"}'}),
    ],
)
def test_what_nobody_can_listen_to_is_no_risk(
    service: str, changes: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in good(service, tmp_path, **changes).items():
        monkeypatch.setenv(name, value)
    assert starting.read(model_of(service)).taken == ()


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://a:b@db.example/cdds",
        "postgresql://a:b@127.0.0.1,db.example:5433/cdds",
        "postgresql://a@/cdds?host=db.example&sslmode=allow",
        "postgresql://a:b%40c@[2001:db8::1]:5432/cdds?sslmode=disable",
    ],
)
def test_a_database_elsewhere_is_seen_in_whatever_form(dsn: str, refused: Refused, tmp_path: Path) -> None:
    [line] = refused("history", good("history", tmp_path, postgres=dsn))
    assert "without TLS" in line


def test_a_console_that_others_reach_needs_to_know_its_address(refused: Refused, tmp_path: Path) -> None:
    [line] = refused("console", good("console", tmp_path, http_host="0.0.0.0"))
    assert "CDDS_CONSOLE_PUBLIC_URL: is not set although CDDS_CONSOLE_HTTP_HOST" in line


# --- real processes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
async def test_a_process_is_refused_all_that_is_wrong_at_once(service: str, tmp_path: Path) -> None:
    risks = [risk for of, risk in RISKS if of == service and risk not in ("identity", "passwords")]
    changes: dict[str, str | None] = {}
    for risk in risks:
        changes |= REMOTE[risk]
    environment = good(service, tmp_path, **changes) | {"CDDS_SOURCE_UCS": f"host=a.example password={PASSWORD}"}
    child = await start(service, environment)
    output, errors = await child.communicate()
    assert child.returncode == 2
    assert output == b""
    lines = errors.decode().splitlines()
    assert [re.findall(r"add (\w+) to", line) for line in lines] == [[risk] for risk in lines_of(service, risks)]
    assert PASSWORD not in errors.decode()


def lines_of(service: str, risks: list[str]) -> list[str]:
    order = ["issuer", "browser", "postgres", "kafka", "objects", "sources"]
    return sorted(risks, key=order.index)


async def test_a_process_says_at_every_start_what_it_risks_and_shows_it(tmp_path: Path) -> None:
    environment = good(
        "console", tmp_path, http_port=str(port := free_port()), auth_issuer="cdds-local", insecure="issuer", colour="x"
    )
    child = await start("console", environment)
    try:
        assert child.stdout
        said = [(await child.stdout.readline()).decode() for _ in range(2)]
        assert '"variable": "CDDS_CONSOLE_COLOUR"' in said[0]
        assert '"risk": "issuer"' in said[1]
        assert '"variable": "CDDS_CONSOLE_AUTH_ISSUER"' in said[1]
        assert b'cdds_insecure{risk="issuer"} 1.0' in await answer(f"http://127.0.0.1:{port}/metrics")
        child.send_signal(signal.SIGTERM)
        await child.communicate()
        assert child.returncode == 0
    finally:
        if child.returncode is None:
            child.kill()


async def answer(url: str) -> bytes:
    async with httpx.AsyncClient() as client:

        async def ask() -> bytes | None:
            try:
                return (await client.get(url)).content
            except httpx.TransportError:
                return None

        return await eventually(ask, what=url)


async def start(service: str, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("CDDS_")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"services.{service}", stdout=PIPE, stderr=PIPE, env={**outside, **environment}
    )
