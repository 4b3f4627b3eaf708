"""Who is calling: bearer JWTs (RFC 9068) turned into a principal with a tenant and scopes."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.config import AuthSettings

ALGORITHMS: Final = ("EdDSA", "ES256", "RS256", "PS256")
"""Asymmetric only: a verifier that also took HS256 would accept tokens signed with the public key."""


class Scope(StrEnum):
    """What a token allows; roles are sets of scopes."""

    READ = "cdds.read"
    OPERATE = "cdds.operate"
    ADMINISTER = "cdds.administer"


ROLES: Final[dict[str, frozenset[Scope]]] = {
    "viewer": frozenset({Scope.READ}),
    "operator": frozenset({Scope.READ, Scope.OPERATE}),
    "admin": frozenset({Scope.READ, Scope.OPERATE, Scope.ADMINISTER}),
}


_LAST_SECOND: Final = 253_402_300_799  # 9999-12-31T23:59:59Z
_NEVER: Final = datetime.fromtimestamp(_LAST_SECOND, UTC)


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of one request."""

    subject: str
    tenant: str
    scopes: frozenset[str]
    expires_at: datetime = _NEVER
    """When the token expires, for answers that last longer than a moment."""


class Unauthenticated(Exception):
    """The token is missing or not valid."""


class Authenticator:
    """Verifies tokens against one public key (the local stack) or a JWKS document (production)."""

    def __init__(self, settings: AuthSettings) -> None:
        self._issuer = settings.auth_issuer
        self._audience = settings.auth_audience
        self._key = settings.auth_public_key.read_bytes() if settings.auth_public_key else None
        # The client keeps the document for five minutes; kept by themselves, keys would outlive their withdrawal.
        self._jwks = jwt.PyJWKClient(settings.auth_jwks_url) if settings.auth_jwks_url else None

    async def principal(self, token: str) -> Principal:
        """The caller named by `token`; raises Unauthenticated with a sentence that is safe to show.

        Raises ConnectionError when the identity provider can't be asked for its keys.
        """
        try:
            claims = jwt.decode(
                token,
                await self._verification_key(token),
                algorithms=list(ALGORITHMS),
                issuer=self._issuer,
                audience=self._audience,
                options={"require": ["exp", "iss", "aud", "sub", "tenant"]},
            )
            if str(jwt.get_unverified_header(token).get("typ", "")).lower() not in ("at+jwt", "application/at+jwt"):
                raise Unauthenticated("The token is not an access token (its typ is not at+jwt).")
        except jwt.PyJWKClientConnectionError as error:
            raise ConnectionError("the identity provider does not answer") from error
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"The token is not valid: {error}.") from error
        subject, tenant = claims["sub"], claims["tenant"]
        if not all(isinstance(name, str) and name and name.isprintable() for name in (subject, tenant)):
            raise Unauthenticated("The token's sub and tenant must be names.")
        return Principal(
            subject=subject,
            tenant=tenant,
            scopes=frozenset(str(claims.get("scope", "")).split()),
            # The verifier has read it as a whole number; some issuers write years that no calendar has.
            expires_at=datetime.fromtimestamp(min(int(claims["exp"]), _LAST_SECOND), UTC),
        )

    async def _verification_key(self, token: str) -> bytes | jwt.PyJWK:
        if self._key is not None:
            return self._key
        assert self._jwks is not None
        # The client fetches with blocking I/O, rarely: the document is cached.
        return await asyncio.to_thread(self._jwks.get_signing_key_from_jwt, token)


def issue(key: Ed25519PrivateKey, issuer: str, *, subject: str, tenant: str, role: str, lifetime: timedelta) -> str:
    """An access token of the local stack; production has an identity provider for this."""
    now = datetime.now(UTC)
    claims = {
        "iss": issuer,
        "aud": "cdds",
        "sub": subject,
        "client_id": "cdds-local",
        "jti": str(uuid4()),
        "iat": now,
        "exp": now + lifetime,
        "tenant": tenant,
        "scope": " ".join(sorted(ROLES[role])),
    }
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"typ": "at+jwt"})
