"""A real source, and workers on it."""

import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from deploy.local.postgres import EmbeddedPostgres
from services.exporter.config import Settings
from services.exporter.loops import Worker, attempt
from services.exporter.pipeline import ObjectStore
from services.exporter.pipeline.manifest import SigningKey
from services.exporter.store import Store
from shared.sources import Sources
from tests.conftest import fresh_database
from tests.exporter.loops.working import SOURCES, Held, Ticks, added
from tests.exporter.test_pipeline_cms import identity


@pytest.fixture(scope="module")
async def source(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """Ten rows of each of two tenants, and a view that takes seconds to read."""
    async with fresh_database(postgres) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                """CREATE TABLE interaction AS
                   SELECT i AS id, timestamptz '2026-01-01' + i * interval '1 s' AS at, 't' || i % 2 + 1 AS tenant,
                          repeat('canary of t' || i % 2 + 1, 20) AS text FROM generate_series(1, 20) i"""
            )
            connection.execute("CREATE TABLE note AS SELECT 1 AS id, timestamptz '2026-01-01' AS at")
            connection.execute(
                """CREATE VIEW endless AS
                   SELECT i AS id, timestamptz '2026-01-01' AS at, 't1' AS tenant, md5(i::text) || md5((-i)::text) AS x
                   FROM generate_series(1, 400000) i"""
            )
            connection.execute(
                """CREATE VIEW long AS
                   SELECT i AS id, timestamptz '2026-01-01' AS at, 't1' AS tenant, md5(i::text) AS x
                   FROM generate_series(1, 4000000) i"""
            )
            connection.execute(
                "CREATE VIEW stuck AS SELECT 1 AS id, timestamptz '2026-01-01' AS at, 't1' AS tenant "
                "FROM (SELECT pg_sleep(600) OFFSET 0) s"
            )
        yield dsn


@pytest.fixture
def sources(source: str, tmp_path: Path) -> Sources:
    (tmp_path / "ucs.dsn").write_text(source)
    (tmp_path / "sources.toml").write_text(SOURCES.format(folder=tmp_path))
    return Sources.load(tmp_path / "sources.toml")


@pytest.fixture(scope="module")
def recipient() -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    return identity("recipient")


@pytest.fixture
async def certificate(store: Store, recipient: tuple[rsa.RSAPrivateKey, x509.Certificate]) -> x509.Certificate:
    """The recipient's certificate, added by an event as job_api sends it."""
    await store.keep_certificate(added(recipient[1]))
    return recipient[1]


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
async def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Held:
    held = Held(tmp_path / "objects")

    class Stop(threading.Event):
        def set(self) -> None:
            super().set()
            held.told_to_stop.set()

    monkeypatch.setattr(attempt, "Stop", Stop)
    return held


@pytest.fixture
def worker(
    settings: Settings, store: Store, objects: ObjectStore, sources: Sources, signing_key: SigningKey, ticks: Any
) -> Worker:
    return Worker(settings, store, objects, sources, signing_key, ticks)
