"""Benchmarks still run, as small as they can be; what they measure here means nothing."""

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE

import pytest

from deploy.local.kafka import missing_for_apache

pytestmark = pytest.mark.apache


@pytest.fixture(autouse=True)
def startable() -> None:
    """They start Apache Kafka themselves."""
    if missing := missing_for_apache():
        pytest.skip(missing)


@pytest.mark.parametrize(
    ("module", "options", "told"),
    [
        ("api", "--stored 100 --rate 20 --seconds 1 --rounds 1", "ratio_bare"),
        ("history", "--only catchup --events 3000 --rounds 1", "ratio_raw"),
        ("outbox", "--events 2000 --rounds 1 --rate 20 --seconds 1", "ratio_naive"),
        *(
            pytest.param(*rest, marks=pytest.mark.slow)
            for rest in (
                ("history", "--only lag --rate 50 --seconds 2", "lag_p99_ms"),
                ("history", "--only lists --executions 3000 --list-rounds 1", "list_p99_ms"),
                ("history", "--only readers", "sse_kib_per_reader"),
                ("scheduler", "--due 200 --stored 1000 --alternative-due 200", "lag_p99_s"),
                ("capacity", "--runs 5 --tenants 2 --rows 10 --kafka apache", "runs_per_s"),
                ("console", "--only pages --jobs 100 --executions 1000 --rounds 2", "jobs_first_p99_ms"),
            )
        ),
    ],
)
async def test_a_benchmark_ends_with_its_figures(module: str, options: str, told: str) -> None:
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"bench.{module}", *options.split(), stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    output, errors = await running.communicate()
    assert running.returncode == 0, errors.decode()
    assert told in json.loads(output.splitlines()[-1])
