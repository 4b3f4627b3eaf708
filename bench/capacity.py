"""`make bench-capacity`: what a run costs each service, and what it leaves behind, for planning how many of what.

Small exports of many tenants are due at one moment, so that the runs themselves are measured and not their rows, for
which there is `make bench-export`. Everything runs on this machine, one replica of each service.
"""

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import asyncpg
import httpx
import typer
import uvloop

import deploy.local.stack
from bench.export_check import make_recipient
from bench.harness import out, print_result, print_table, server_cpu_seconds, server_peak_rss_mib
from deploy.local.stack import SERVICES, SOURCES_DATABASE, Options, Stack
from shared.clock import utc_text

AHEAD: Final = timedelta(seconds=5)
"""Between the last submission and the moment at which everything is due."""
SUBMIT_AT_ONCE: Final = 8
SUBMITS_PER_SECOND: Final = 15
"""Low enough for a busy machine: a start that has passed is refused."""
SETTLED_SECONDS: Final = 10
"""After the last run has ended, until history has heard of all and the background has calmed down."""

SOURCES: Final = """
[sources.bench]
title = "Bench"
dsn = "env:CDDS_SOURCE_UCS"

[sources.bench.types.small]
title = "Small"
table = "bench.small"
id_column = "id"
time_column = "at"
tenant_column = "tenant"
"""

Costs = dict[str, float]


def main(
    runs: Annotated[int, typer.Option(help="How many are due at once.")] = 1000,
    tenants: Annotated[int, typer.Option(help="Whose they are.")] = 50,
    rows: Annotated[int, typer.Option(help="What each run exports, about 1 KiB each.")] = 1000,
    concurrent: Annotated[int, typer.Option(help="Runs that the exporter works on at once.")] = 4,
    kafka: Annotated[str, typer.Option(help="embedded, apache, or an address.")] = "apache",
) -> None:
    """Measure runs on a stack started for it."""
    print_result(uvloop.run(measure(runs, tenants, rows, concurrent, kafka)))


async def measure(runs: int, tenants: int, rows: int, concurrent: int, kafka: str) -> Mapping[str, object]:
    """CPU time, memory and bytes of `runs` runs."""
    with TemporaryDirectory(prefix="cdds-bench-", ignore_cleanup_errors=True) as folder:
        sources = Path(folder) / "sources.toml"
        sources.write_text(Path(deploy.local.stack.__file__).with_name("sources.toml").read_text() + SOURCES)
        options = Options(
            data=Path(folder) / "data", kafka=kafka, sources=sources,
            environment={"CDDS_EXPORTER_CONCURRENT_RUNS": str(concurrent)},
        )  # fmt: skip
        async with Stack(options, output=lambda name, line: None) as stack:
            names = [f"tenant-{number}" for number in range(tenants)]
            await _build(stack, names, rows)
            due = await _submit(stack, names, runs)
            await asyncio.sleep(max(0.0, (due - datetime.now(UTC)).total_seconds() - 1))
            before, stored = _cpu(stack), await _bytes(stack)
            seconds = await _until_ended(stack, runs, due)
            await asyncio.sleep(SETTLED_SECONDS)
            cpu = {name: (value - before[name]) / runs for name, value in _cpu(stack).items()}
            left = {name: (value - stored[name]) / runs for name, value in (await _bytes(stack)).items()}
            memory = {name: server_peak_rss_mib(stack.services[name].pid) for name in SERVICES}
    print_table(
        f"{runs:,} runs of {rows:,} rows, {tenants} tenants, {concurrent} at once: {runs / seconds:.1f} runs/s",
        ("", "CPU ms a run", "peak MiB"),
        [(name, f"{cpu[name] * 1000:.1f}", f"{memory[name]:.0f}" if name in memory else "") for name in cpu],
    )
    print_table("What a run leaves behind", ("", "KiB"), [(name, f"{left[name] / 1024:.1f}") for name in left])
    return {
        "runs_per_s": runs / seconds,
        "cpu_ms_per_run": {name: value * 1000 for name, value in cpu.items()},
        "kib_per_run": {name: value / 1024 for name, value in left.items()},
        "peak_rss_mib": memory,
    }


