"""job_api over ASGI, on a real database, with tokens for everybody."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr

from deploy.local.postgres import EmbeddedPostgres
from services.job_api import api
from services.job_api.store import Store
from shared import auth
from shared.auth import Authenticator
from shared.config import ServiceSettings
from shared.database import Database, connect
from shared.http import create_app
from tests.conftest import fresh_database
from tests.job_api import certificates
from tests.job_api.jobs import operators_file

ISSUER = "tests"
TokenFor = Callable[..., dict[str, str]]


@pytest.fixture(scope="session")
async def shared_database(postgres: EmbeddedPostgres, templates: dict[str, str]) -> AsyncIterator[Database]:
    async with (
        fresh_database(postgres, templates["job_api"]) as dsn,
        connect(dsn, "job_api", outbox=True) as database,
    ):
        yield database


@pytest.fixture
async def database(shared_database: Database) -> Database:
    """An empty database. Emptying costs a small part of copying the template."""
    async with shared_database.transaction() as connection:
        await connection.execute("SET LOCAL ROLE NONE")  # the login role owns the tables
        await connection.execute("TRUNCATE jobs, runs, certificates, backfills, idempotency_keys, audit, outbox")
    return shared_database


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


@pytest.fixture(scope="session")
def bearer(token_key: Ed25519PrivateKey) -> TokenFor:
    """`bearer("acme", "viewer")`: the header of a request by somebody of that tenant with that role."""

    def header(tenant: str = "acme", role: str = "admin") -> dict[str, str]:
        token = auth.issue(token_key, ISSUER, subject="alice", tenant=tenant, role=role, lifetime=timedelta(minutes=10))
        return {"Authorization": f"Bearer {token}"}

    return header


@pytest.fixture(scope="session")
def verifier(token_key: Ed25519PrivateKey, tmp_path_factory: pytest.TempPathFactory) -> Authenticator:
    public = tmp_path_factory.mktemp("keys") / "token.pem"
    public.write_bytes(token_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    settings = ServiceSettings(
        http_port=1, postgres=SecretStr(""), kafka="", auth_issuer=ISSUER, auth_public_key=public
    )
    return Authenticator(settings)


@pytest.fixture
async def http(store: Store, verifier: Authenticator, bearer: TokenFor) -> AsyncIterator[httpx.AsyncClient]:
    """A client that is acme's administrator unless a request says otherwise."""
    async with client_of(store, verifier, bearer()) as client:
        yield client


@asynccontextmanager
async def client_of(
    store: Store, verifier: Authenticator, headers: dict[str, str]
) -> AsyncGenerator[httpx.AsyncClient]:
    """A client that sends `headers` unless a request says otherwise."""
    app = create_app("job_api", verifier, {}, api.PROBLEMS)
    app.include_router(api.router(store, operators_file()))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
        yield client


@pytest.fixture
async def certified(http: httpx.AsyncClient, bearer: TokenFor) -> None:
    """acme and globex can be exported for."""
    await certify(http, bearer)


async def certify(http: httpx.AsyncClient, bearer: TokenFor) -> None:
    """Give acme and globex a valid certificate."""
    now = datetime.now(UTC)
    current = certificates.pem(begins=now - timedelta(days=1), ends=now + timedelta(days=365))
    for tenant in ("acme", "globex"):
        answer = await http.post("/api/v1/certificates", content=current, headers=bearer(tenant))
        assert answer.status_code == 201
