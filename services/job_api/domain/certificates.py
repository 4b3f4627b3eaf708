"""The rules of certificates: which ones exports may be encrypted for, and what their owners should know."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from services.job_api.domain.errors import CertificateRefused, CertificateRequired
from shared.jobs import JobSettings

MIN_RSA_BITS: Final = 2048
GOOD_RSA_BITS: Final = 3072
EXPIRY_WARNINGS: Final = (timedelta(days=7), timedelta(days=14), timedelta(days=30))
_UNREADABLE: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that exports may be encrypted for; `fingerprint` is the SHA-256 of its DER form."""

    fingerprint: str
    pem: str
    subject: str
    not_before: datetime
    not_after: datetime

    def valid_at(self, moment: datetime) -> bool:
        """Whether `moment` lies in its validity."""
        return self.not_before <= moment <= self.not_after


@dataclass(frozen=True, slots=True)
class Validity:
    """How long the certificates of all tenants are valid.

    Each is counted once: expired, or within 7, 14 or 30 days, or later; `first` is how long until a valid one expires.
    """

    expired: int
    within_7_days: int
    within_14_days: int
    within_30_days: int
    later: int
    first: timedelta | None
    tenants_expired: int


def require_certificate(settings: JobSettings, certificates: Iterable[Certificate], now: datetime) -> None:
    """Raise CertificateRequired when nobody could read what the job would export."""
    wanted = settings.recipients
    usable = (c for c in certificates if c.valid_at(now) and (wanted is None or c.fingerprint in wanted))
    if settings.encryption != "none" and next(usable, None) is None:
        raise CertificateRequired


def read_certificate(text: bytes) -> Certificate:
    """The certificate in PEM or DER `text`; raises CertificateRefused with the reason and the remedy."""
    if b"PRIVATE KEY" in text:
        raise CertificateRefused(
            "The file holds a private key. Send only the certificate, and treat that key as known."
        )
    try:
        loaded = (
            x509.load_pem_x509_certificates(text) if b"-----BEGIN" in text else [x509.load_der_x509_certificate(text)]
        )
        if len(loaded) != 1:
            raise CertificateRefused("The file holds several certificates; send the recipient's one alone.")
        certificate = loaded[0]
        for refused, why in _certificate_faults(certificate):
            if refused:
                raise CertificateRefused(why)
        return Certificate(
            fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
            pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
            subject=certificate.subject.rfc4514_string(),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
        )
    except _UNREADABLE as error:
        raise CertificateRefused(f"This is not an X.509 certificate in PEM or DER form: {error}.") from error


def require_current(certificate: Certificate, now: datetime) -> None:
    """Raise CertificateRefused when `now` lies outside its validity."""
    if certificate.not_after < now:
        raise CertificateRefused("The certificate has expired; send a current one.")
    if certificate.not_before > now:
        raise CertificateRefused("The certificate is not valid yet; send it when its validity has begun.")


def warnings(certificate: Certificate, now: datetime) -> list[str]:
    """What the owner of an accepted certificate should know."""
    found: list[str] = []
    key = x509.load_pem_x509_certificate(certificate.pem.encode()).public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < GOOD_RSA_BITS:
        found.append(f"The key has {key.key_size} bits; {GOOD_RSA_BITS} or more are recommended.")
    left = certificate.not_after - now
    if left <= timedelta(0):
        found.append("The certificate has expired and is not used any more.")
    elif any(left <= limit for limit in EXPIRY_WARNINGS):
        found.append(f"The certificate expires in {left.days} days.")
    return found


def warnings_after_removal(left: Iterable[Certificate], now: datetime) -> list[str]:
    """What the tenant should know when these certificates are left."""
    if any(certificate.valid_at(now) for certificate in left):
        return []
    return ["No valid certificate is left: encrypted jobs fail until one is added."]


def _certificate_faults(certificate: x509.Certificate) -> Iterable[tuple[bool, str]]:
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        yield True, "The certificate's key is not RSA; exports are encrypted for RSA keys."
        return
    yield key.key_size < MIN_RSA_BITS, f"The RSA key has {key.key_size} bits; use {MIN_RSA_BITS} or more."
    yield (
        isinstance(certificate.signature_hash_algorithm, hashes.SHA1 | hashes.MD5),
        "It is signed with SHA-1 or MD5; sign it with SHA-256.",
    )
    yield _is_authority(certificate), "This is a CA certificate; send the recipient's own certificate."
    yield not _may_encipher(certificate), "Its key usage does not allow key encipherment."


def _is_authority(certificate: x509.Certificate) -> bool:
    """A self-signed certificate made by plain `openssl req -x509` says CA:TRUE; it is an end user's all the same."""
    try:
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return certificate.issuer != certificate.subject


def _may_encipher(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_encipherment
    except x509.ExtensionNotFound:
        return True
