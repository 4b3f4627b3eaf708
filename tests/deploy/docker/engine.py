"""A Docker engine as the tests use it: images that are built once, and an installation under a name of its own."""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from deploy.local.processes import free_port
from tests.brokers import docker_answers
from tests.deploy.panels import ROOT

REQUIRED = "CDDS_REQUIRE_DOCKER"
IMAGE, DEMO_IMAGE = "cdds:test", "cdds-demo:test"
UP_SECONDS = 300
OVERRIDES = {
    "services": {
        # Slow enough to be killed in the middle of a run, and quick to take over what was lost.
        "exporter": {"cpus": 0.5, "environment": {"CDDS_EXPORTER_LEASE": "PT5S", "CDDS_EXPORTER_BEAT": "PT1S"}},
        "postgres": {"ports": ["127.0.0.1:${POSTGRES_PORT}:5432"]},
    }
}


def require_docker() -> None:
    """Skip the test, or fail it, unless an engine answers and has compose."""
    if shutil.which("docker") is None:
        missing = "there is no `docker` on the PATH"
    elif not docker_answers():
        missing = "no Docker engine answers"
    elif docker("compose", "version", check=False).returncode:
        missing = "docker has no compose"
    else:
        return
    if os.environ.get(REQUIRED):
        pytest.fail(missing)
    pytest.skip(missing)


def docker(*arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, **options)
    assert not check or ended.returncode == 0, f"docker {' '.join(arguments)}:\n{ended.stdout}\n{ended.stderr}"
    return ended


def build(target: str, tag: str) -> None:
    more = shlex.split(os.environ.get("CDDS_TEST_DOCKER_BUILD", ""))
    docker("build", "--quiet", *more, "--target", target, "--tag", tag, str(ROOT))


@dataclass
class Composed:
    """An installation of the compose file; what tests of stacks want to know of one, it tells as a stack does."""

    folder: Path
    name: str = field(default_factory=lambda: f"cdds-test-{uuid4().hex[:8]}")
    ports: dict[str, int] = field(
        default_factory=lambda: {f"{name}_PORT": free_port() for name in ("CDDS", "PROMETHEUS", "GRAFANA", "POSTGRES")}
    )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['CDDS_PORT']}"

    @property
    def secrets(self) -> "Composed":
        return self

    def token(self, *, tenant: str, role: str, subject: str) -> str:
        """As `docker compose run cdds token` prints one."""
        return self.compose("run", "--rm", "cdds", "token", "--tenant", tenant, "--role", role).stdout.strip()

    def dsn(self, database: str = "cdds") -> str:
        """For the superuser, whose password only PostgreSQL's container sees."""
        password = self.compose("exec", "postgres", "cat", "/run/secrets/superuser").stdout.strip()
        return f"postgresql://postgres:{password}@127.0.0.1:{self.ports['POSTGRES_PORT']}/{database}"

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        (override := self.folder / "override.yaml").write_text(yaml.safe_dump(OVERRIDES))
        environment = {
            **os.environ,
            **{name: str(port) for name, port in self.ports.items()},
            "CDDS_IMAGE": IMAGE,
            "CDDS_DEMO_IMAGE": DEMO_IMAGE,
        }
        files = ("--file", str(ROOT / "deploy" / "compose.yaml"), "--file", str(override))
        if arguments[0] in ("exec", "run"):
            arguments = (arguments[0], "-T", *arguments[1:])
        return docker(
            "compose", "--project-name", self.name, *files, *arguments, check=check, env=environment,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def up(self) -> None:
        """Up and healthy; tells what happened inside where it is not."""
        ended = self.compose("up", "--detach", "--wait", "--wait-timeout", str(UP_SECONDS), "--no-build", check=False)
        if ended.returncode:
            logs = self.compose("logs", "--no-color", "--tail", "30", check=False).stdout
            pytest.fail(f"{ended.stderr[-3000:]}\n{logs[-20000:]}")

    def containers(self) -> dict[str, dict[str, Any]]:
        """What the engine says of each container, by the name of its service."""
        ids = self.compose("ps", "--all", "--quiet").stdout.split()
        found = json.loads(docker("inspect", *ids).stdout)
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}


@contextmanager
def composed(folder: Path) -> Iterator[Composed]:
    """Up, and gone afterwards with all that it kept."""
    installation = Composed(folder)
    try:
        installation.up()
        yield installation
    finally:
        installation.compose("--profile", "*", "down", "--volumes", "--timeout", "5", check=False)
