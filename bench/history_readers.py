"""How much memory the readers of history's event stream cost its process."""

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

WARM_UP: Final = 50
AT_ONCE: Final = 50


@dataclass(frozen=True, slots=True)
class ReadersCost:
    """What `readers` connections to the stream took, all open at once; NaN without /proc."""

    readers: int
    kib_each: float
    rss_mib: float


async def cost_of_readers(url: str, pid: int, token: str, readers: int = 500) -> ReadersCost:
    """Open `readers` streams of the history at `url` and say by how much the memory of its process `pid` grew.

    Ask a process that was just started: a second time the memory of the first readers is used again. Some more readers
    come before the others, so that what the first one makes the process load is not counted.
    """
    async with contextlib.AsyncExitStack() as exits:
        await _open(url, token, WARM_UP, exits)
        before = _rss_kib(pid)
        await _open(url, token, readers, exits)
        after = _rss_kib(pid)
    return ReadersCost(readers, (after - before) / readers, after / 1024)


async def _open(url: str, token: str, count: int, exits: contextlib.AsyncExitStack) -> None:
    """Open streams, a few at a time, until each has been told where it begins."""
    few = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with few:
            writer = await _reader(url, token)
            exits.callback(writer.close)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(count):
            tasks.create_task(one())


async def _reader(url: str, token: str) -> asyncio.StreamWriter:
    # By hand, because the clients are many and share one processor with the server that is measured.
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"GET /api/v1/stream HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError(f"no stream: {status.decode()}")
    await reader.readuntil(b"retry: ")
    return writer


def _rss_kib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return float("nan")
    return next(float(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS"))
