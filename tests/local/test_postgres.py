"""The embedded PostgreSQL, started for real: answers, restarts, crashes and leftovers of a killed parent."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import pytest

from deploy.local.postgres import FAST_AND_UNSAFE, EmbeddedPostgres
from deploy.local.processes import StartFailed


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not `tmp_path`: every starting pytest closes its root to other users, and as root the server is another user.
    with TemporaryDirectory(prefix="cdds-") as path:
        yield Path(path)


@pytest.fixture
async def postgres(folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    async with EmbeddedPostgres(folder / "postgres", settings=FAST_AND_UNSAFE) as server:
        yield server


async def fetch(server: EmbeddedPostgres, statement: str, database: str = "postgres") -> Any:
    connection = await asyncpg.connect(server.dsn(database))
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_it_is_postgresql_18_in_utc(postgres: EmbeddedPostgres):
    assert (await fetch(postgres, "SHOW server_version")).startswith("18.")
    assert await fetch(postgres, "SHOW timezone") == "UTC"
    assert await fetch(postgres, "SHOW max_connections") == "200"
    assert await fetch(postgres, "SHOW listen_addresses") == "127.0.0.1"
    assert await fetch(postgres, "SHOW fsync") == "off"
    assert await fetch(postgres, "SELECT lower('ÄÖ') || upper('é')") == "äöÉ"


async def test_a_database_is_made_once_copied_from_a_template_and_dropped(postgres: EmbeddedPostgres):
    await postgres.create_database('odd "name"')
    await postgres.create_database('odd "name"')
    await fetch(postgres, "CREATE TABLE numbers AS SELECT 7 AS number", 'odd "name"'.replace('"', "%22"))
    await postgres.create_database("copy", template='odd "name"')
    assert await fetch(postgres, "SELECT number FROM numbers", "copy") == 7
    await postgres.drop_database("copy")
    await postgres.drop_database("copy")
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await fetch(postgres, "SELECT 1", "copy")


async def test_a_restart_keeps_the_address_and_the_data(postgres: EmbeddedPostgres):
    await fetch(postgres, "CREATE TABLE numbers AS SELECT 7 AS number")
    before = postgres.dsn()
    await postgres.stop()
    assert await postgres.wait() == 0
    with pytest.raises(OSError, match="Connect"):
        await fetch(postgres, "SELECT 1")
    await postgres.start()
    assert postgres.dsn() == before
    assert await fetch(postgres, "SELECT number FROM numbers") == 7


async def test_a_kill_loses_no_commit_even_while_sessions_are_open(postgres: EmbeddedPostgres):
    connections = [await asyncpg.connect(postgres.dsn()) for _ in range(20)]
    await connections[0].execute("CREATE TABLE numbers (number int)")
    for number, connection in enumerate(connections):
        await connection.execute("INSERT INTO numbers VALUES ($1)", number)
    postgres.kill()
    await postgres.start()
    assert await fetch(postgres, "SELECT count(*) FROM numbers") == 20
    for connection in connections:
        connection.terminate()


async def test_a_server_forgotten_by_a_killed_parent_is_stopped_first(postgres: EmbeddedPostgres):
    await fetch(postgres, "CREATE TABLE numbers AS SELECT 7 AS number")
    async with EmbeddedPostgres(postgres.data, settings=FAST_AND_UNSAFE) as successor:
        assert await postgres.wait() == 0
        assert successor.pid != postgres.pid
        assert await fetch(successor, "SELECT number FROM numbers") == 7


async def test_a_killed_server_whose_death_nobody_has_noticed_is_waited_for(postgres: EmbeddedPostgres):
    await fetch(postgres, "CREATE TABLE numbers AS SELECT 7 AS number")
    await postgres.stop()
    account = "nobody" if os.geteuid() == 0 else None
    with subprocess.Popen(["true"], user=account) as dead:  # until somebody asks how it ended, its number is taken
        (postgres.data / "postmaster.pid").write_text(f"{dead.pid}\n")
        starting = asyncio.create_task(postgres.start())
        async with asyncio.timeout(60):
            while not any("already exists" in line for line in postgres._server.last_lines):
                await asyncio.sleep(0.01)
    await starting
    assert await fetch(postgres, "SELECT number FROM numbers") == 7


async def test_an_interrupted_initdb_leaves_nothing_that_looks_finished(folder: Path):
    half = folder / "postgres.unfinished"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    async with EmbeddedPostgres(folder / "postgres", settings=FAST_AND_UNSAFE) as server:
        assert await fetch(server, "SELECT 1") == 1
    assert not half.exists()


async def test_a_start_that_fails_says_why(folder: Path):
    server = EmbeddedPostgres(folder / "postgres", settings={**FAST_AND_UNSAFE, "shared_buffers": "lots"})
    with pytest.raises(StartFailed, match='invalid value for parameter "shared_buffers"'):
        await server.start()
