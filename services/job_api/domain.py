"""The rules of jobs and certificates: what may be submitted, and which states a job passes through."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from shared.events import Job, JobState, SuspendedReason
from shared.jobs import Fixed, JobSettings, Once
from shared.sources import DataType, Source

MIN_RSA_BITS = 2048
GOOD_RSA_BITS = 3072
EXPIRY_WARNINGS = (timedelta(days=7), timedelta(days=14), timedelta(days=30))


class JobError(Exception):
    """Base of what job_api refuses."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One field that can't be accepted, and what to do about it."""

    pointer: str
    message: str
    remedy: str


class SettingsRefused(JobError):
    """The settings can't be accepted."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{fault.pointer}: {fault.message}" for fault in self.faults))


class CertificateRequired(JobError):
    """An encrypted job needs a valid certificate; add one under /api/v1/certificates first."""


class CertificateRefused(JobError):
    """The certificate can't be accepted."""


class KeyTaken(JobError):
    """Another job of the tenant has this key."""


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


# --- jobs ---------------------------------------------------------------------------------------------------------


def new_job(
    settings: JobSettings, *, job_id: UUID, created_by: str, now: datetime,
    sources: Mapping[str, Source], certificates: Iterable[Certificate],
) -> Job:  # fmt: skip
    """The job as stored on submission; raises SettingsRefused or CertificateRequired."""
    faults = [*_source_faults(settings, sources), *_time_faults(settings, now)]
    usable = {c.fingerprint for c in certificates if c.valid_at(now)}
    unknown = set(settings.recipients or ()) - usable
    if unknown:
        faults.append(
            Fault(
                "/recipients",
                f"no valid certificate {', '.join(sorted(unknown))}",
                "Use fingerprints of GET /certificates.",
            )
        )
    if faults:
        raise SettingsRefused(faults)
    if not usable:
        raise CertificateRequired
    born_done = isinstance(settings.schedule, Once) and settings.immediately
    return Job(
        id=job_id,
        version=1,
        state=JobState.SUSPENDED if born_done else JobState.ACTIVE,
        suspended_reason=SuspendedReason.ONE_TIME if born_done else None,
        created_at=now,
        updated_at=now,
        created_by=created_by,
        settings=settings,
    )


def complete(job: Job, now: datetime) -> Job | None:
    """The one-time job after its only slot was requested; None when there is nothing to do."""
    if job.state is not JobState.ACTIVE or not isinstance(job.settings.schedule, Once):
        return None
    return job.model_copy(
        update={
            "version": job.version + 1,
            "state": JobState.SUSPENDED,
            "suspended_reason": SuspendedReason.ONE_TIME,
            "updated_at": now,
        }
    )


def _source_faults(settings: JobSettings, sources: Mapping[str, Source]) -> list[Fault]:
    source = sources.get(settings.source)
    if source is None:
        return [
            Fault("/source", f"there is no source {settings.source!r}", f"Use one of: {', '.join(sorted(sources))}.")
        ]
    data_type = source.types.get(settings.type)
    if data_type is None:
        return [
            Fault(
                "/type",
                f"{settings.source} has no type {settings.type!r}",
                f"Use one of: {', '.join(sorted(source.types))}.",
            )
        ]
    return _media_faults(settings, data_type)


def _media_faults(settings: JobSettings, data_type: DataType) -> list[Fault]:
    if settings.media_types == "all":
        return []
    if not data_type.media_types:
        return [Fault("/media_types", f"{settings.type} has no media types", 'Leave it out or use "all".')]
    unknown = sorted(set(settings.media_types) - set(data_type.media_types))
    if unknown:
        known = ", ".join(data_type.media_types)
        return [Fault("/media_types", f"unknown: {', '.join(unknown)}", f"Use some of: {known}.")]
    return []


def _time_faults(settings: JobSettings, now: datetime) -> list[Fault]:
    faults: list[Fault] = []
    if isinstance(settings.start, datetime) and settings.start < now and isinstance(settings.schedule, Once):
        faults.append(Fault("/start", "is in the past", 'Use a later time, or "immediately".'))
    if settings.ends_at is not None and settings.ends_at <= now:
        faults.append(Fault("/ends_at", "is in the past", "Use a later time, or leave it out."))
    if isinstance(settings.timeframe, Fixed):
        first_slot = settings.start if isinstance(settings.start, datetime) else now
        if settings.timeframe.to > first_slot:
            faults.append(
                Fault("/timeframe/to", "lies after the slot", "Use an end that has passed when the job runs first.")
            )
    return faults


# --- certificates -------------------------------------------------------------------------------------------------


def read_certificate(text: bytes, now: datetime) -> Certificate:
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
        for refused, why in _certificate_faults(certificate, now):
            if refused:
                raise CertificateRefused(why)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateRefused(f"This is not an X.509 certificate in PEM or DER form: {error}.") from error
    return Certificate(
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        subject=certificate.subject.rfc4514_string(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


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


def _certificate_faults(certificate: x509.Certificate, now: datetime) -> Iterable[tuple[bool, str]]:
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        yield True, "The certificate's key is not RSA; exports are encrypted for RSA keys."
        return
    yield key.key_size < MIN_RSA_BITS, f"The RSA key has {key.key_size} bits; use {MIN_RSA_BITS} or more."
    yield (
        isinstance(certificate.signature_hash_algorithm, hashes.SHA1 | hashes.MD5),
        "It is signed with SHA-1 or MD5; sign it with SHA-256.",
    )
    yield certificate.not_valid_after_utc < now, "The certificate has expired; send a current one."
    yield (
        certificate.not_valid_before_utc > now,
        "The certificate is not valid yet; send it when its validity has begun.",
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
