"""Streaming S/MIME `EnvelopedData` (RFC 5652, RFC 8551): AES-256-CBC for the content, RSA PKCS#1 v1.5 for its key.

What clients of old read: `openssl smime -decrypt -in F -inkey KEY -out F.zip`. Nothing in it notices a changed byte;
that takes the manifest. So it is only written when asked for, and `cms` is the default. The text is base64 around BER
of indefinite length, so nothing is held back.
"""

import os
from base64 import encodebytes
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from asn1crypto import algos, cms, core
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

from services.exporter.pipeline import ber
from services.exporter.pipeline.cms import identifier, rsa_key

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
