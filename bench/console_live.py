"""What it costs the console to keep many open pages up to date while exports run."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import httpx

import deploy.local.stack
from bench.export_check import make_recipient
from bench.harness import out, print_table, server_cpu_seconds, server_peak_rss_mib
from deploy.local.stack import SOURCES_DATABASE, Options, Stack

ROWS: Final = 3_000
NAP_SECONDS: Final = 0.02
"""For each row: an export takes a minute at least."""
AT_ONCE: Final = 50
IDLE_SECONDS: Final = 10
ZONES: Final = ("UTC", "Europe/Berlin", "America/New_York")
"""Pages are rendered for each that is in use."""

SOURCES: Final = """
[sources.bench]
title = "Bench"
dsn = "env:CDDS_SOURCE_UCS"

[sources.bench.types.slow]
title = "Slow"
table = "bench.slow"
id_column = "id"
time_column = "at"
tenant_column = "tenant"
"""
TABLES: Final = (
    "CREATE SCHEMA bench",
    f"""CREATE TABLE bench.wide AS
        SELECT i AS id, 'acme' AS tenant, timestamptz '2026-01-01' + i * interval '1 s' AS at,
               repeat(md5(i::text), 256) AS noise FROM generate_series(1, {ROWS}) AS i""",
    "CREATE UNIQUE INDEX ON bench.wide (tenant, at, id)",
    "ANALYZE bench.wide",
    f"CREATE VIEW bench.slow AS SELECT *, pg_sleep({NAP_SECONDS})::text AS nap FROM bench.wide",
    # Sorted rows come only after the last nap; in the order of the index each comes after its own.
    f"ALTER DATABASE {SOURCES_DATABASE} SET enable_sort = off",
)


async def measure(pages: int, runs: int, seconds: int) -> Mapping[str, float]:
    """The console's CPU time a second, as a share of one core, with `pages` open and `runs` under way."""
    with TemporaryDirectory(prefix="cdds-bench-", ignore_cleanup_errors=True) as folder:
        sources = Path(folder) / "sources.toml"
        sources.write_text(Path(deploy.local.stack.__file__).with_name("sources.toml").read_text() + SOURCES)
        options = Options(data=Path(folder) / "data", sources=sources)
        async with Stack(options, output=lambda name, line: None) as stack, contextlib.AsyncExitStack() as exits:
            await _build(stack)
            token = stack.secrets.token(tenant="acme", role="admin", subject="bench")
            readers = await _open(stack.url, token, pages, exits)
            pid = stack.services["console"].pid
            idle = await _share(pid, IDLE_SECONDS)
            await _start(stack.url, token, runs)
            await readers.until(b"<progress")
            before = readers.bytes, readers.chunks
            busy = await _share(pid, seconds)
            received = (readers.bytes - before[0]) / seconds, (readers.chunks - before[1]) / seconds
            memory, lost = server_peak_rss_mib(pid), readers.lost
    print_table(
        f"{pages} open pages, {runs} runs in progress",
        ("console", "idle", "with runs"),
        [
            ("share of one core", f"{idle:.1%}", f"{busy:.1%}"),
            ("received, KiB a second", "", f"{received[0] / 1024:,.0f}"),
        ],
    )
    return {
        "live_pages": pages, "live_runs": runs, "live_idle_cores": idle, "live_cores": busy,
        "live_kib_a_second": received[0] / 1024, "live_chunks_a_second": received[1], "live_peak_rss_mib": memory,
        "live_pages_lost": lost,
    }  # fmt: skip


async def _build(stack: Stack) -> None:
    connection = await asyncpg.connect(stack.dsn(SOURCES_DATABASE))
    try:
        for statement in TABLES:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _share(pid: int | None, seconds: int) -> float:
    cpu, at = server_cpu_seconds(pid), time.monotonic()
    await asyncio.sleep(seconds)
    return (server_cpu_seconds(pid) - cpu) / (time.monotonic() - at)


async def _start(url: str, token: str, runs: int) -> None:
    """Submit jobs that run at once."""
    async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {token}"}) as client:
        with TemporaryDirectory(prefix="cdds-bench-") as folder:
            certificate, key = Path(folder) / "recipient.pem", Path(folder) / "recipient.key"
            make_recipient(certificate, key)
            (await client.post("/certificates", content=certificate.read_bytes())).raise_for_status()
        for number in range(runs):
            job: dict[str, Any] = {
                "title": f"Job {number}", "source": "bench", "type": "slow", "timeframe": {"kind": "all"},
                "schedule": {"kind": "once"}, "start": "immediately",
            }  # fmt: skip
            (await client.post("/jobs", json=job)).raise_for_status()


class Readers:
    """Connections that read whatever comes, as browsers do."""

    def __init__(self) -> None:
        self.bytes = 0
        self.chunks = 0
        self.lost = 0
        self._heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def follow(self, reader: asyncio.StreamReader, *, listen: bool) -> None:
        """Read until the connection ends."""
        while chunk := await reader.read(65536):
            self.bytes += len(chunk)
            self.chunks += 1
            if listen:
                self._heard.put_nowait(chunk)
        self.lost += 1

    async def until(self, wanted: bytes) -> None:
        """Wait until the first page has been told something."""
        out.print("waiting for the first progress …")
        while wanted not in await self._heard.get():
            pass


async def _open(url: str, token: str, count: int, exits: contextlib.AsyncExitStack) -> Readers:
    async with httpx.AsyncClient(base_url=url, headers={"Origin": url}) as client:
        signed_in = await client.post("/sign-in", data={"token": token})
        session = "; ".join(f"{name}={value}" for name, value in signed_in.cookies.items())
    readers = Readers()
    tasks = await exits.enter_async_context(asyncio.TaskGroup())
    few = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with few:
            reader, writer = await _page(url, f"{session}; cdds_zone={ZONES[number % len(ZONES)]}")
        exits.callback(writer.close)
        tasks.create_task(readers.follow(reader, listen=number == 0))

    async with asyncio.TaskGroup() as opening:
        for number in range(count):
            opening.create_task(one(number))
    return readers


async def _page(url: str, cookies: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    # By hand, because the pages are many and share the processors with the console that is measured.
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"GET /live HTTP/1.1\r\nHost: {parts.netloc}\r\nCookie: {cookies}\r\n\r\n".encode())
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError(f"no live feed: {status.decode()}")
    await reader.readuntil(b"retry: ")
    return reader, writer
