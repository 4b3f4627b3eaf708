"""One PostgreSQL for the whole run, a fresh database per test, and a broker of each kind on demand."""

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deploy.local.kafka import EmbeddedKafka
from deploy.local.postgres import FAST_AND_UNSAFE, EmbeddedPostgres
from shared import database, migration
from shared.clock import floor_to
from shared.database import Database
from tests.brokers import apache_kafka

HOUR = timedelta(hours=1)
PUBLISHES = {"job_api": True, "scheduler": True, "exporter": True, "history": False}

# For every Java that a test starts: Kafka is up with two thirds of the work, and stops before more would pay off.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")

# An example takes as long as the machine lets it.
hypothesis.settings.register_profile("cdds", deadline=None)
hypothesis.settings.load_profile("cdds")

DatabaseOf = Callable[[str], Awaitable[Database]]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Parallel workers begin with the modules that take longest, so that they end together."""
    if config.getoption("dist", "no") != "no":
        longest = ("system", "simulation")
        items.sort(key=lambda item: not any(part in longest for part in item.path.parts))


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[EmbeddedPostgres]:
    """A real PostgreSQL, shared by all tests; each takes its own databases from it.

    Not under pytest's own folder: run by root, every pytest closes that one to the account PostgreSQL runs as. Another
    version than the embedded one is tested with CDDS_TEST_POSTGRES=/usr/lib/postgresql/15.
    """
    other = os.environ.get("CDDS_TEST_POSTGRES")
    with TemporaryDirectory(prefix="cdds-test-", ignore_cleanup_errors=True) as folder:
        async with EmbeddedPostgres(
            Path(folder) / "postgres", settings=FAST_AND_UNSAFE, installation=Path(other) if other else None
        ) as server:
            yield server


@pytest.fixture(scope="session")
async def templates(postgres: EmbeddedPostgres) -> dict[str, str]:
    """A migrated database per service, to be copied by tests."""
    names: dict[str, str] = {}
    for service, outbox in PUBLISHES.items():
        names[service] = f"template_{service}"
        await postgres.create_database(names[service])
        await migration.migrate(postgres.dsn(names[service]), service, outbox=outbox)
    return names


@pytest.fixture
async def quiet_hour() -> None:
    """No hourly slot, and so no daily one, comes due within the next two minutes."""
    now = datetime.now(UTC)
    left = floor_to(now, HOUR) + HOUR - now
    if left < timedelta(minutes=2):
        await asyncio.sleep((left + timedelta(seconds=5)).total_seconds())


_numbers = itertools.count()


@asynccontextmanager
async def fresh_database(postgres: EmbeddedPostgres, template: str = "template1") -> AsyncGenerator[str]:
    """The DSN of a new database, dropped afterwards."""
    name = f"test_{next(_numbers)}"
    await postgres.create_database(name, template)
    try:
        yield postgres.dsn(name)
    finally:
        await postgres.drop_database(name)


@pytest.fixture
async def database_of(postgres: EmbeddedPostgres, templates: dict[str, str]) -> AsyncIterator[DatabaseOf]:
    """`await database_of("scheduler")`: a pool on a fresh, migrated database of that service."""
    async with AsyncExitStack() as exits:

        async def make(service: str) -> Database:
            dsn = await exits.enter_async_context(fresh_database(postgres, templates[service]))
            return await exits.enter_async_context(database.connect(dsn, service, outbox=PUBLISHES[service]))

        yield make


@pytest.fixture(scope="session")
async def embedded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The bootstrap address of an embedded broker shared by tests that use topics of their own."""
    async with EmbeddedKafka(tmp_path_factory.mktemp("kafka") / "broker") as broker:
        yield broker.bootstrap


@pytest.fixture(scope="session", params=["embedded", pytest.param("apache", marks=pytest.mark.apache)])
async def bootstrap(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The address of each kind of broker in turn; tests use topics and groups of their own names."""
    if request.param == "embedded":
        async with EmbeddedKafka(tmp_path_factory.mktemp("kafka") / "broker") as broker:
            yield broker.bootstrap
    else:
        async with apache_kafka(tmp_path_factory.mktemp("apache") / "broker") as address:
            yield address


@pytest.fixture(scope="session")
def token_key() -> Ed25519PrivateKey:
    """The key that tokens in tests are signed with."""
    return Ed25519PrivateKey.generate()
