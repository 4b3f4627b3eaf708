"""Streaming S/MIME `EnvelopedData` (RFC 5652, RFC 8551): AES-256-CBC for the content, RSA PKCS#1 v1.5 for its key.

What clients of old read: `openssl smime -decrypt -in F -inkey KEY -out F.zip`. Nothing in it notices a changed byte;
that takes the manifest. So it is only written when asked for, and `cms` is the default. The text is base64 around BER
of indefinite length, so nothing is held back.
"""

import os
import re
from base64 import b64decode, encodebytes
from collections.abc import Iterable, Iterator, Sequence
from email.parser import BytesHeaderParser
from typing import Final

from asn1crypto import algos, cms, core
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

from services.exporter.pipeline import ber
from services.exporter.pipeline.cms import addressed, identifier, rsa_key
from services.exporter.pipeline.errors import MalformedMessage, NotARecipient, NotAuthentic, SealError

_KEY_BYTES: Final = 32
_BLOCK_BYTES: Final = 16
_LINE_BYTES: Final = 57
"""What `encodebytes` puts on a line of 76 characters, the most that RFC 2045 allows."""
_HEADER: Final = (
    b"MIME-Version: 1.0\n"
    b'Content-Disposition: attachment; filename="smime.p7m"\n'
    b'Content-Type: application/pkcs7-mime; smime-type=enveloped-data; name="smime.p7m"\n'
    b"Content-Transfer-Encoding: base64\n\n"
)
_HEADER_BYTES: Final = 16 * 1024
_READ_BYTES: Final = 64 * 1024
_BLANK_LINE: Final = re.compile(rb"\r?\n\r?\n")
_ZIP: Final = b"PK\x03\x04"
"""What every part begins with; the only sign that a content key is the right one."""


def seal(chunks: Iterable[bytes], recipients: Sequence[x509.Certificate]) -> Iterator[bytes]:
    """The content as one S/MIME text that each recipient can open alone; key and initialisation vector are new.

    Raises ValueError without a recipient or for a certificate whose key is not RSA.
    """
    if not recipients:
        raise ValueError("a sealed message needs a recipient")
    yield _HEADER
    rest = b""
    for piece in _enveloped(chunks, recipients):
        rest += piece
        whole = len(rest) - len(rest) % _LINE_BYTES
        if whole:
            yield encodebytes(rest[:whole])
            rest = rest[whole:]
    yield encodebytes(rest) + b"\n"


def _enveloped(chunks: Iterable[bytes], recipients: Sequence[x509.Certificate]) -> Iterator[bytes]:
    key, vector = os.urandom(_KEY_BYTES), os.urandom(_BLOCK_BYTES)
    encryptor = Cipher(AES(key), CBC(vector)).encryptor()
    padder = PKCS7(_BLOCK_BYTES * 8).padder()
    yield b"".join(
        (
            ber.opening(ber.SEQUENCE),
            cms.ContentType("enveloped_data").dump(),
            ber.opening(ber.EXPLICIT_0),
            ber.opening(ber.SEQUENCE),
            cms.CMSVersion("v0").dump(),
            cms.RecipientInfos([_recipient(certificate, key) for certificate in recipients]).dump(),
            ber.opening(ber.SEQUENCE),
            cms.ContentType("data").dump(),
            algos.EncryptionAlgorithm({"algorithm": "aes256_cbc", "parameters": core.OctetString(vector)}).dump(),
            ber.opening(ber.EXPLICIT_0),
        )
    )
    for chunk in chunks:
        if sealed := encryptor.update(padder.update(chunk)):
            yield core.OctetString(sealed).dump()
    yield core.OctetString(encryptor.update(padder.finalize()) + encryptor.finalize()).dump()
    yield ber.END * 5


def _recipient(certificate: x509.Certificate, key: bytes) -> cms.RecipientInfo:
    info = cms.KeyTransRecipientInfo(
        {
            "version": "v0",
            "rid": identifier(certificate),
            "key_encryption_algorithm": {"algorithm": "rsaes_pkcs1v15"},
            "encrypted_key": rsa_key(certificate).encrypt(key, padding.PKCS1v15()),
        }
    )
    return cms.RecipientInfo("ktri", info)


