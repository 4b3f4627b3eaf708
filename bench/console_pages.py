"""How long the server takes for the first pages of Jobs and of History, however much is stored."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import httpx

from bench.api import prepare
from bench.harness import out, print_table, server_cpu_seconds, server_peak_rss_mib
from bench.history_load import LARGE, load
from bench.history_service import SETTINGS
from deploy.local.postgres import EmbeddedPostgres
from deploy.local.stack import Options, Stack

PAGES: Final[Mapping[str, Sequence[str]]] = {
    "jobs": (
        "/jobs", "/jobs?sort=title", "/jobs?sort=-latest_started_at", "/jobs?source=ucs&state=active",
        "/jobs?text=9999",
    ),
    "history": (
        "/history", "/history?sort=title", "/history?sort=-rows", "/history?state=failed", "/history?source=ucs",
        "/history?text=Interactions",
    ),
}  # fmt: skip
"""The first is what one sees first; `first` in the result is of that one alone."""
WARM_UP: Final = 3


async def measure(executions: int, jobs: int, rounds: int, keep: Path | None) -> Mapping[str, float]:
    """Milliseconds of the console's answers, one request at a time, its services and PostgreSQL included."""
    with TemporaryDirectory(prefix="cdds-bench-", ignore_cleanup_errors=True) as folder:
        async with EmbeddedPostgres(keep or Path(folder) / "postgres", settings=SETTINGS) as postgres:
            database = f"lists_{executions}"
            await load(postgres, database, executions)
            options = Options(data=Path(folder) / "data", postgres=postgres.dsn(database))
            async with Stack(options, output=lambda name, line: None) as stack:
                token = stack.secrets.token(tenant=LARGE, role="admin", subject="bench")
                await prepare(stack.url, stack.dsn(), token, jobs)
                console = stack.services["console"].pid
                before = server_cpu_seconds(console)
                took = await _ask(stack.url, token, rounds)
                spent = server_cpu_seconds(console) - before
                memory = server_peak_rss_mib(console)
    asked = {path: times for page in took.values() for path, times in page.items()}
    print_table(
        f"Pages of {jobs:,} jobs and {executions:,} executions, one request at a time",
        ("", "requests", "p50 ms", "p99 ms"),
        [(path, f"{len(times)}", f"{_at(times, 0.5):.1f}", f"{_at(times, 0.99):.1f}") for path, times in asked.items()],
    )
    out.print(f"The console itself took {1000 * spent / (rounds + WARM_UP) / len(asked):.1f} CPU ms a page")
    result = {"console_peak_rss_mib": memory}
    for name, page in took.items():
        every = [taken for times in page.values() for taken in times]
        first = page[PAGES[name][0]]
        result |= {f"{name}_first_p50_ms": _at(first, 0.5), f"{name}_first_p99_ms": _at(first, 0.99)}
        result |= {f"{name}_p50_ms": _at(every, 0.5), f"{name}_p99_ms": _at(every, 0.99)}
    return result


async def _ask(url: str, token: str, rounds: int) -> dict[str, dict[str, list[float]]]:
    async with httpx.AsyncClient(base_url=url, timeout=60, headers={"Origin": url}) as client:
        assert (await client.post("/sign-in", data={"token": token})).status_code == 303
        took: dict[str, dict[str, list[float]]] = {}
        for name, paths in PAGES.items():
            for path in paths:
                times = took.setdefault(name, {}).setdefault(path, [])
                for number in range(WARM_UP + rounds):
                    started = time.perf_counter()
                    answer = await client.get(path)
                    taken = 1000 * (time.perf_counter() - started)
                    assert answer.status_code == 200, (path, answer.status_code)
                    if number >= WARM_UP:
                        times.append(taken)
    return took


def _at(times: Sequence[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
