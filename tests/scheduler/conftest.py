"""A scheduler's database, which the tests that need no other one share, one after the other."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.scheduler.store import Store, writing
from shared.database import Database, connect
from tests.conftest import fresh_database
from tests.scheduler.world import World, save_and_find


@pytest.fixture(scope="session")
async def shared_database(postgres: EmbeddedPostgres, templates: dict[str, str]) -> AsyncIterator[Database]:
    async with (
        fresh_database(postgres, templates["scheduler"]) as dsn,
        connect(dsn, "scheduler", outbox=True) as database,
    ):
        yield database


@pytest.fixture
async def database(shared_database: Database) -> Database:
    """Emptying its tables takes a tenth of the time of a fresh database."""
    async with shared_database.transaction() as connection:
        await connection.execute("SET LOCAL ROLE NONE")  # the login role owns the tables
        await connection.execute("TRUNCATE schedules, slots, backfills, outbox")
    return shared_database


@pytest.fixture(autouse=True)
def careful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a store of this process writes, it finds."""
    monkeypatch.setattr(writing, "save", save_and_find)


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database, lambda _: timedelta(0))


@pytest.fixture
def world(database: Database) -> World:
    return World(database)
