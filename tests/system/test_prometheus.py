"""A real Prometheus that looks at a real stack: the metrics come, and a service that is stopped is an alert."""

import asyncio
import os
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deploy.local.processes import free_port
from deploy.local.stack import SERVICES, Stack
from tests.deploy.panels import read_yaml
from tests.system.driver import eventually
from tests.system.stacks import running

pytestmark = pytest.mark.slow


async def test_a_service_that_is_stopped_is_an_alert_until_it_is_back(tmp_path: Path) -> None:
    if (program := shutil.which("prometheus")) is None:
        assert "CDDS_REQUIRE_PROMTOOL" not in os.environ, "there is no prometheus, and it is required here"
        pytest.skip("there is no prometheus")
    async with running("embedded") as stack, prometheus(program, stack, tmp_path) as api:

        async def up() -> bool:
            return {value["metric"]["service"] for value in await asked(api, "up == 1")} == set(SERVICES)

        async def firing() -> set[tuple[str, str]]:
            found = await asked(api, 'ALERTS{alertstate="firing"}')
            return {(value["metric"]["alertname"], value["metric"].get("service", "")) for value in found}

        async def raised() -> bool:
            return ("CddsServiceDown", "scheduler") in await firing()

        async def over() -> bool:
            return not await firing()

        await eventually(up, what="all services scraped")
        assert await firing() == set(), "all is well"
        await stack.stop("scheduler")
        await eventually(raised, what="the alert")
        assert await firing() == {("CddsServiceDown", "scheduler")}
        await stack.start("scheduler")
        await eventually(over, what="the end of the alert")


async def asked(api: httpx.AsyncClient, query: str) -> list[dict[str, Any]]:
    answer = (await api.get("/api/v1/query", params={"query": query})).raise_for_status()
    return answer.json()["data"]["result"]


@asynccontextmanager
async def prometheus(program: str, stack: Stack, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The project's configuration and rules with the stack's addresses, every second, and alerts that wait for one."""
    config, rules = read_yaml("prometheus", "prometheus.yaml"), read_yaml("prometheus", "alerts.yaml")
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for each in config["scrape_configs"][0]["static_configs"]:
        each["targets"] = [stack.url_of(each["labels"]["service"]).removeprefix("http://")]
    for rule in rules["groups"][0]["rules"]:
        rule["for"] = "1s"
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (folder / "alerts.yaml").write_text(yaml.safe_dump(rules))
    address = f"127.0.0.1:{free_port()}"
    child = await asyncio.create_subprocess_exec(
        program, f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}", stdin=DEVNULL, stdout=PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    reading = asyncio.create_task(child.communicate())
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}") as api:

            async def ready() -> bool:
                assert child.returncode is None, (await reading)[0].decode()
                try:
                    return (await api.get("/-/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(ready, what="Prometheus")
            yield api
    finally:
        if child.returncode is None:
            child.terminate()
        await reading
