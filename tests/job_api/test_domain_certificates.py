"""Whom exports may be encrypted for: every refusal and every warning, on its own."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from services.job_api.domain.certificates import Certificate, read_certificate, require_current, warnings
from services.job_api.domain.errors import CertificateRefused
from tests.job_api import certificates
from tests.job_api.certificates import NOW


def accepted_at(text: bytes, now: datetime) -> Certificate:
    certificate = read_certificate(text)
    require_current(certificate, now)
    return certificate


@pytest.mark.parametrize(("make", "reason"), [pytest.param(m, r, id=n) for n, m, r in certificates.refused()])
def test_a_certificate_that_exports_may_not_be_encrypted_for_is_refused(make: Any, reason: str) -> None:
    # The command line dates its certificates by the real clock.
    now = datetime.now(UTC) if reason in ("1024 bits", "SHA-1", "MD5") else NOW
    with pytest.raises(CertificateRefused, match=reason):
        accepted_at(make(), now)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(certificates.pem, id="PEM"),
        pytest.param(certificates.der, id="DER"),
        pytest.param(lambda: b"Subject: client\n\n" + certificates.pem(), id="PEM with text before it"),
        pytest.param(lambda: certificates.pem().replace(b"\n", b"\r\n"), id="PEM with Windows line ends"),
        pytest.param(
            lambda: certificates.pem(extensions=(certificates.usage(key_encipherment=True),)), id="key encipherment"
        ),
        pytest.param(
            lambda: certificates.pem(extensions=(x509.BasicConstraints(ca=True, path_length=None),)),
            id="self-signed as plain `openssl req -x509` makes it",
        ),
        pytest.param(lambda: certificates.pem(ends=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)), id="no expiry"),
    ],
)
def test_a_good_certificate_is_accepted(text: Any) -> None:
    accepted = accepted_at(text(), NOW)
    assert accepted.subject == "CN=client"
    loaded = x509.load_pem_x509_certificate(accepted.pem.encode())
    assert accepted.fingerprint == loaded.fingerprint(hashes.SHA256()).hex()
    assert accepted.valid_at(NOW)
    assert accepted.not_after == loaded.not_valid_after_utc


@pytest.mark.parametrize(
    ("bits", "left", "words"),
    [
        pytest.param(2048, timedelta(days=365), ["2048 bits"], id="a short key"),
        pytest.param(3072, timedelta(days=365), [], id="a good key"),
        pytest.param(3072, timedelta(days=30, seconds=1), [], id="more than 30 days"),
        pytest.param(3072, timedelta(days=30), ["in 30 days"], id="30 days"),
        pytest.param(3072, timedelta(days=14), ["in 14 days"], id="14 days"),
        pytest.param(3072, timedelta(days=7), ["in 7 days"], id="7 days"),
        pytest.param(3072, timedelta(hours=1), ["in 0 days"], id="an hour"),
        pytest.param(2048, timedelta(days=7), ["2048 bits", "in 7 days"], id="both"),
        pytest.param(3072, timedelta(0), ["has expired"], id="over"),
    ],
)
def test_the_owner_is_warned_in_time(bits: int, left: timedelta, words: list[str]) -> None:
    ends = NOW + timedelta(days=365)
    accepted = accepted_at(certificates.pem(key=certificates.rsa_key(bits), ends=ends), NOW)
    found = warnings(accepted, ends - left)
    assert len(found) == len(words)
    assert all(word in warning for word, warning in zip(words, found, strict=True))
