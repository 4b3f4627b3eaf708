"""What a browser keeps for the console, sealed into cookies, since the console keeps nothing."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

SESSION_SECONDS: Final = 7 * 24 * 3600
"""A session ends then at the latest."""
SIGN_IN_SECONDS: Final = 600
"""Who has not signed in by then begins again."""
COOKIE_BYTES: Final = 3_800
"""Browsers take 4,096 for a cookie with its name and attributes (RFC 6265, 6.1)."""


@dataclass(frozen=True, slots=True)
class Session:
    """What a browser is known by; `refresh_token` gets the next access token where there is one."""

    token: str
    refresh_token: str | None = None


@dataclass(frozen=True, slots=True)
class SignIn:
    """What has to be remembered while somebody is at the identity provider."""

    state: str
    nonce: str
    verifier: str
    next: str


class Sealer:
    """Seals with the first of its Fernet keys and opens with any."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = MultiFernet([Fernet(key) for key in keys])

    def seal(self, content: Session | SignIn) -> str:
        """A cookie's value that only this console can read."""
        return self._keys.encrypt(json.dumps(asdict(content)).encode()).decode()

    def session(self, sealed: str | None) -> Session | None:
        """The session in a cookie; None for none, one of other keys, or one that is too old."""
        found = self._open(sealed, SESSION_SECONDS)
        return None if found is None else Session(found["token"], found["refresh_token"])

    def sign_in(self, sealed: str | None) -> SignIn | None:
        """The sign-in that was begun; None as above."""
        found = self._open(sealed, SIGN_IN_SECONDS)
        return None if found is None else SignIn(**found)

    def kept_until(self, sealed: str) -> datetime:
        """When the session in a cookie ends at the latest; the cookie is one that was opened."""
        return datetime.fromtimestamp(self._keys.extract_timestamp(sealed) + SESSION_SECONDS, UTC)

    def _open(self, sealed: str | None, within_seconds: int) -> dict[str, str] | None:
        if not sealed:
            return None
        try:
            return json.loads(self._keys.decrypt(sealed, ttl=within_seconds))
        except (InvalidToken, ValueError):
            return None


def pieces(name: str, value: str) -> dict[str, str]:
    """Cookies that carry `value`, however long it is.

    >>> [(name, len(piece)) for name, piece in pieces("session", "x" * 5_000).items()]
    [('session', 3800), ('session-1', 1200)]
    """
    starts = range(0, max(len(value), 1), COOKIE_BYTES)
    return {_piece(name, index): value[start : start + COOKIE_BYTES] for index, start in enumerate(starts)}


def joined(name: str, cookies: Mapping[str, str]) -> str:
    """The value whose pieces are among `cookies`; empty when there is none."""
    return "".join(cookies[piece] for piece in pieces_among(name, cookies))


def pieces_among(name: str, cookies: Iterable[str]) -> list[str]:
    """The names of the pieces that a browser has, in their order."""
    known = set(cookies)
    found: list[str] = []
    while _piece(name, len(found)) in known:
        found.append(_piece(name, len(found)))
    return found


def _piece(name: str, index: int) -> str:
    return name if index == 0 else f"{name}-{index}"
