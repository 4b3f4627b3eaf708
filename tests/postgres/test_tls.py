"""What is refused when TLS is not as the DSN demands, and how it is said; by services, commands and sources."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from deploy.local.postgres import EmbeddedPostgres
from services.exporter.pipeline import source
from services.exporter.pipeline.errors import SourceUnavailable
from shared import connecting
from tests.authorities import Authority
from tests.cli.operate.commands import cdds
from tests.postgres.server import ROLES, SecureServer, secure_server

LOGIN = "scheduler_owner"


@pytest.fixture(scope="module")
async def secure() -> AsyncIterator[SecureServer]:
    async with secure_server(tls=True) as running:
        await running.psql(ROLES)
        yield running


@pytest.fixture
def dsns(secure: SecureServer, postgres: EmbeddedPostgres, tmp_path: Path) -> dict[str, tuple[str, str, str]]:
    """A DSN for each thing that is wrong, what we say of it, and what libpq does."""
    stranger = Authority(tmp_path / "stranger", "Another CA")
    unknown = stranger.issue(LOGIN)
    return {
        "another CA": (
            secure.dsn_of(LOGIN, sslrootcert=stranger.certificate),
            "not from the CA in sslrootcert", "certificate verify failed",
        ),
        "another host": (
            secure.dsn_of(LOGIN, host="127.0.0.1"), "is for another host", "does not match host name",
        ),
        "no TLS": (
            secure.dsn_of(LOGIN).replace(str(secure.postgres.port), str(postgres.port)),
            "the server does not speak TLS", "server does not support SSL",
        ),
        "no CA": (
            secure.dsn_of(LOGIN, sslrootcert=tmp_path / "none.pem"),
            "does not exist: correct the path", "does not exist",
        ),
        "a CA that is none": (
            secure.dsn_of(LOGIN, sslrootcert=Path(__file__)), "is no PEM file", "could not read root certificate file",
        ),
        "no certificate of ours": (
            secure.dsn_of(LOGIN, sslcert="", sslkey=""),
            "wants a certificate of the client", "valid client certificate",
        ),
        "a certificate of ours from elsewhere": (
            secure.dsn_of(LOGIN, sslcert=unknown.certificate, sslkey=unknown.key),
            "the server closed the connection", "alert unknown ca",
        ),
        "TLS not used": (
            secure.dsn_of(LOGIN, sslmode="disable"), "takes connections with TLS only", "no encryption",
        ),
    }  # fmt: skip


async def test_what_is_in_order_connects_verified_in_full(secure: SecureServer) -> None:
    connection = await connecting.connect(secure.dsn_of(LOGIN))
    assert await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    await connection.close()
    with source.connect(secure.dsn_of(LOGIN)) as read:
        [row] = read.execute("SELECT ssl, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchall()
        assert row == (True, f"/CN={LOGIN}")


async def test_what_is_not_is_refused_in_a_sentence(dsns: dict[str, tuple[str, str, str]]) -> None:
    for what, (dsn, sentence, of_libpq) in dsns.items():
        with pytest.raises(connecting.NoTrust, match=sentence) as refused:
            await connecting.connect(dsn)
        assert ":" in str(refused.value), f"{what}: a remedy is named"
        with pytest.raises(SourceUnavailable) as unavailable:
            source.connect(dsn)
        assert of_libpq in str(unavailable.value.__cause__), what


async def test_commands_say_so_and_name_the_remedy(
    dsns: dict[str, tuple[str, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, sentence, _ = dsns["another CA"]
    monkeypatch.setenv("CDDS_SCHEDULER_POSTGRES", dsn)
    ended = await cdds("migrate")
    assert ended.code == 4
    assert sentence in ended.error
    checked = await cdds("doctor", "--output", "json")
    [finding] = [f for f in checked.json()["findings"] if (f["check"], f["about"]) == ("postgresql", "server")]
    assert sentence in finding["message"]
    assert "TLS parameters of CDDS_SCHEDULER_POSTGRES" in finding["remedy"]


async def test_a_service_ends_and_says_why(
    dsns: dict[str, tuple[str, str, str]], secure: SecureServer, embedded: str, tmp_path: Path
) -> None:
    dsn, sentence, _ = dsns["another host"]
    key = tmp_path / "token.pem"
    key.write_bytes(
        Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    environment = {
        "CDDS_SCHEDULER_POSTGRES": dsn, "CDDS_SCHEDULER_KAFKA": embedded, "CDDS_SCHEDULER_HTTP_PORT": "1",
        "CDDS_SCHEDULER_LOCAL": "true", "CDDS_SCHEDULER_AUTH_ISSUER": "tests",
        "CDDS_SCHEDULER_AUTH_PUBLIC_KEY": str(key),
        "CDDS_SCHEDULER_SOURCES": str(Path("deploy/local/sources.toml").absolute()),
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.scheduler", env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert any(sentence in json.dumps(json.loads(line)) for line in output.decode().splitlines()), output.decode()
