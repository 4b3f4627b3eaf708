"""Signing in at the organisation's identity provider: OpenID Connect, authorization code with PKCE.

What a session carries is the access token for our API, which the services check like any other; the ID token only
proves that the answer belongs to the sign-in that this browser began.
"""

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from secrets import compare_digest, token_urlsafe
from typing import Any, Final

import jwt
from httpx_oauth.clients.openid import OpenID
from httpx_oauth.exceptions import HTTPXOAuthError

from services.console.domain.sessions import Session, SignIn
from shared.auth import ALGORITHMS
from shared.observability import log

KEPT_RENEWALS: Final = 256
"""Requests that were sent with the same old cookie get the same new tokens, for providers take a refresh token once."""


class Unreachable(Exception):
    """The identity provider does not answer."""


class Failed(Exception):
    """The identity provider, or what came back from it, does not let somebody in; safe to show."""


@dataclass(frozen=True, slots=True)
class Client:
    """What the console is to the identity provider."""

    issuer: str
    client_id: str
    client_secret: str
    redirect: str
    """Where the provider sends browsers back to; it must be registered there."""
    scope: Sequence[str]
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    """More parameters of the authorization request, such as `resource` or `audience`, as the provider wants them."""


class Identity:
    """One identity provider, found by its issuer."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._provider: OpenID | None = None
        self._keys: jwt.PyJWKClient | None = None
        self._renewals: dict[str, asyncio.Task[Session | None]] = {}

    async def begin(self, next_page: str) -> tuple[str, SignIn]:
        """The address to send a browser to, and what to remember meanwhile; raises Unreachable."""
        provider = await self._discovered()
        begun = SignIn(token_urlsafe(24), token_urlsafe(24), token_urlsafe(48), next_page)
        digest = sha256(begun.verifier.encode()).digest()
        address = await provider.get_authorization_url(
            self._client.redirect, begun.state, list(self._client.scope),
            code_challenge=base64.urlsafe_b64encode(digest).decode().rstrip("="), code_challenge_method="S256",
            extras_params={"nonce": begun.nonce, **self._client.parameters},
        )  # fmt: skip
        return address, begun

    async def finish(self, begun: SignIn | None, state: str | None, code: str | None) -> Session:
        """The session of who came back with a code; raises Failed and Unreachable."""
        if begun is None or state is None or not compare_digest(begun.state.encode(), state.encode()):
            raise Failed("This sign-in was not begun here, or too long ago. Sign in again.")
        if code is None:
            raise Failed("The identity provider did not let you in.")
        provider = await self._discovered()
        try:
            tokens: Mapping[str, Any] = await provider.get_access_token(code, self._client.redirect, begun.verifier)
        except HTTPXOAuthError as error:
            log.warning("code was not taken", error=str(error))
            raise Failed("The identity provider did not take the code that it gave. Sign in again.") from error
        await self._check(tokens, begun.nonce)
        return Session(str(tokens["access_token"]), tokens.get("refresh_token"))

    async def renew(self, refresh_token: str) -> Session | None:
        """The session that goes on from a refresh token; None when it has to be begun again."""
        if refresh_token not in self._renewals:
            if len(self._renewals) >= KEPT_RENEWALS:
                self._renewals.pop(next(iter(self._renewals)))
            self._renewals[refresh_token] = asyncio.create_task(self._renewed(refresh_token))
        renewed = await asyncio.shield(self._renewals[refresh_token])
        if renewed is None:
            self._renewals.pop(refresh_token, None)
        return renewed

    async def _renewed(self, refresh_token: str) -> Session | None:
        try:
            provider = await self._discovered()
            tokens: Mapping[str, Any] = await provider.refresh_token(refresh_token)
        except (HTTPXOAuthError, Unreachable) as error:
            log.warning("session was not renewed", error=str(error))
            return None
        return Session(str(tokens["access_token"]), tokens.get("refresh_token", refresh_token))

    async def _discovered(self) -> OpenID:
        if self._provider is None:
            client, where = self._client, f"{self._client.issuer.rstrip('/')}/.well-known/openid-configuration"
            try:
                # It asks with blocking I/O, once.
                found = await asyncio.to_thread(OpenID, client.client_id, client.client_secret, where)
            except HTTPXOAuthError as error:
                raise Unreachable(str(error)) from error
            self._keys = jwt.PyJWKClient(found.openid_configuration["jwks_uri"])
            self._provider = found
        return self._provider

    async def _check(self, tokens: Mapping[str, Any], nonce: str) -> None:
        """Raise Failed unless the ID token is for us and for this sign-in."""
        assert self._keys is not None
        try:
            id_token = str(tokens.get("id_token", ""))
            key = await asyncio.to_thread(self._keys.get_signing_key_from_jwt, id_token)
            claims = jwt.decode(
                id_token, key, algorithms=list(ALGORITHMS), audience=self._client.client_id,
                issuer=self._client.issuer, options={"require": ["exp", "iat", "iss", "aud", "sub", "nonce"]},
            )  # fmt: skip
        except jwt.PyJWKClientConnectionError as error:
            raise Unreachable("its keys can't be read") from error
        except jwt.PyJWTError as error:
            log.warning("ID token refused", error=str(error))
            raise Failed("What the identity provider sent can't be trusted. Tell your operator.") from error
        if not compare_digest(str(claims["nonce"]), nonce):
            raise Failed("This sign-in was not begun here. Sign in again.")
