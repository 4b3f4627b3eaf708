"""Streaming CMS `AuthEnvelopedData` (RFC 5083, RFC 5084): AES-256-GCM for the content, RSA-OAEP for its key.

Nothing is held back: the message is BER with indefinite lengths, the content a constructed OCTET STRING of one piece
per chunk, and the authentication tag follows at the end. Stock OpenSSL 3 reads it:
`openssl cms -decrypt -inform DER -in F -inkey KEY -out F.zip`. asn1crypto writes the structures of definite length,
cryptography does the ciphers, and only the indefinite frames around them are ours.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from asn1crypto import algos, cms, core
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.serialization import Encoding

from services.exporter.pipeline import ber
from services.exporter.pipeline.errors import MalformedMessage, NotARecipient, NotAuthentic, SealError

_KEY_BYTES = 32
_NONCE_BYTES = 12
"""The length GCM is specified for and RFC 5084 recommends; the nonce may be random because no key is used twice."""
_TAG_BYTES = 16


class _GcmParameters(core.Sequence):
    """GCMParameters of RFC 5084, section 3.2; asn1crypto has none."""

    _fields = [  # noqa: RUF012  # asn1crypto's way to declare a structure
        ("nonce", core.OctetString),
        ("icv_length", core.Integer, {"default": 12}),
    ]


def seal(chunks: Iterable[bytes], recipients: Sequence[x509.Certificate]) -> Iterator[bytes]:
    """The content as one message that each recipient can open alone; key and nonce are new each time.

    Raises ValueError without a recipient or for a certificate whose key is not RSA.
    """
    if not recipients:
        raise ValueError("a sealed message needs a recipient")
    key, nonce = os.urandom(_KEY_BYTES), os.urandom(_NONCE_BYTES)
    encryptor = Cipher(AES(key), GCM(nonce)).encryptor()
    yield b"".join(
        (
            ber.opening(ber.SEQUENCE),
            cms.ContentType("authenticated_enveloped_data").dump(),
            ber.opening(ber.EXPLICIT_0),
            ber.opening(ber.SEQUENCE),
            cms.CMSVersion("v0").dump(),
            cms.RecipientInfos([_recipient(certificate, key) for certificate in recipients]).dump(),
            ber.opening(ber.SEQUENCE),
            cms.ContentType("data").dump(),
            _content_algorithm(nonce).dump(),
            ber.opening(ber.EXPLICIT_0),
        )
    )
    for chunk in chunks:
        if chunk:
            yield core.OctetString(encryptor.update(chunk)).dump()
    encryptor.finalize()
    yield ber.END * 2 + core.OctetString(encryptor.tag).dump() + ber.END * 3


def unseal(file: ber.Readable, key: rsa.RSAPrivateKey, certificate: x509.Certificate | None = None) -> Iterator[bytes]:
    """The content, in pieces of at most 1 MiB. **Untrusted until the iterator ends without raising**: the tag is last.

    Write the pieces under a temporary name and rename after the end. Without a certificate every recipient is tried;
    OAEP tells whether the key fits, and the names of the recipients, which the tag does not cover, are not read.
    Raises MalformedMessage, NotARecipient, NotAuthentic.
    """
    message = ber.Reader(file)
    frames = [message.enter(ber.SEQUENCE)]
    message.expect(cms.ContentType("authenticated_enveloped_data").dump())
    frames += [message.enter(ber.EXPLICIT_0), message.enter(ber.SEQUENCE)]
    message.expect(cms.CMSVersion("v0").dump())
    recipients = message.element()
    content_frame = message.enter(ber.SEQUENCE)
    message.expect(cms.ContentType("data").dump())
    algorithm = message.element()
    try:
        nonce = _nonce(algorithm)
        content_key = _content_key(recipients, key, certificate)
    except SealError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise MalformedMessage(str(error)) from error
    decryptor = Cipher(AES(content_key), GCM(nonce)).decryptor()
    for piece in message.octets():
        yield decryptor.update(piece)
    message.leave(content_frame)
    tag = message.element()
    for frame in reversed(frames):
        message.leave(frame)
    message.expect_end()
    if tag[:2] != bytes((ber.OCTET_STRING, _TAG_BYTES)):
        raise MalformedMessage("the authentication tag has another length than 16 bytes")
    try:
        decryptor.finalize_with_tag(tag[2:])
    except InvalidTag as error:
        raise NotAuthentic from error


def _oaep() -> padding.OAEP:
    return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


def _oaep_algorithm() -> cms.KeyEncryptionAlgorithm:
    parameters = {
        "hash_algorithm": {"algorithm": "sha256"},
        "mask_gen_algorithm": {"algorithm": "mgf1", "parameters": {"algorithm": "sha256"}},
    }
    return cms.KeyEncryptionAlgorithm({"algorithm": "rsaes_oaep", "parameters": algos.RSAESOAEPParams(parameters)})


def _content_algorithm(nonce: bytes) -> algos.EncryptionAlgorithm:
    parameters = _GcmParameters({"nonce": nonce, "icv_length": _TAG_BYTES})
    return algos.EncryptionAlgorithm({"algorithm": "aes256_gcm", "parameters": parameters})


def identifier(certificate: x509.Certificate) -> cms.RecipientIdentifier:
    """Issuer and serial number, with the issuer's bytes as they stand in the certificate."""
    parsed = asn1_x509.Certificate.load(certificate.public_bytes(Encoding.DER))
    issuer_and_serial = cms.IssuerAndSerialNumber({"issuer": parsed.issuer, "serial_number": parsed.serial_number})
    return cms.RecipientIdentifier("issuer_and_serial_number", issuer_and_serial)


