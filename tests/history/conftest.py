"""A migrated database and a store on it, and a client of the HTTP edge."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from deploy.local.postgres import EmbeddedPostgres
from services.history import api
from services.history.config import Settings
from services.history.feed import Feed
from services.history.store import Store
from shared.auth import Authenticator, issue
from shared.database import Database, connect
from shared.http import create_app
from tests.conftest import fresh_database
from tests.history.events import empty

ISSUER = "https://issuer.test"

HeadersFor = Callable[..., dict[str, str]]


@pytest.fixture(scope="session")
async def history_database(postgres: EmbeddedPostgres, templates: dict[str, str]) -> AsyncIterator[Database]:
    async with fresh_database(postgres, templates["history"]) as dsn, connect(dsn, "history") as database:
        await Store(database).keep_partitions()
        yield database


@pytest.fixture
async def database(history_database: Database) -> Database:
    """An empty database. Emptying costs a fiftieth of the CPU time of copying the template."""
    await empty(history_database)
    return history_database


@pytest.fixture
async def store(database: Database) -> Store:
    store = Store(database)
    await store.look_at_partitions()
    return store


@pytest.fixture
def authenticator(tmp_path: Path, token_key: Ed25519PrivateKey) -> Authenticator:
    public = tmp_path / "tokens.pem"
    public.write_bytes(token_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    settings = Settings(
        http_port=1,
        postgres="postgresql://127.0.0.1:1/none",
        kafka="127.0.0.1:1",
        auth_issuer=ISSUER,
        auth_public_key=public,
    )
    return Authenticator(settings)


@pytest.fixture
async def client(store: Store, authenticator: Authenticator) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app("CDDS history", authenticator, {})
    app.include_router(api.router(store, Feed(store, timedelta(seconds=5))))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://history") as client:
        yield client


@pytest.fixture
def headers_for(token_key: Ed25519PrivateKey) -> HeadersFor:
    """`headers_for("t1")`: what a viewer of that tenant sends, or somebody in another role."""

    def make(tenant: str, role: str = "viewer") -> dict[str, str]:
        token = issue(token_key, ISSUER, subject="v", tenant=tenant, role=role, lifetime=timedelta(hours=1))
        return {"Authorization": f"Bearer {token}"}

    return make
