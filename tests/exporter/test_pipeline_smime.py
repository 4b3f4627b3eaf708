"""The profile for clients of old: what matters is that stock OpenSSL opens it."""

import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from services.exporter.pipeline.smime import seal
from tests.exporter.test_pipeline_cms import CONTENT, identity, write_key

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")


def decrypt(sealed: Path, key: Path, out: Path) -> subprocess.CompletedProcess[bytes]:
    """The command of the manual, word for word."""
    return subprocess.run(
        ["openssl", "smime", "-decrypt", "-in", sealed, "-inkey", key, "-out", out], capture_output=True, check=False
    )


@pytest.fixture(scope="module")
def recipients() -> list[tuple[rsa.RSAPrivateKey, x509.Certificate]]:
    return [identity("Müller & Söhne"), identity("second"), identity("second")]


@needs_openssl
@pytest.mark.parametrize("recipient", [0, 1, 2])
def test_stock_openssl_decrypts_for_each_recipient_with_only_the_key(
    recipients: list[tuple[rsa.RSAPrivateKey, x509.Certificate]], recipient: int, tmp_path: Path
) -> None:
    (tmp_path / "sealed").write_bytes(b"".join(seal(CONTENT, [certificate for _, certificate in recipients])))

    done = decrypt(tmp_path / "sealed", write_key(tmp_path, recipients[recipient][0]), tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == b"".join(CONTENT)


@needs_openssl
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 56, 57, 58, 100_000, 5_000_001])
def test_every_length_comes_back(
    recipients: list[tuple[rsa.RSAPrivateKey, x509.Certificate]], size: int, tmp_path: Path
) -> None:
    key, certificate = recipients[0]
    content = bytes(range(256)) * (size // 256 + 1)
    pieces = [content[start : min(start + 70_001, size)] for start in range(0, size, 70_001)]
    (tmp_path / "sealed").write_bytes(b"".join(seal(pieces, [certificate])))

    done = decrypt(tmp_path / "sealed", write_key(tmp_path, key), tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == content[:size]


@needs_openssl
def test_openssl_cms_and_the_structure_dump_read_it_too(
    recipients: list[tuple[rsa.RSAPrivateKey, x509.Certificate]], tmp_path: Path
) -> None:
    key, certificate = recipients[0]
    (tmp_path / "sealed").write_bytes(b"".join(seal(CONTENT, [certificate])))
    command = ["openssl", "cms", "-in", str(tmp_path / "sealed")]

    opened = subprocess.run(
        [*command, "-decrypt", "-inkey", str(write_key(tmp_path, key))], capture_output=True, check=True
    )
    shown = subprocess.run([*command, "-cmsout", "-print", "-noout"], capture_output=True, check=True, text=True)

    assert opened.stdout == b"".join(CONTENT)
    assert "pkcs7-envelopedData" in shown.stdout
    assert "aes-256-cbc" in shown.stdout
    assert "rsaEncryption" in shown.stdout


@needs_openssl
def test_another_key_does_not_open_it(
    recipients: list[tuple[rsa.RSAPrivateKey, x509.Certificate]], tmp_path: Path
) -> None:
    (tmp_path / "sealed").write_bytes(b"".join(seal(CONTENT, [recipients[0][1]])))

    done = decrypt(tmp_path / "sealed", write_key(tmp_path, recipients[1][0]), tmp_path / "out")

    assert done.returncode != 0 or (tmp_path / "out").read_bytes() != b"".join(CONTENT)


def test_it_is_plain_text_of_short_lines(recipients: list[tuple[rsa.RSAPrivateKey, x509.Certificate]]) -> None:
    message = b"".join(seal(CONTENT, [recipients[0][1]]))

    head, _, body = message.partition(b"\n\n")
    assert b'Content-Type: application/pkcs7-mime; smime-type=enveloped-data; name="smime.p7m"' in head.splitlines()
    assert message.isascii()
    lines = body.splitlines()
    assert {len(line) for line in lines[:-2]} == {76}
    assert message != b"".join(seal(CONTENT, [recipients[0][1]]))


def test_nothing_is_held_back(recipients: list[tuple[rsa.RSAPrivateKey, x509.Certificate]]) -> None:
    taken = 0

    def chunks() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield bytes(100_000)

    given = io.BytesIO()
    message = seal(chunks(), [recipients[0][1]])
    while given.tell() < 1_000_000:
        given.write(next(message))

    assert taken <= 9  # a million characters of base64 hold 740,000 bytes


def test_a_message_for_nobody_or_for_another_kind_of_key_is_refused() -> None:
    with pytest.raises(ValueError, match="recipient"):
        next(seal([], []))
    certificate = identity("elliptic", ec.generate_private_key(ec.SECP256R1()))[1]
    with pytest.raises(ValueError, match="no RSA key"):
        list(seal([], [certificate]))
