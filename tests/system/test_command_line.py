"""`cdds up` as a person uses it: a real process, real signals."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import httpx
import orjson
import pytest

from deploy.local import data
from deploy.local.stack import SERVICES
from tests.system.driver import JOB, Recipient, Row, eventually
from tests.system.stacks import BROKERS, QUICK

pytestmark = pytest.mark.slow

START_SECONDS = 90


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for one stack; whatever a failed test leaves running on it is ended."""
    # Not under pytest's own folder, which is closed to the account PostgreSQL runs as when root starts it.
    with TemporaryDirectory(prefix="cdds-test-", ignore_cleanup_errors=True) as name:
        yield Path(name) / "stack"
        for pid in processes_of(Path(name)):
            os.kill(pid, signal.SIGKILL)


def cdds(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=START_SECONDS, check=False, env=environment()
    )


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "cli", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, **QUICK}


def processes_of(folder: Path) -> list[int]:
    """Every process that names `folder` in its command line or environment: ours in this test, and nobody else's."""
    found: list[int] = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                text = (process / "cmdline").read_bytes() + b"\0" + (process / "environ").read_bytes()
                zombie = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                continue
            if str(folder).encode() in text and not zombie:
                found.append(int(process.name))
    return found


def described(folder: Path) -> Row:
    """What the running stack says about itself."""
    return orjson.loads((folder / "stack.json").read_bytes())


@asynccontextmanager
async def caller(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The API, with a token as `cdds token` prints it."""
    printed = cdds("token", "--data", folder)
    assert printed.returncode == 0, printed.stderr
    headers = {"Authorization": f"Bearer {printed.stdout.strip()}"}
    async with httpx.AsyncClient(base_url=f"{described(folder)['url']}/api/v1", headers=headers, timeout=30) as api:
        yield api


async def submitted(api: httpx.AsyncClient, title: str) -> Row:
    answer = await api.post("/jobs", json={**JOB, "type": "contact", "title": title})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def succeeded(api: httpx.AsyncClient, job: Row) -> Row:
    async def look() -> Any:
        items = (await api.get("/executions", params={"job_id": job["id"]})).json()["items"]
        return items[0] if items and items[0]["state"] == "succeeded" else None

    return await eventually(look, what=f"success of {job['settings']['title']!r}")


async def gone(folder: Path) -> None:
    """Nothing runs on the folder any more."""

    async def look() -> bool:
        return not processes_of(folder)

    await eventually(look, within=timedelta(seconds=20), what=f"the end of {processes_of(folder)}")


async def started(folder: Path, kafka: str) -> None:
    """`cdds up --detach`, which must succeed."""
    up = cdds("up", "--data", folder, "--kafka", kafka, "--detach")
    assert up.returncode == 0, f"{up.stderr}\n{(folder / 'logs' / 'stack.log').read_text()}"
    assert described(folder)["url"] in up.stdout


@asynccontextmanager
async def in_the_foreground(folder: Path, kafka: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    """`cdds up` in a terminal of its own; what it prints is in the file `output` beside `folder`."""
    output = folder.with_name("output")
    with output.open("w") as file:
        process = subprocess.Popen(
            command("up", "--data", folder, "--kafka", kafka),
            stdout=file, stderr=subprocess.STDOUT, env=environment(), start_new_session=True,
        )  # fmt: skip
    try:

        async def up() -> bool:
            assert process.poll() is None, output.read_text()
            return (folder / "stack.json").exists()

        await eventually(up, within=timedelta(seconds=START_SECONDS), what="the start")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


async def assert_stopped_in_order(folder: Path) -> None:
    """Nothing was killed, nothing is left, and every service said goodbye."""
    await gone(folder)
    text = folder.with_name("output").read_text()
    assert "Traceback" not in text
    goodbye = text.partition("Stopping …")[2]
    assert all(f"service={service}" in goodbye for service in SERVICES)
    assert not (folder / "stack.json").exists()
    assert not list(folder.glob("*/broker.pid"))
    assert not (folder / "postgres" / "postmaster.pid").exists()


@pytest.mark.parametrize("kafka", BROKERS)
async def test_a_stack_survives_ctrl_c_and_the_death_of_all_its_processes(folder: Path, kafka: str) -> None:
    async with in_the_foreground(folder, kafka) as running:
        sources = described(folder)["sources"]
        await data.create_schema(sources)
        await data.load_contacts(sources, "ucs", rows=100, tenants={"acme": 1})
        async with caller(folder) as api:
            assert (await api.post("/certificates", content=Recipient("acme").pem)).status_code == 201
            first = await submitted(api, "Before the stop")
            await succeeded(api, first)

        second_stack = cdds("up", "--data", folder)
        assert (second_stack.returncode, second_stack.stdout) == (1, "")
        assert "another stack runs on" in second_stack.stderr
        assert "Traceback" not in second_stack.stderr

        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(30) == 0
        await assert_stopped_in_order(folder)

    await started(folder, kafka)
    # Nobody can read the contacts while we hold this lock, so the run can't end before everything is killed.
    lock = await asyncpg.connect(described(folder)["sources"])
    await lock.execute("BEGIN; LOCK TABLE ucs.contacts IN ACCESS EXCLUSIVE MODE")
    async with caller(folder) as api:
        assert [job["id"] for job in (await api.get("/jobs")).json()["items"]] == [first["id"]]
        second = await submitted(api, "Unfinished at the crash")

        async def runs() -> bool:
            items = (await api.get("/executions", params={"job_id": second["id"]})).json()["items"]
            return bool(items) and items[0]["state"] == "running"

        await eventually(runs, what="the run's start")
    for pid in processes_of(folder):
        os.kill(pid, signal.SIGKILL)
    lock.terminate()
    await gone(folder)

    await started(folder, kafka)
    async with caller(folder) as api:
        execution = await succeeded(api, second)
        assert execution["attempt"] == 2
        assert {job["id"] for job in (await api.get("/jobs")).json()["items"]} == {first["id"], second["id"]}
    down = cdds("down", "--data", folder)
    assert (down.returncode, down.stdout) == (0, "Stopped.\n")
    await gone(folder)
    assert cdds("down", "--data", folder).stdout == "No stack is running here.\n"