def unseal(
    file: ber.Readable,
    key: rsa.RSAPrivateKey,
    certificate: x509.Certificate | None = None,
    *,
    beginning: bytes = _ZIP,
) -> Iterator[bytes]:
    """The content, in pieces of at most 1 MiB. **Never proved by this alone**: compare it with the manifest.

    A wrong RSA key gives a random content key instead of an error (implicit rejection, OpenSSL 3.2 and later). So
    with a certificate the recipient is chosen by its name only, without one all are tried, and in both cases the
    content must begin as told (at most 16 bytes). Raises MalformedMessage, NotARecipient, NotAuthentic.
    """
    if certificate is not None and certificate.public_key() != key.public_key():
        raise NotARecipient("the private key belongs to another certificate")
    message = ber.Reader(_Base64Body(file))
    frames = [message.enter(ber.SEQUENCE)]
    message.expect(cms.ContentType("enveloped_data").dump())
    frames += [message.enter(ber.EXPLICIT_0), message.enter(ber.SEQUENCE)]
    message.expect(cms.CMSVersion("v0").dump())
    recipients = message.element()
    frames.append(message.enter(ber.SEQUENCE))
    message.expect(cms.ContentType("data").dump())
    algorithm = message.element()
    try:
        vector = _vector(algorithm)
        content_keys = _content_keys(recipients, key, certificate)
    except SealError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise MalformedMessage(str(error)) from error
    pieces = message.octets()
    first = b""
    while len(first) < _BLOCK_BYTES and (piece := next(pieces, b"")):
        first += piece
    cipher = _fitting(content_keys, vector, first[:_BLOCK_BYTES], beginning, chosen=certificate is not None)
    yield from _unpadded(cipher, first, pieces)
    for frame in reversed(frames):
        message.leave(frame)
    message.expect_end()


def _fitting(
    content_keys: Sequence[bytes], vector: bytes, block: bytes, beginning: bytes, *, chosen: bool
) -> Cipher[CBC]:
    """The cipher with the key under which the first block begins as it must."""
    if len(block) < _BLOCK_BYTES:
        raise MalformedMessage("the encrypted content is shorter than a block")
    for content_key in content_keys:
        cipher = Cipher(AES(content_key), CBC(vector))
        if cipher.decryptor().update(block).startswith(beginning):
            return cipher
    if chosen and content_keys:
        raise NotAuthentic("it does not begin like a zip")
    raise NotARecipient


def _unpadded(cipher: Cipher[CBC], first: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    decryptor = cipher.decryptor()
    unpadder = PKCS7(_BLOCK_BYTES * 8).unpadder()
    try:
        yield unpadder.update(decryptor.update(first))
        for piece in pieces:
            yield unpadder.update(decryptor.update(piece))
        yield unpadder.update(decryptor.finalize()) + unpadder.finalize()
    except ValueError as error:
        raise NotAuthentic("its end is not what was written") from error


def _vector(algorithm: bytes) -> bytes:
    parsed = algos.EncryptionAlgorithm.load(algorithm)
    if parsed["algorithm"].native != "aes256_cbc":
        raise MalformedMessage("the content is not encrypted with AES-256-CBC")
    vector = parsed["parameters"].native
    if not isinstance(vector, bytes) or len(vector) != _BLOCK_BYTES:
        raise MalformedMessage("the initialisation vector is not 16 bytes long")
    return vector


def _content_keys(recipients: bytes, key: rsa.RSAPrivateKey, certificate: x509.Certificate | None) -> list[bytes]:
    """What the RSA key makes of each recipient, where that has the right length; at most one of them is real."""
    mine = addressed(recipients, certificate)
    readable = [one for one in mine if one["key_encryption_algorithm"]["algorithm"].native == "rsaes_pkcs1v15"]
    if mine and not readable:
        raise MalformedMessage("the key is not encrypted with RSA PKCS#1 v1.5")
    found: list[bytes] = []
    for recipient in readable:
        try:
            found.append(key.decrypt(recipient["encrypted_key"].native, padding.PKCS1v15()))
        except ValueError:
            continue
    return [content_key for content_key in found if len(content_key) == _KEY_BYTES]


class _Base64Body:
    """The decoded body of an S/MIME text, read forward; raises MalformedMessage where it is none."""

    def __init__(self, file: ber.Readable) -> None:
        self._file = file
        self._decoded = bytearray()
        self._characters = b""
        """Fewer than four, which wait for more."""
        self._complete = False
        self._decode(self._after_header())

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        while len(self._decoded) < size and (text := self._file.read(_READ_BYTES)):
            self._decode(text)
        if len(self._decoded) < size and self._characters:
            raise MalformedMessage("the file is incomplete")
        taken = bytes(self._decoded[:size])
        del self._decoded[:size]
        return taken

    def _decode(self, text: bytes) -> None:
        characters = self._characters + text.translate(None, b"\r\n\t ")
        if characters and self._complete:
            raise MalformedMessage("text after the end of the base64")
        whole = len(characters) - len(characters) % 4
        self._characters = characters[whole:]
        try:
            self._decoded += b64decode(characters[:whole], validate=True)
        except ValueError as error:
            raise MalformedMessage("its body is not base64") from error
        self._complete = characters[:whole].endswith(b"=")

    def _after_header(self) -> bytes:
        """What was read of the body together with the header."""
        text = b""
        while (found := _BLANK_LINE.search(text)) is None:
            more = self._file.read(_READ_BYTES)
            if not more or len(text) > _HEADER_BYTES:
                raise MalformedMessage("it is not an S/MIME text")
            text += more
        header = BytesHeaderParser().parsebytes(text[: found.end()])
        if (
            header.get_content_type() not in ("application/pkcs7-mime", "application/x-pkcs7-mime")
            or str(header.get("Content-Transfer-Encoding", "")).strip().lower() != "base64"
        ):
            raise MalformedMessage("it is not an S/MIME text")
        return text[found.end() :]