async def _build(stack: Stack, tenants: list[str], rows: int) -> None:
    connection = await asyncpg.connect(stack.dsn(SOURCES_DATABASE))
    try:
        await connection.execute("CREATE SCHEMA bench")
        await connection.execute(
            """CREATE TABLE bench.small AS
               SELECT tenant || '-' || i AS id, tenant, timestamptz '2026-01-01' + i * interval '1 s' AS at,
                      (SELECT string_agg(md5(tenant || i || '/' || j), '') FROM generate_series(1, 30) j) AS note
               FROM unnest($1::text[]) AS tenant, generate_series(1, $2::int) AS i""",
            tenants, rows,
        )  # fmt: skip
        await connection.execute("CREATE UNIQUE INDEX ON bench.small (tenant, at, id)")
        await connection.execute("ANALYZE bench.small")
    finally:
        await connection.close()


async def _submit(stack: Stack, tenants: list[str], runs: int) -> datetime:
    """Submit jobs that are all due at one moment; that moment."""
    due = (datetime.now(UTC) + AHEAD + timedelta(seconds=runs / SUBMITS_PER_SECOND)).replace(microsecond=0)
    out.print(f"submitting {runs:,} jobs, due at {utc_text(due)} …")
    few = asyncio.Semaphore(SUBMIT_AT_ONCE)
    with TemporaryDirectory(prefix="cdds-bench-") as folder:
        certificate = Path(folder) / "recipient.pem"
        make_recipient(certificate, Path(folder) / "recipient.key")
        pem = certificate.read_bytes()
    tokens = {name: stack.secrets.token(tenant=name, role="admin", subject="bench") for name in tenants}
    job: dict[str, Any] = {
        "title": "Small", "source": "bench", "type": "small", "timeframe": {"kind": "all"},
        "schedule": {"kind": "once"}, "start": utc_text(due),
    }  # fmt: skip
    async with httpx.AsyncClient(base_url=f"{stack.url}/api/v1", timeout=60) as client:

        async def post(tenant: str, path: str, **body: Any) -> None:
            async with few:
                headers = {"Authorization": f"Bearer {tokens[tenant]}"}
                (await client.post(path, headers=headers, **body)).raise_for_status()

        for name in tenants:
            await post(name, "/certificates", content=pem)
        async with asyncio.TaskGroup() as tasks:
            for number in range(runs):
                tasks.create_task(post(tenants[number % len(tenants)], "/jobs", json=job))
    return due


async def _until_ended(stack: Stack, runs: int, due: datetime) -> float:
    """Seconds from `due` until the last run has succeeded."""
    connection = await asyncpg.connect(stack.dsn())
    started = time.monotonic() + (due - datetime.now(UTC)).total_seconds()
    try:
        while True:
            ended = await connection.fetchrow(
                "SELECT count(*) FILTER (WHERE state = 'succeeded') AS good, count(*) FILTER (WHERE state = 'failed') "
                "AS bad FROM exporter.runs"
            )
            if ended is None or ended["bad"]:
                raise RuntimeError("a run failed")
            if ended["good"] >= runs:
                return time.monotonic() - started
            await asyncio.sleep(0.2)
    finally:
        await connection.close()


def _cpu(stack: Stack) -> Costs:
    """CPU seconds so far of each service, PostgreSQL and the broker."""
    servers = {"postgresql": stack.postgres and stack.postgres.pid, "kafka": stack.broker and stack.broker.pid}
    services = {name: stack.services[name].pid for name in SERVICES}
    return {name: server_cpu_seconds(pid) for name, pid in {**services, **servers}.items()}


async def _bytes(stack: Stack) -> Costs:
    """What lies in PostgreSQL by schema, with the broker and in the object store."""
    connection = await asyncpg.connect(stack.dsn())
    try:
        tables = await connection.fetch(
            """SELECT nspname AS schema, sum(pg_total_relation_size(c.oid))::bigint AS bytes
               FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
               WHERE relkind = 'r' AND nspname = ANY($1) GROUP BY 1 ORDER BY 1""",
            list(SERVICES),
        )
    finally:
        await connection.close()
    folders = {"object store": stack.data / "objects"}
    if stack.broker is not None:
        folders["kafka"] = stack.broker.data
    return {
        **{f"postgresql, {row['schema']}": float(row["bytes"]) for row in tables},
        **{name: float(_size(folder)) for name, folder in folders.items()},
    }


def _size(folder: Path) -> int:
    # In blocks, because the broker makes its index files larger than what is in them.
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    typer.run(main)
