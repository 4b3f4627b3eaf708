import io
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from services.exporter.pipeline.cms import seal, unseal
from services.exporter.pipeline.errors import MalformedMessage, NotARecipient, NotAuthentic, SealError

CONTENT = [b"first ", b"", b"second " * 100_000, b"\x00\x00", b"last"]

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")


def identity(
    name: str,
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | None = None,
    *,
    ends_in: timedelta = timedelta(days=1),
) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    """A key and its self-signed certificate; pass an elliptic-curve key for a certificate that can't receive."""
    private_key = rsa.generate_private_key(65537, 2048)
    signer = key or private_key
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(signer.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + ends_in)
        .sign(signer, hashes.SHA256())
    )
    return private_key, certificate


def write_key(folder: Path, key: rsa.RSAPrivateKey) -> Path:
    path = folder / "key.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


def openssl_decrypt(sealed: Path, key: Path, out: Path) -> subprocess.CompletedProcess[bytes]:
    """The command of the manual, word for word."""
    return subprocess.run(
        ["openssl", "cms", "-decrypt", "-inform", "DER", "-in", sealed, "-inkey", key, "-out", out],
        capture_output=True,
        check=False,
    )


@pytest.fixture(scope="module")
def recipients() -> list[tuple[rsa.RSAPrivateKey, x509.Certificate]]:
    return [identity("Müller & Söhne"), identity("second"), identity("second")]


@pytest.fixture(scope="module")
def sealed(recipients: list[tuple[rsa.RSAPrivateKey, x509.Certificate]]) -> bytes:
    return b"".join(seal(CONTENT, [certificate for _, certificate in recipients]))


@needs_openssl
@pytest.mark.parametrize("recipient", [0, 1, 2])
def test_stock_openssl_decrypts_for_each_recipient_with_only_the_key(
    recipients: list[tuple[rsa.RSAPrivateKey, x509.Certificate]], sealed: bytes, recipient: int, tmp_path: Path
) -> None:
    (tmp_path / "sealed").write_bytes(sealed)

    done = openssl_decrypt(tmp_path / "sealed", write_key(tmp_path, recipients[recipient][0]), tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == b"".join(CONTENT)


@needs_openssl
def test_stock_openssl_decrypts_an_empty_content(
    recipients: list[tuple[rsa.RSAPrivateKey, x509.Certificate]], tmp_path: Path
) -> None:
    key, certificate = recipients[0]
    (tmp_path / "sealed").write_bytes(b"".join(seal([], [certificate])))

    done = openssl_decrypt(tmp_path / "sealed", write_key(tmp_path, key), tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == b""


@needs_openssl
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, 0.999])
def test_stock_openssl_refuses_a_flipped_byte(
    recipients: list[tuple[rsa.RSAPrivateKey, x509.Certificate]], sealed: bytes, place: float, tmp_path: Path
) -> None:
    (tmp_path / "sealed").write_bytes(flipped(sealed, content_start(sealed) + int(place * len(b"".join(CONTENT)))))

    done = openssl_decrypt(tmp_path / "sealed", write_key(tmp_path, recipients[0][0]), tmp_path / "out")

    assert done.returncode != 0


