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


@pytest.mark.parametrize("kafka", BROKERS)
async def test_a_stack_survives_down_and_up_and_the_death_of_all_its_processes(folder: Path, kafka: str) -> None:
    up = ("up", "--data", folder, "--kafka", kafka, "--detach")
    started = cdds(*up)
    assert started.returncode == 0, started.stderr
    sources = described(folder)["sources"]
    await data.create_schema(sources)
    await data.load_contacts(sources, "ucs", rows=100, tenants={"acme": 1})
    async with caller(folder) as api:
        assert (await api.post("/certificates", content=Recipient("acme").pem)).status_code == 201
        first = await submitted(api, "Before the stop")
        await succeeded(api, first)
    down = cdds("down", "--data", folder)
    assert (down.returncode, down.stdout) == (0, "Stopped.\n")
    await gone(folder)

    assert cdds(*up).returncode == 0
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

    assert cdds(*up).returncode == 0
    async with caller(folder) as api:
        execution = await succeeded(api, second)
        assert execution["attempt"] == 2
        assert {job["id"] for job in (await api.get("/jobs")).json()["items"]} == {first["id"], second["id"]}
        await succeeded(api, first)
    assert cdds("down", "--data", folder).returncode == 0
    await gone(folder)
    assert cdds("down", "--data", folder).stdout == "No stack is running here.\n"


async def test_a_second_stack_on_a_folder_is_refused_and_ctrl_c_stops_the_first_in_order(folder: Path) -> None:
    output = folder.with_name("output")
    with output.open("w") as file:
        first = subprocess.Popen(
            command("up", "--data", folder), stdout=file, stderr=subprocess.STDOUT, env=environment(),
            start_new_session=True,
        )  # fmt: skip
    try:

        async def up() -> bool:
            assert first.poll() is None, output.read_text()
            return (folder / "stack.json").exists()

        await eventually(up, within=timedelta(seconds=START_SECONDS), what="the start")

        second = cdds("up", "--data", folder)

        assert second.returncode == 1
        assert "another stack runs on" in second.stderr
        assert "Traceback" not in second.stderr
        assert first.poll() is None
        os.killpg(first.pid, signal.SIGINT)
        assert first.wait(30) == 0, output.read_text()
    finally:
        if first.poll() is None:
            first.kill()
            first.wait()
    await gone(folder)
    assert not (folder / "stack.json").exists()
    assert not (folder / "kafka-embedded" / "broker.pid").exists()
    assert not (folder / "postgres" / "postmaster.pid").exists()
    text = output.read_text()
    assert text.count("[cdds] service=") >= 5
    for service in ("job_api", "scheduler", "exporter", "history", "console"):
        assert f"service={service}" in text.partition("Stopping …")[2]
    assert "Traceback" not in text
