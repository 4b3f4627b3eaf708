"""Settings from files: what a folder named by CDDS_SECRETS gives, and what it can't."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic_settings import SettingsConfigDict, SettingsError

from cli.console import Failure
from cli.installation import Installation
from services.exporter.config import Settings as ExporterSettings
from shared.config import AuthSettings, ServiceSettings

SECRET = "postgresql://job@db/cdds?password=Zq7-do-not-tell"


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="CDDS_EXAMPLE_", frozen=True, extra="forbid")


GIVEN = {
    "CDDS_EXAMPLE_HTTP_PORT": "8000",
    "CDDS_EXAMPLE_KAFKA": "kafka:9092",
    "CDDS_EXAMPLE_AUTH_ISSUER": "https://id.example",
    "CDDS_EXAMPLE_AUTH_JWKS_URL": "https://id.example/keys",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that CDDS_SECRETS names; all settings but the DSN are in the environment."""
    for name, value in {"CDDS_SECRETS": str(tmp_path), **GIVEN}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def settings() -> Settings:
    return Settings()  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("name", ["CDDS_EXAMPLE_POSTGRES", "cdds_example_postgres"])
def test_a_file_named_like_a_variable_is_its_value(folder: Path, name: str) -> None:
    (folder / name).write_text(f"{SECRET}\n")
    assert settings().postgres.get_secret_value() == SECRET


def test_links_as_kubernetes_mounts_them_are_followed(folder: Path) -> None:
    (folder / "..2026").mkdir()
    (folder / "..2026" / "CDDS_EXAMPLE_POSTGRES").write_text(SECRET)
    (folder / "..data").symlink_to("..2026")
    (folder / "CDDS_EXAMPLE_POSTGRES").symlink_to("..data/CDDS_EXAMPLE_POSTGRES")
    assert settings().postgres.get_secret_value() == SECRET


def test_the_environment_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "CDDS_EXAMPLE_POSTGRES").write_text("postgresql://file")
    monkeypatch.setenv("CDDS_EXAMPLE_POSTGRES", "postgresql://environment")
    assert settings().postgres.get_secret_value() == "postgresql://environment"


def test_files_of_others_mean_nothing(folder: Path) -> None:
    (folder / "CDDS_EXAMPLE_POSTGRES").write_text(SECRET)
    (folder / "CDDS_OTHER_POSTGRES").write_text("postgresql://other")
    (folder / "tls.crt").write_bytes(b"\xff")
    assert settings().postgres.get_secret_value() == SECRET


def test_a_file_may_hold_json(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GIVEN.items():
        monkeypatch.setenv(name.replace("EXAMPLE", "EXPORTER"), value)
    for name, value in {"SOURCES": "s.toml", "OBJECTS": "s3://b", "SIGNING_KEY": "k", "POSTGRES": "x"}.items():
        monkeypatch.setenv(f"CDDS_EXPORTER_{name}", value)
    (folder / "CDDS_EXPORTER_OBJECT_OPTIONS").write_text('{"access_key_id": "a", "secret_access_key": "b"}')
    read = ExporterSettings()  # pyright: ignore[reportCallIssue]
    assert read.object_options == {"access_key_id": "a", "secret_access_key": "b"}


def test_without_a_folder_nothing_is_read_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CDDS_SECRETS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CDDS_EXAMPLE_HTTP_PORT").write_text("1")
    with pytest.raises(ValueError, match="http_port"):
        AuthSettings()  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_folder_that_is_none_is_an_error_that_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    wrong = folder / "wrong"
    if kind == "file":
        wrong.write_text("")
    monkeypatch.setenv("CDDS_SECRETS", str(wrong))
    with pytest.raises(SettingsError, match=r"CDDS_SECRETS: there is no folder .*wrong"):
        settings()
    with pytest.raises(Failure, match="CDDS_SECRETS: there is no folder"):
        Installation.find()


def start(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.scheduler"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        env={**os.environ, **environment}, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("CDDS_SCHEDULER_LOG_LEVEL", b"Zq7", "CDDS_SCHEDULER_LOG_LEVEL: "),
        (
            "CDDS_SCHEDULER_POSTGRES",
            b"Zq7\xff",
            "CDDS_SCHEDULER_POSTGRES: is in a file that is no text; write it as UTF-8",
        ),
        ("CDDS_SCHEDULER_KAFKA", b"Zq7", "CDDS_SCHEDULER_POSTGRES: is not set"),
    ],
    ids=["wrong", "no text", "others are missing"],
)
def test_a_start_that_fails_tells_without_a_traceback_and_without_what_is_in_the_file(
    folder: Path, name: str, content: bytes, said: str
) -> None:
    (folder / name).write_bytes(content)
    ended = start()
    assert ended.returncode == 2
    assert ended.stderr
    assert all(line.startswith("scheduler: ") for line in ended.stderr.splitlines())
    assert said in ended.stderr
    assert "Zq7" not in ended.stdout + ended.stderr


def test_a_service_says_that_the_folder_is_missing(folder: Path) -> None:
    ended = start(CDDS_SECRETS=str(folder / "gone"))
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert f"scheduler: CDDS_SECRETS: there is no folder {folder / 'gone'}" in ended.stderr


def test_commands_find_an_installation_whose_settings_are_files(folder: Path) -> None:
    (folder / "cdds_job_api_postgres").write_text(f"{SECRET}\n")
    (folder / "CDDS_SCHEDULER_KAFKA").write_text("kafka:9092\n")
    installation = Installation.find()
    assert installation.dsn("job_api") == SECRET
    assert installation.bootstrap == "kafka:9092"
    assert installation.configured == ["job_api", "scheduler"]