@needs_openssl
@pytest.mark.parametrize("options", [[], ["-stream"]], ids=["one string", "many strings"])
def test_a_message_of_openssl_is_unsealed(
    recipients: list[tuple[rsa.RSAPrivateKey, x509.Certificate]], tmp_path: Path, options: list[str]
) -> None:
    key, certificate = recipients[0]
    (tmp_path / "plain").write_bytes(b"".join(CONTENT))
    (tmp_path / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    command = ["openssl", "cms", "-encrypt", "-binary", "-aes-256-gcm", "-outform", "DER", *options]
    command += ["-in", str(tmp_path / "plain"), "-out", str(tmp_path / "sealed")]
    command += ["-recip", str(tmp_path / "certificate.pem"), "-keyopt", "rsa_padding_mode:oaep"]
    command += ["-keyopt", "rsa_oaep_md:sha256", "-keyopt", "rsa_mgf1_md:sha256"]
    subprocess.run(command, check=True, capture_output=True)

    with (tmp_path / "sealed").open("rb") as file:
        assert b"".join(unseal(file, key, certificate)) == b"".join(CONTENT)


def test_each_recipient_unseals(recipients: list[tuple[rsa.RSAPrivateKey, x509.Certificate]], sealed: bytes) -> None:
    for key, certificate in recipients:
        assert b"".join(unseal(io.BytesIO(sealed), key, certificate)) == b"".join(CONTENT)


def test_every_byte_counts(recipients: list[tuple[rsa.RSAPrivateKey, x509.Certificate]]) -> None:
    key, certificate = recipients[0]
    message = b"".join(seal([b"some content", b"more of it"], [certificate]))

    for position in range(len(message)):
        with pytest.raises(SealError):
            b"".join(unseal(io.BytesIO(flipped(message, position)), key, certificate))


def test_a_message_cut_anywhere_is_refused(recipients: list[tuple[rsa.RSAPrivateKey, x509.Certificate]]) -> None:
    key, certificate = recipients[0]
    message = b"".join(seal([b"some content", b"more of it"], [certificate]))

    for size in range(len(message)):
        with pytest.raises(MalformedMessage):
            b"".join(unseal(io.BytesIO(message[:size]), key, certificate))
    with pytest.raises(MalformedMessage):
        b"".join(unseal(io.BytesIO(message + b"\x00"), key, certificate))


def test_changed_content_is_not_authentic(
    recipients: list[tuple[rsa.RSAPrivateKey, x509.Certificate]], sealed: bytes
) -> None:
    key, certificate = recipients[0]
    pieces = unseal(io.BytesIO(flipped(sealed, content_start(sealed) + 1000)), key, certificate)

    with pytest.raises(NotAuthentic, match="was changed"):
        b"".join(pieces)


def test_a_stranger_can_not_unseal(recipients: list[tuple[rsa.RSAPrivateKey, x509.Certificate]], sealed: bytes) -> None:
    stranger_key, stranger = identity("stranger")
    with pytest.raises(NotARecipient):
        b"".join(unseal(io.BytesIO(sealed), stranger_key, stranger))
    with pytest.raises(NotARecipient):
        b"".join(unseal(io.BytesIO(sealed), stranger_key, recipients[0][1]))


def test_no_two_messages_share_a_key_or_nonce(
    recipients: list[tuple[rsa.RSAPrivateKey, x509.Certificate]], sealed: bytes
) -> None:
    again = b"".join(seal(CONTENT, [certificate for _, certificate in recipients]))

    assert again[content_start(again) :] != sealed[content_start(sealed) :]


def test_nothing_is_held_back(recipients: list[tuple[rsa.RSAPrivateKey, x509.Certificate]]) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x" * 1000
        raise AssertionError("the second chunk was asked for before the first came out")

    message = seal(chunks(), [recipients[0][1]])

    assert next(message)
    assert len(next(message)) > 1000


def test_no_recipient_and_no_rsa_key_are_refused() -> None:
    _, elliptic = identity("elliptic", ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(ValueError, match="needs a recipient"):
        next(seal([b"secret"], []))
    with pytest.raises(ValueError, match="has no RSA key"):
        next(seal([b"secret"], [elliptic]))


def content_start(message: bytes) -> int:
    """Where the constructed `[0]` with the encrypted content begins: right after the GCM parameters."""
    gcm_parameters_end = message.index(bytes.fromhex("020110"))
    return gcm_parameters_end + 3 + 2


def flipped(message: bytes, position: int) -> bytes:
    return message[:position] + bytes([message[position] ^ 1]) + message[position + 1 :]
