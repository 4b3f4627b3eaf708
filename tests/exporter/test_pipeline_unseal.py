"""Opening what was sealed, by our own code: without a certificate, and the profile for clients of old."""

import io
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from services.exporter.pipeline import cms, smime
from services.exporter.pipeline.ber import Readable
from services.exporter.pipeline.errors import MalformedMessage, NotARecipient, NotAuthentic, SealError
from tests.exporter.test_pipeline_cms import identity

Identity = tuple[rsa.RSAPrivateKey, x509.Certificate]
Unseal = Callable[[Readable, rsa.RSAPrivateKey, x509.Certificate | None], Iterator[bytes]]

ZIP = b"PK\x03\x04"
CONTENT = [ZIP, b"", b"second " * 100_000, b"\x00\x00", b"last"]
WHOLE = b"".join(CONTENT)

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")


@pytest.fixture(scope="module")
def recipients() -> list[Identity]:
    return [identity("Müller & Söhne"), identity("second"), identity("second")]


def sealed(module: object, recipients: list[Identity], content: list[bytes]) -> bytes:
    seal = cms.seal if module is cms else smime.seal
    return b"".join(seal(content, [certificate for _, certificate in recipients]))


def opened(
    module: object, message: bytes, key: rsa.RSAPrivateKey, certificate: x509.Certificate | None = None
) -> bytes:
    unseal = cms.unseal if module is cms else smime.unseal
    return b"".join(unseal(io.BytesIO(message), key, certificate))


both = pytest.mark.parametrize("module", [cms, smime], ids=["gcm", "smime"])


@both
@pytest.mark.parametrize("recipient", [0, 1, 2])
@pytest.mark.parametrize("told", [True, False], ids=["with certificate", "key only"])
def test_each_recipient_opens_it(recipients: list[Identity], module: object, recipient: int, told: bool) -> None:
    key, certificate = recipients[recipient]

    assert opened(module, sealed(module, recipients, CONTENT), key, certificate if told else None) == WHOLE


@both
def test_a_stranger_does_not(recipients: list[Identity], module: object) -> None:
    key, certificate = identity("stranger")
    message = sealed(module, recipients, CONTENT)

    for told in (None, certificate, recipients[0][1]):
        with pytest.raises(NotARecipient):
            opened(module, message, key, told)


@pytest.mark.parametrize("size", [0, 1, 11, 12, 13, 27, 28, 57, 100_000, 5_000_001])
@pytest.mark.parametrize("piece", [1, 15, 70_001])
def test_every_length_comes_back(recipients: list[Identity], size: int, piece: int) -> None:
    key, certificate = recipients[0]
    content = ZIP + bytes(range(256)) * (size // 256 + 1)
    content = content[: size + 4]
    step = piece if size < 1000 else 70_001
    pieces = [content[start : start + step] for start in range(0, len(content), step)]

    assert opened(smime, sealed(smime, recipients[:1], pieces), key, certificate) == content


def test_a_text_of_old_with_any_byte_changed_is_refused_or_differs(recipients: list[Identity]) -> None:
    """Unlike GCM, CBC notices little; but it never fails in another way, and never gives the content as if it were."""
    key, certificate = recipients[0]
    message = sealed(smime, recipients[:1], [ZIP + b"some content"])
    body = message.index(b"\n\n") + 2

    for position in range(len(message)):
        changed = message[:position] + bytes([message[position] ^ 1]) + message[position + 1 :]
        for told in (None, certificate):
            try:
                content = opened(smime, changed, key, told)
            except SealError:
                continue
            # Headers that nobody reads, bits of base64 that stand for nothing, and names without a certificate.
            assert content != ZIP + b"some content" or position < body or told is None or position >= len(message) - 6


@both
def test_a_message_cut_anywhere_is_refused(recipients: list[Identity], module: object) -> None:
    key, _ = recipients[0]
    message = sealed(module, recipients[:1], [ZIP + b"some content", b"more of it"]).rstrip(b"\n")

    for size in range(len(message)):
        with pytest.raises(SealError):
            opened(module, message[:size], key)
    with pytest.raises(MalformedMessage):
        opened(module, message + b"QUJD", key)


def test_a_changed_beginning_with_a_certificate_is_told_from_a_wrong_key(recipients: list[Identity]) -> None:
    key, certificate = recipients[0]
    message = sealed(smime, recipients[:1], [b"something that is no zip"])

    with pytest.raises(NotAuthentic):
        opened(smime, message, key, certificate)
    with pytest.raises(NotARecipient):
        opened(smime, message, key)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n\n",
        b"Content-Type: text/plain\n\nQUJD\n",
        b"Content-Type: application/pkcs7-mime\nContent-Transfer-Encoding: 8bit\n\nQUJD\n",
        b"Content-Type: application/pkcs7-mime\nContent-Transfer-Encoding: base64\n\n",
        b"Content-Type: application/pkcs7-mime\nContent-Transfer-Encoding: base64\n\nQUJD\n",
        b"Content-Type: application/pkcs7-mime\nContent-Transfer-Encoding: base64\n\nQ!JD\n",
        b"x" * 1_000_000,
    ],
)
def test_anything_else_is_no_message_of_old(recipients: list[Identity], text: bytes) -> None:
    with pytest.raises(MalformedMessage):
        opened(smime, text, recipients[0][0])


@needs_openssl
@pytest.mark.parametrize("command", [["smime"], ["cms"], ["cms", "-stream"]], ids=" ".join)
def test_a_message_of_stock_openssl_is_opened(recipients: list[Identity], tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "plain").write_bytes(WHOLE)
    names: list[Path] = []
    for number, (_, certificate) in enumerate(recipients):
        names.append(tmp_path / f"{number}.pem")
        names[-1].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    program, *options = command
    subprocess.run(
        ["openssl", program, "-encrypt", "-binary", "-aes-256-cbc", *options,
         "-in", tmp_path / "plain", "-out", tmp_path / "sealed", *names],
        check=True, capture_output=True,
    )  # fmt: skip
    message = (tmp_path / "sealed").read_bytes()

    for key, certificate in recipients:
        assert opened(smime, message, key, certificate) == WHOLE
        assert opened(smime, message.replace(b"\n", b"\r\n"), key) == WHOLE


def test_a_wrong_key_of_the_right_length_is_not_mistaken_for_the_content_key(recipients: list[Identity]) -> None:
    """Implicit rejection makes up a content key; among many recipients, some of those are 32 bytes long."""
    key, certificate = recipients[0]
    others = [identity("other")] * 400
    message = sealed(smime, [*others, (key, certificate)], CONTENT)

    assert opened(smime, message, key) == WHOLE
