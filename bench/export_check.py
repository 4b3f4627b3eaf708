"""Looks at what the ways of `make bench-export` wrote: were those all the rows?"""

import subprocess
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_CHUNK_BYTES = 1024**2


def make_recipient(certificate: Path, key: Path) -> None:
    """Write a certificate to seal for, and the key that opens what was sealed."""
    private = rsa.generate_private_key(65537, 3072)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    certificate.write_bytes(builder.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM))
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def count_sealed_lines(folder: Path, key: Path) -> int:
    """The lines of the files in all sealed zips below `folder`; openssl holds each in memory, up to about 1.6 GB."""
    return sum(_count_sealed_lines(path, key) for path in folder.rglob("*") if path.is_file())


def count_lines(folder: Path, pattern: str) -> int:
    """The lines of the files below `folder` that match."""
    lines = 0
    for path in folder.glob(pattern):
        with path.open("rb") as file:
            lines += _count(file)
    return lines


def _count_sealed_lines(sealed: Path, key: Path) -> int:
    lines = 0
    with TemporaryDirectory(dir=sealed.parent.parent) as folder:
        opened = Path(folder) / "opened.zip"
        command = ["openssl", "cms", "-decrypt", "-binary", "-inform", "DER", "-inkey", key]
        subprocess.run([*command, "-in", sealed, "-out", opened], check=True)
        with zipfile.ZipFile(opened) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    lines += _count(file)
    return lines


def _count(file: IO[bytes]) -> int:
    lines = 0
    while chunk := file.read(_CHUNK_BYTES):
        lines += chunk.count(b"\n")
    return lines
