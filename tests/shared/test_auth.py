"""Bearer tokens: only a current access token, for us, from our issuer, signed by a key we know."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm
from pydantic import SecretStr

from shared import auth
from shared.auth import ALGORITHMS, Authenticator, Principal, Scope, Unauthenticated
from shared.config import ServiceSettings
from shared.database import is_outage

ISSUER = "tests"


def authenticator(**choices: Any) -> Authenticator:
    return Authenticator(ServiceSettings(http_port=1, postgres=SecretStr(""), kafka="", auth_issuer=ISSUER, **choices))


@pytest.fixture
def public_key(token_key: Ed25519PrivateKey) -> bytes:
    return token_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def verifier(public_key: bytes, tmp_path: Path) -> Authenticator:
    path = tmp_path / "token.pem"
    path.write_bytes(public_key)
    return authenticator(auth_public_key=path)


def claims(**changes: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    plain = {
        "iss": ISSUER, "aud": "cdds", "sub": "alice", "tenant": "acme", "iat": now, "exp": now + timedelta(minutes=5),
        "scope": "cdds.read",
    }  # fmt: skip
    return {name: value for name, value in {**plain, **changes}.items() if value is not ...}


def signed(key: Any, *, algorithm: str = "EdDSA", header: dict[str, Any] | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers={"typ": "at+jwt", **(header or {})})


def unsigned(header: dict[str, Any], body: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header, default=str).encode(), json.dumps(body, default=str).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


async def test_a_token_we_issued_names_its_caller(verifier: Authenticator, token_key: Ed25519PrivateKey) -> None:
    token = auth.issue(
        token_key, ISSUER, subject="alice", tenant="acme", role="operator", lifetime=timedelta(minutes=5)
    )
    expires_at = datetime.fromtimestamp(jwt.decode(token, options={"verify_signature": False})["exp"], UTC)
    scopes = frozenset({Scope.READ, Scope.OPERATE})
    assert await verifier.principal(token) == Principal("alice", "acme", scopes, expires_at)


async def test_a_token_may_expire_later_than_calendars_go(
    verifier: Authenticator, token_key: Ed25519PrivateKey
) -> None:
    principal = await verifier.principal(signed(token_key, exp=2**62))

    assert principal.expires_at == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"iss": "somebody"}, id="another issuer"),
        pytest.param({"iss": ...}, id="no issuer"),
        pytest.param({"aud": "another"}, id="another audience"),
        pytest.param({"aud": ...}, id="no audience"),
        pytest.param({"exp": datetime.now(UTC) - timedelta(seconds=1)}, id="expired"),
        pytest.param({"exp": ...}, id="never expires"),
        pytest.param({"nbf": datetime.now(UTC) + timedelta(days=1)}, id="not valid yet"),
        pytest.param({"sub": ...}, id="no subject"),
        pytest.param({"tenant": ...}, id="no tenant"),
        pytest.param({"tenant": None}, id="null tenant"),
        pytest.param({"tenant": ""}, id="empty tenant"),
        pytest.param({"tenant": ["acme", "globex"]}, id="several tenants"),
        pytest.param({"tenant": "a\0b"}, id="NUL in the tenant"),
        pytest.param({"header": {"typ": "JWT"}}, id="an id token"),
        pytest.param({"header": {"typ": 7}}, id="a typ that is no text"),
    ],
)
async def test_a_token_with_a_wrong_claim_is_refused(
    verifier: Authenticator, token_key: Ed25519PrivateKey, changes: dict[str, Any]
) -> None:
    with pytest.raises(Unauthenticated):
        await verifier.principal(signed(token_key, **changes))


async def test_the_public_key_as_an_hmac_secret_opens_nothing(verifier: Authenticator, public_key: bytes) -> None:
    header = {"alg": "HS256", "typ": "at+jwt"}
    text = unsigned(header, {**claims(), "exp": 2**33, "iat": 0}).rpartition(".")[0]
    hmac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(text.encode(), public_key)
    with pytest.raises(Unauthenticated):
        await verifier.principal(f"{text}.{base64.urlsafe_b64encode(hmac).decode().rstrip('=')}")


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "none", "None", "HS256", "ES512", "", "\0", 7, None])
async def test_a_forged_signature_is_refused_whatever_algorithm_it_claims(
    verifier: Authenticator, algorithm: object
) -> None:
    body = {**claims(), "exp": 2**33, "iat": 0}
    for signature in (b"", b"x" * 64, b"x" * 256):
        with pytest.raises(Unauthenticated):
            await verifier.principal(unsigned({"alg": algorithm, "typ": "at+jwt"}, body, signature))


async def test_another_key_is_refused(verifier: Authenticator) -> None:
    with pytest.raises(Unauthenticated):
        await verifier.principal(signed(Ed25519PrivateKey.generate()))


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "..", "e30.e30.", "ä.ö.ü", "a" * 10_000])
async def test_what_is_no_token_at_all_is_refused(verifier: Authenticator, token: str) -> None:
    with pytest.raises(Unauthenticated):
        await verifier.principal(token)


# --- an identity provider -----------------------------------------------------------------------------------------


class IdentityProvider:
    """Serves its keys over HTTP; what it serves, and whether, can be changed."""

    def __init__(self) -> None:
        self.keys: dict[str, rsa.RSAPrivateKey] = {}
        self.answers = True
        self.asked = 0
        self.url = ""

    def rotate(self, name: str) -> None:
        self.keys = {name: rsa.generate_private_key(65537, 2048)}

    def token(self, name: str, key: rsa.RSAPrivateKey | None = None) -> str:
        return signed(key or self.keys[name], algorithm="RS256", header={"kid": name})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        public = [
            {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": name, "use": "sig", "alg": "RS256"}
            for name, key in self.keys.items()
        ]
        body = json.dumps({"keys": public}).encode()
        status = "200 OK" if self.answers else "503 Service Unavailable"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def provider() -> AsyncIterator[IdentityProvider]:
    provider = IdentityProvider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
    async with server:
        yield provider


async def test_keys_are_fetched_once_and_again_when_a_token_names_a_new_one(provider: IdentityProvider) -> None:
    verifier = authenticator(auth_jwks_url=provider.url)
    assert verifier._jwks
    # For half a minute after an answer, unknown key ids are refused unasked: nobody can make us flood the provider.
    verifier._jwks.cooldown_duration = 0
    provider.rotate("first")
    for _ in range(3):
        assert (await verifier.principal(provider.token("first"))).tenant == "acme"
    assert provider.asked == 1
    retired, withdrawn = provider.keys["first"], provider.token("first")
    provider.rotate("second")
    assert (await verifier.principal(provider.token("second"))).tenant == "acme"
    assert provider.asked == 2
    for forged in (withdrawn, signed(retired, algorithm="RS256", header={"kid": "second"})):
        with pytest.raises(Unauthenticated):
            await verifier.principal(forged)


@pytest.mark.parametrize("forge", [lambda p: p.token("first", rsa.generate_private_key(65537, 2048)),
                                   lambda p: signed(p.keys["first"], algorithm="RS256", header={"kid": "unknown"}),
                                   lambda p: signed(p.keys["first"], algorithm="RS256")],
                         ids=["another key", "unknown key id", "no key id"])  # fmt: skip
async def test_a_key_that_was_not_published_is_refused(
    provider: IdentityProvider, forge: Callable[[IdentityProvider], str]
) -> None:
    provider.rotate("first")
    with pytest.raises(Unauthenticated):
        await authenticator(auth_jwks_url=provider.url).principal(forge(provider))


async def test_an_identity_provider_that_is_away_is_an_outage_and_not_the_callers_fault(
    provider: IdentityProvider,
) -> None:
    provider.rotate("first")
    provider.answers = False
    with pytest.raises(Exception) as failed:  # noqa: PT011 - what it is taken for is what matters
        await authenticator(auth_jwks_url=provider.url).principal(provider.token("first"))
    assert is_outage(failed.value)