def rsa_key(certificate: x509.Certificate) -> rsa.RSAPublicKey:
    """Raises ValueError for a certificate with another kind of key."""
    public_key = certificate.public_key()
    if not isinstance(public_key, rsa.RSAPublicKey):
        raise ValueError(f"the certificate of {certificate.subject.rfc4514_string()} has no RSA key")
    return public_key


def _recipient(certificate: x509.Certificate, key: bytes) -> cms.RecipientInfo:
    info = cms.KeyTransRecipientInfo(
        {
            "version": "v0",
            "rid": identifier(certificate),
            "key_encryption_algorithm": _oaep_algorithm(),
            "encrypted_key": rsa_key(certificate).encrypt(key, _oaep()),
        }
    )
    return cms.RecipientInfo("ktri", info)


def _nonce(algorithm: bytes) -> bytes:
    parsed = algos.EncryptionAlgorithm.load(algorithm)
    if parsed["algorithm"].native != "aes256_gcm":
        raise MalformedMessage("the content is not encrypted with AES-256-GCM")
    parameters = parsed["parameters"].parse(_GcmParameters)
    if parameters["icv_length"].native != _TAG_BYTES:
        raise MalformedMessage("the authentication tag is shorter than 16 bytes")
    return parameters["nonce"].native


def addressed(recipients: bytes, certificate: x509.Certificate | None) -> list[Any]:
    """The recipients in this `RecipientInfos` that have the certificate's name; without a certificate, all with RSA."""
    wanted = None if certificate is None else identifier(certificate).dump()
    return [
        recipient.chosen
        for recipient in cms.RecipientInfos.load(recipients)
        if recipient.name == "ktri" and wanted in (None, recipient.chosen["rid"].dump())
    ]


def _content_key(recipients: bytes, key: rsa.RSAPrivateKey, certificate: x509.Certificate | None) -> bytes:
    mine = addressed(recipients, certificate)
    readable = [one for one in mine if one["version"].native == "v0" and _is_our_oaep(one["key_encryption_algorithm"])]
    if mine and not readable:
        raise MalformedMessage("the key is not encrypted with RSA-OAEP and SHA-256")
    for recipient in readable:
        try:
            content_key = key.decrypt(recipient["encrypted_key"].native, _oaep())
        except ValueError:
            continue
        if len(content_key) != _KEY_BYTES:
            raise MalformedMessage("the content key is not 256 bits long")
        return content_key
    raise NotARecipient


def _is_our_oaep(algorithm: Any) -> bool:
    """By meaning, because the NULL parameters of a hash may be written or left out (RFC 4055, section 2.1)."""
    if algorithm["algorithm"].native != "rsaes_oaep":
        return False
    parameters = algorithm["parameters"]
    mask = parameters["mask_gen_algorithm"]
    return (
        mask["algorithm"].native == "mgf1"
        and parameters["p_source_algorithm"]["parameters"].native == b""
        and all(
            digest["algorithm"].native == "sha256" and digest["parameters"].dump() in (b"", core.Null().dump())
            for digest in (parameters["hash_algorithm"], mask["parameters"])
        )
    )
