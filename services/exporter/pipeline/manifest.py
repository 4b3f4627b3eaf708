"""The manifest of a run: what was asked, what was read, and the size and hash of every part, signed.

Canonical form: UTF-8 JSON with sorted keys and without white space, so that equal manifests are equal bytes. The
signature covers the canonical form of everything but the `signature` member itself. Encryption proves nothing about
origin; this does.
"""

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

_ALGORITHM = "Ed25519"


class ManifestRejected(Exception):
    """The manifest is not what this installation signed."""


@dataclass(frozen=True, slots=True)
class PartRecord:
    """One file of the export: `plain` is the content, `zip` the archive around it, `stored` what lies under `key`."""

    name: str
    entity: str
    entry: str
    rows: int
    plain_bytes: int
    plain_sha256: str
    zip_bytes: int
    stored_bytes: int
    stored_sha256: str
    key: str


@dataclass(frozen=True, slots=True)
class EntityRecord:
    """One kind of rows in the export; `fields` are in the order of the file."""

    rows: int
    fields: Sequence[str]


@dataclass(frozen=True, slots=True)
class SchemaRecord:
    """The file that describes the records."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class DataInterval:
    """Half-open; `start` None means from the beginning."""

    start: datetime | None
    end: datetime


@dataclass(frozen=True, slots=True)
class Manifest:
    """Times are aware; hashes and fingerprints are lower-case hexadecimal SHA-256.

    `rows` counts all entities; `masking` says how masked fields are, those of attachments apart: what joins them is
    masked as in the rows.
    """

    run: str
    job: str
    tenant: str
    slot_key: str
    attempt: int
    source: str
    type: str
    data_interval: DataInterval
    snapshot: str
    rows: int
    entities: Mapping[str, EntityRecord]
    parts: Sequence[PartRecord]
    schema: SchemaRecord
    recipients: Sequence[str]
    masking: Mapping[str, str]
    format: str
    csv_profile: str
    encryption: str
    software_version: str
    created_at: datetime
    previous_manifest_sha256: str | None


class SigningKey:
    """The key this installation signs manifests with; `key_id` is derived from the public key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.key_id = sha256(raw).hexdigest()[:16]
        self.public_pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    @classmethod
    def load(cls, path: Path) -> Self:
        """The Ed25519 key in a PEM file; raises ValueError for another kind of key."""
        key = load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{path} holds no Ed25519 private key")
        return cls(key)

    def sign(self, content: Mapping[str, Any]) -> bytes:
        """The canonical document with its signature."""
        return sign(content, self._key, self.key_id)


def build(manifest: Manifest) -> bytes:
    """The manifest in canonical form, not yet signed."""
    return canonical(document(manifest))


def document(manifest: Manifest) -> Mapping[str, Any]:
    """The manifest as JSON holds it: times as RFC 3339 UTC, the interval as `from` and `to`."""
    content = asdict(manifest)
    content["data_interval"] = {"from": manifest.data_interval.start, "to": manifest.data_interval.end}
    return orjson.loads(canonical(content))


def canonical(content: Mapping[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z)


def sign(content: Mapping[str, Any], key: Ed25519PrivateKey, key_id: str) -> bytes:
    """The canonical document with its signature; `key_id` tells the reader which published key to take."""
    unsigned = {name: value for name, value in content.items() if name != "signature"}
    value = b64encode(key.sign(canonical(unsigned))).decode()
    return canonical({**unsigned, "signature": {"algorithm": _ALGORITHM, "key_id": key_id, "value": value}})


def verify(signed: bytes, key: Ed25519PublicKey) -> Mapping[str, Any]:
    """The document without its signature, if `key` made it. Raises ManifestRejected.

    Bytes that are not in canonical form are refused too: of two members with one name a reader could pick the other.
    """
    try:
        content: dict[str, Any] = orjson.loads(signed)
        if canonical(content) != signed.strip():
            raise ManifestRejected("it is not in canonical form")
        signature = content.pop("signature")
        if signature["algorithm"] != _ALGORITHM:
            raise ManifestRejected("it is signed with an unknown algorithm")
        key.verify(b64decode(signature["value"], validate=True), canonical(content))
    except InvalidSignature as error:
        raise ManifestRejected("the signature does not match") from error
    except (ValueError, KeyError, TypeError, AttributeError, Base64Error) as error:
        raise ManifestRejected("it is not a signed manifest") from error
    return content
