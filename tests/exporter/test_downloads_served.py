"""Downloads over real connections: slow ones, abandoned ones, and one whose file is deleted under it."""

import asyncio
import logging
import resource
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
import uvicorn
from structlog.testing import capture_logs

from services.exporter import api
from services.exporter.api import files, sending
from services.exporter.config import Settings
from services.exporter.domain import Outcome, StoredFile, artifact_id
from services.exporter.loops import Janitor
from services.exporter.pipeline import Catalogue, ObjectStore
from services.exporter.pipeline.manifest import SigningKey
from services.exporter.store import Store
from shared.auth import Authenticator
from shared.database import Database
from shared.http import create_app
from shared.sources import Sources
from tests.exporter.conftest import TokenFor
from tests.exporter.runs import SCHEMA, claimed, names, published, requested, seal

MEGABYTE = 1_000_000
SIZE = 60 * MEGABYTE


@dataclass
class Served:
    """A server on a free port, and a request for a file of 60 MB."""

    port: int
    request: bytes

    async def begin(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Ask for the file and read its head; small buffers, so that what is not read stays with the server."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=65536)
        writer.write(self.request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        assert f"content-length: {SIZE}".encode() in head.lower()
        return reader, writer


@pytest.fixture
async def served(
    settings: Settings, store: Store, objects: ObjectStore, signing_key: SigningKey, token_for: TokenFor
) -> AsyncIterator[Served]:
    claim = await claimed(store, requested())
    stored = objects.write(f"{claim.prefix}/0001", (b"%c" % (n % 256) * MEGABYTE for n in range(60)))
    file = StoredFile(1, f"{claim.prefix}/0001", "export-0001.zip", stored.size, 10, stored.sha256, "Interaction")
    await store.succeed(claim, Outcome("750:750:", 10, stored.size, (file,), SCHEMA), seal)
    app = create_app("CDDS exporter", Authenticator(settings), {}, api.PROBLEMS)
    app.include_router(api.router(store, objects, signing_key, Catalogue(Sources(sources={}))))
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    )
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup()
    ticking = asyncio.create_task(server.main_loop())
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        path = f"/api/v1/files/{artifact_id(claim.run_id, 1, 1)}"
        token = token_for("operator", "t1")
        yield Served(port, f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    finally:
        server.should_exit = True
        await ticking
        await server.shutdown()


async def rest(reader: asyncio.StreamReader) -> int:
    count = 0
    while piece := await reader.read(MEGABYTE):
        count += len(piece)
    return count


async def downloaded(database: Database, times: int) -> None:
    assert names(await published(database)).count("ArtifactDownloaded") == times


async def test_a_file_deleted_under_its_download_breaks_the_connection_and_is_one_line_in_the_log(
    served: Served, store: Store, objects: ObjectStore, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with capture_logs() as logs:
        reader, writer = await served.begin()
        async with database.transaction() as connection:
            await connection.execute("UPDATE artifacts SET expires_at = now()")
        assert await Janitor(store, objects, timedelta()).step() == 1

        assert await rest(reader) < SIZE
        writer.close()

    broken = [line for line in logs if line["event"] == "download broke off"]
    assert len(broken) == 1
    assert not any("exc_info" in line for line in logs)
    assert not any(record.exc_info for record in caplog.records if record.levelno >= logging.WARNING)
    await downloaded(database, 1)


async def test_slow_readers_cost_a_piece_each_and_hold_nobody_up(served: Served, database: Database) -> None:
    slow = [await served.begin() for _ in range(8)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    reader, writer = await served.begin()
    assert await reader.readexactly(SIZE) == b"".join(b"%c" % n * MEGABYTE for n in range(60))
    writer.close()

    # 9 files of 60 MB would be 540 MB; peak is in KiB, and this one holds the file itself, twice.
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 4 * SIZE
    for reader, writer in slow:
        await reader.readexactly(MEGABYTE)
        writer.close()
    await downloaded(database, 9)


async def test_a_client_that_goes_away_gives_its_turn_back(served: Served, database: Database) -> None:
    for _ in range(files.CONCURRENT + 1):
        _, writer = await served.begin()
        writer.transport.abort()
    await downloaded(database, files.CONCURRENT + 1)


async def test_a_client_that_stops_reading_is_let_go(
    served: Served, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "STALL", timedelta(milliseconds=200))
    with capture_logs() as logs:
        reader, writer = await served.begin()
        async with asyncio.timeout(30):
            while not any(line["event"].startswith("download let go") for line in logs):
                await asyncio.sleep(0.05)
        assert await rest(reader) < SIZE
        writer.close()
