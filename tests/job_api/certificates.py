"""Certificates of every kind that can be sent; keys are made once, because RSA keys take their time."""

import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def usage(**allowed: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{**dict.fromkeys(names, False), **allowed})


def certificate(
    *,
    key: Any = None,
    subject: str = "client",
    issuer: str | None = None,
    begins: datetime = NOW - timedelta(days=1),
    ends: datetime = NOW + timedelta(days=365),
    extensions: tuple[x509.ExtensionType, ...] = (),
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer or subject))
        .public_key((key or rsa_key()).public_key())
        .serial_number(7)
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(rsa_key(), hashes.SHA256())


def pem(**choices: Any) -> bytes:
    return certificate(**choices).public_bytes(Encoding.PEM)


def der(**choices: Any) -> bytes:
    return certificate(**choices).public_bytes(Encoding.DER)


def private_key() -> bytes:
    return rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@cache
def by_openssl(*options: str) -> bytes:
    """A self-signed certificate that only the command line still makes: weak keys and weak signatures."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "certificate.pem"
        plain = ["openssl", "req", "-x509", "-nodes", "-subj", "/CN=client", "-days", "365", "-keyout", "/dev/null"]
        subprocess.run([*plain, *options, "-out", path], check=True, capture_output=True)
        return path.read_bytes()


def ec_certificate() -> bytes:
    return pem(key=ec.generate_private_key(ec.SECP256R1()))


def refused() -> Iterator[tuple[str, Callable[[], bytes], str]]:
    """Every kind that is refused: its name, how to make it, and a word of the reason."""
    ca = x509.BasicConstraints(ca=True, path_length=None)
    yield "garbage", lambda: b"not a certificate", "not an X.509"
    yield "nothing", lambda: b"", "not an X.509"
    yield "broken PEM", lambda: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not an X.509"
    yield "broken base64", lambda: b"-----BEGIN CERTIFICATE-----\n\xff\xfe\n-----END CERTIFICATE-----\n", "X.509"
    yield "cut DER", lambda: der()[:-20], "not an X.509"
    yield "DER with more behind it", lambda: der() + b"\x00\x01", "not an X.509"
    yield "private key", private_key, "private key"
    yield "certificate with its private key", lambda: pem() + private_key(), "private key"
    yield "several certificates", lambda: pem() + pem(subject="another"), "several"
    yield "EC key", ec_certificate, "not RSA"
    yield "1024 bits", lambda: by_openssl("-newkey", "rsa:1024"), "1024 bits"
    yield "SHA-1", lambda: by_openssl("-newkey", "rsa:2048", "-sha1"), "SHA-1"
    yield "MD5", lambda: by_openssl("-newkey", "rsa:2048", "-md5"), "MD5"
    yield "expired", lambda: pem(ends=NOW - timedelta(seconds=1)), "expired"
    yield "not valid yet", lambda: pem(begins=NOW + timedelta(seconds=1)), "not valid yet"
    yield "CA with keyCertSign", lambda: pem(extensions=(ca, usage(key_cert_sign=True))), "CA certificate"
    yield "CA issued by another", lambda: pem(issuer="root", extensions=(ca,)), "CA certificate"
    yield "signing only", lambda: pem(extensions=(usage(digital_signature=True),)), "key encipherment"
