"""How a process ends, seen from outside: real processes, real signals."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from deploy.local.processes import free_port

PROGRAM = """
import asyncio, sys
from pydantic_settings import SettingsConfigDict
from shared import runtime
from shared.config import ProcessSettings

class Settings(ProcessSettings):
    model_config = SettingsConfigDict(env_prefix="CDDS_EXAMPLE_", frozen=True, extra="forbid")

async def part():
    sys.stdout.write("started\\n")
    sys.stdout.flush()
    if sys.argv[1] == "fail":
        raise RuntimeError("a part failed")
    await asyncio.Event().wait()

async def drain():
    sys.stdout.write("draining\\n")
    sys.stdout.flush()
    if sys.argv[1] == "drain":
        await asyncio.sleep(0)
    elif sys.argv[1] == "drain badly":
        raise RuntimeError("draining failed")
    else:
        await asyncio.Event().wait()

async def application(settings):
    await runtime.run_all(settings, part(), drain=drain if "drain" in sys.argv[1] else None)

runtime.main("test", Settings, application)
"""


@asynccontextmanager
async def process(mode: str, **settings: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    environment = {"CDDS_EXAMPLE_HTTP_PORT": "8000"} | settings
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, mode,
        stdin=PIPE, stdout=PIPE, stderr=PIPE, env={**os.environ, **environment},
    )  # fmt: skip
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def until_started(child: asyncio.subprocess.Process) -> None:
    assert child.stdout
    assert await child.stdout.readline() == b"started\n"


async def test_a_signal_stops_the_process_in_order() -> None:
    async with process("wait") as child:
        await until_started(child)
        child.send_signal(signal.SIGTERM)
        output, _ = await child.communicate()
        assert child.returncode == 0
        assert b'"stopped"' in output


async def test_the_end_of_standard_input_stops_a_process_that_was_told_to_stop_with_its_parent() -> None:
    async with process("wait", CDDS_EXAMPLE_STOP_WITH_PARENT="true") as child:
        await until_started(child)
        await child.communicate(b"")
        assert child.returncode == 0


async def test_the_end_of_standard_input_means_nothing_to_any_other_process() -> None:
    async with process("wait") as child:
        await until_started(child)
        assert child.stdin
        child.stdin.close()
        await child.stdin.wait_closed()
        child.send_signal(signal.SIGINT)
        await child.communicate()
        assert child.returncode == 0


async def test_a_part_that_fails_ends_the_process_with_its_error_in_the_log() -> None:
    async with process("fail") as child:
        output, _ = await child.communicate()
        assert child.returncode == 1
        assert b"a part failed" in output


async def test_a_bad_setting_is_named_as_the_environment_variable_it_is() -> None:
    async with process("wait", CDDS_EXAMPLE_HTTP_PORT="many", CDDS_EXAMPLE_LOG_LEVEL="loud") as child:
        _, errors = await child.communicate()
        assert child.returncode == 2
        lines = errors.decode().splitlines()
        assert [line.split(": ")[:2] for line in lines] == [
            ["test", "CDDS_EXAMPLE_HTTP_PORT"], ["test", "CDDS_EXAMPLE_LOG_LEVEL"],
        ]  # fmt: skip


@pytest.mark.parametrize("service", ["job_api", "scheduler"])
async def test_a_service_names_every_setting_it_lacks(service: str) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"services.{service}", stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("CDDS_")},
    )  # fmt: skip
    _, errors = await child.communicate()
    assert child.returncode == 2
    prefix = f"CDDS_{service.upper()}_"
    for name in ("POSTGRES", "KAFKA", "HTTP_PORT", "AUTH_ISSUER", "SOURCES"):
        assert f"{service}: {prefix}{name}: " in errors.decode()


async def test_a_service_without_a_key_to_verify_tokens_with_does_not_start() -> None:
    prefix = "CDDS_SCHEDULER_"
    given = {"POSTGRES": "x", "KAFKA": "x", "HTTP_PORT": str(free_port()), "AUTH_ISSUER": "x", "SOURCES": "x"}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.scheduler", stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE,
        env={**os.environ, **{prefix + name: value for name, value in given.items()}},
    )  # fmt: skip
    _, errors = await child.communicate()
    assert child.returncode == 2
    assert "AUTH_JWKS_URL" in errors.decode()
    assert "AUTH_PUBLIC_KEY" in errors.decode()


async def until_draining(child: asyncio.subprocess.Process) -> None:
    assert child.stdout
    while await child.stdout.readline() != b"draining\n":
        assert not child.stdout.at_eof()


async def test_what_is_in_hand_may_end_before_the_process_stops() -> None:
    async with process("drain") as child:
        await until_started(child)
        child.send_signal(signal.SIGTERM)
        await until_draining(child)
        await child.communicate()
        assert child.returncode == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_does_not_wait_for_what_is_in_hand(second: signal.Signals) -> None:
    async with process("drain for ever") as child:
        await until_started(child)
        child.send_signal(signal.SIGTERM)
        await until_draining(child)
        child.send_signal(second)
        await child.communicate()
        assert child.returncode == 0


async def test_nothing_waits_once_the_parent_is_gone() -> None:
    async with process("drain for ever", CDDS_EXAMPLE_STOP_WITH_PARENT="true") as child:
        await until_started(child)
        output, _ = await child.communicate(b"")
        assert child.returncode == 0
        assert b"draining" not in output


async def test_a_drain_that_fails_ends_the_process_as_a_failure() -> None:
    async with process("drain badly") as child:
        await until_started(child)
        child.send_signal(signal.SIGTERM)
        await child.communicate()
        assert child.returncode == 1
