"""A migrated database and a store on it, and a client of the HTTP edge."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from deploy.local.postgres import EmbeddedPostgres
from services.exporter import api
from services.exporter.config import Settings
from services.exporter.pipeline import Catalogue, ObjectStore
from services.exporter.pipeline.manifest import SigningKey
from services.exporter.store import Store
from shared.auth import Authenticator, issue
from shared.database import Database, connect
from shared.http import create_app
from tests.conftest import fresh_database

ISSUER = "https://issuer.test"

TokenFor = Callable[[str, str], str]
Serving = Callable[[Catalogue], AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture(scope="session")
async def exporter_database(postgres: EmbeddedPostgres, templates: dict[str, str]) -> AsyncIterator[Database]:
    async with (
        fresh_database(postgres, templates["exporter"]) as dsn,
        connect(dsn, "exporter", outbox=True) as database,
    ):
        yield database


@pytest.fixture
async def database(exporter_database: Database) -> Database:
    """An empty database. Emptying costs 10 ms, copying the template 200 ms of CPU time."""
    async with exporter_database.transaction() as connection:
        await connection.execute("SET LOCAL ROLE NONE")  # the login role owns the tables
        await connection.execute(
            "TRUNCATE runs, turns, artifacts, documents, chain_heads, certificates, cancellations, outbox"
        )
        await connection.execute("UPDATE sweeps SET due_at = now()")
    return exporter_database


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database, timedelta(days=30))


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


@pytest.fixture(scope="session")
def signing_key() -> SigningKey:
    return SigningKey(Ed25519PrivateKey.generate())


@pytest.fixture
def settings(tmp_path: Path, token_key: Ed25519PrivateKey) -> Settings:
    """Settings of a worker that beats twenty times a second; addresses that no test connects to are made up."""
    public = tmp_path / "tokens.pem"
    public.write_bytes(token_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    private = tmp_path / "signing.pem"
    private.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return Settings(
        http_port=1,
        postgres="postgresql://127.0.0.1:1/none",
        kafka="127.0.0.1:1",
        auth_issuer=ISSUER,
        auth_public_key=public,
        sources=tmp_path / "sources.toml",
        objects=str(tmp_path / "objects"),
        signing_key=private,
        beat=timedelta(milliseconds=50),
        worker="w1",
    )


@pytest.fixture
def token_for(token_key: Ed25519PrivateKey) -> TokenFor:
    """`token_for("operator", "t1")`: an access token."""

    def make(role: str, tenant: str) -> str:
        return issue(
            token_key, ISSUER, subject=f"{role}@{tenant}", tenant=tenant, role=role, lifetime=timedelta(hours=1)
        )

    return make


@pytest.fixture
def serving(settings: Settings, store: Store, objects: ObjectStore, signing_key: SigningKey) -> Serving:
    """`async with serving(catalogue) as client`: the HTTP edge, without a server."""

    @asynccontextmanager
    async def serve(catalogue: Catalogue) -> AsyncGenerator[httpx.AsyncClient]:
        app = create_app("CDDS exporter", Authenticator(settings), {}, api.PROBLEMS)
        app.include_router(api.router(store, objects, signing_key, catalogue))
        # The application answers, then raises what it did not expect for the server's log.
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://exporter") as client:
            yield client

    return serve
