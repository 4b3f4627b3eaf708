"""Certificates as people see them: whether they serve, and how many days are left."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

WARN_DAYS: Final = (7, 14, 30)
MAKING_ONE: Final = (
    "openssl req -x509 -newkey rsa:3072 -sha256 -days 730 -subj /CN=exports -keyout key.pem -out certificate.pem"
)
"""Makes a key, for which OpenSSL asks a passphrase, and the certificate that belongs to it."""


@dataclass(frozen=True, slots=True)
class Validity:
    """How a certificate stands: `kind` is valid, soon, expired or future; `within` the warning it is in, in days."""

    kind: str
    days: int
    within: int | None = None

    @property
    def serves(self) -> bool:
        """Whether exports are encrypted for it now."""
        return self.kind in ("valid", "soon")

    @property
    def words(self) -> str:
        """The same for people.

        >>> Validity("soon", 1, 7).words, Validity("soon", 0, 7).words, Validity("valid", 300).words
        ('1 day left', 'Less than a day left', '300 days left')
        """
        if not self.serves:
            return "Expired" if self.kind == "expired" else "Not valid yet"
        if self.days == 0:
            return "Less than a day left"
        return f"{self.days:,} day{'' if self.days == 1 else 's'} left"


def validity(certificate: Mapping[str, Any], now: datetime) -> Validity:
    """How a certificate stands at `now`."""
    left = datetime.fromisoformat(certificate["not_after"]) - now
    if left.total_seconds() <= 0:
        return Validity("expired", 0)
    if datetime.fromisoformat(certificate["not_before"]) > now:
        return Validity("future", left.days)
    within = next((days for days in WARN_DAYS if left.total_seconds() <= days * 86_400), None)
    return Validity("valid" if within is None else "soon", left.days, within)


def serving(certificates: Iterable[Mapping[str, Any]], now: datetime) -> list[Mapping[str, Any]]:
    """Those that exports are encrypted for now, the one that lasts longest first."""
    found = [certificate for certificate in certificates if validity(certificate, now).serves]
    return sorted(found, key=lambda certificate: datetime.fromisoformat(certificate["not_after"]), reverse=True)


def grouped(fingerprint: str) -> str:
    """A fingerprint in the groups that people compare.

    >>> grouped("0a1b2c3d4e5f")
    '0A1B 2C3D 4E5F'
    """
    return " ".join(fingerprint[at : at + 4] for at in range(0, len(fingerprint), 4)).upper()
