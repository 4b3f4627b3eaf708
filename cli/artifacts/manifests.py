"""Manifests and signing keys as they lie in a folder: read, held against the keys, and only then believed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from cli.console import Failure
from services.exporter.pipeline.manifest import ManifestRejected, verify
from shared.clock import UtcDatetime

KEYS_NAME: Final = "signing-keys.json"
MANIFEST_SUFFIX: Final = ".manifest.json"
SCHEMA_SUFFIX: Final = ".schema.json"
ENCRYPTIONS: Final = {".zip.p7m": "gcm", ".zip.smime": "smime", ".zip": "none"}
"""What the end of a part's name says about how it is protected."""
_MANIFEST_BYTES: Final = 256 * 1024**2
"""More than a run of 100,000 parts needs (about 600 bytes each)."""
_PUBLIC_KEY: Final = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)

Keys = Mapping[str, Ed25519PublicKey]
"""The public keys of an installation by key id."""


def plain_name(name: str) -> str:
    """The name, if it can be no way out of a folder and hides nothing. Raises ValueError."""
    if not name or name.startswith(".") or re.search(r"[/\\:\x00-\x1f\x7f]", name) or len(name.encode()) > 255:
        raise ValueError(f"{name!r} is no plain file name")
    return name


_Name = Annotated[str, AfterValidator(plain_name)]
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Read(BaseModel):
    """Members that this version does not know are signed all the same, and left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Part(_Read):
    """One file: `stored` is what lies here, `zip` what is inside the encryption, `plain` what is inside the zip."""

    name: _Name
    entry: _Name
    entity: str | None = None
    rows: int
    plain_bytes: int
    plain_sha256: _Digest
    zip_bytes: int
    stored_bytes: int
    stored_sha256: _Digest


class Schema(_Read):
    """The JSON Schema of the rows."""

    name: _Name
    sha256: _Digest


class Interval(_Read):
    """Half-open; `start` None means from the beginning."""

    start: UtcDatetime | None = Field(alias="from")
    to: UtcDatetime


class Entity(_Read):
    """What one kind of rows adds up to."""

    rows: int


class Manifest(_Read):
    """What verification needs of a manifest."""

    run: UUID
    job: UUID
    tenant: str
    slot_key: str
    data_interval: Interval
    rows: int
    entities: dict[str, Entity] = Field(default_factory=dict)
    parts: tuple[Part, ...]
    rows_schema: Schema | None = Field(None, alias="schema")
    format: str
    encryption: str
    created_at: UtcDatetime
    previous_manifest_sha256: _Digest | None

    @property
    def file_name(self) -> str:
        """The name it is downloaded under."""
        return manifest_name(self.run)


@dataclass(frozen=True, slots=True)
class Signed:
    """A manifest whose signature is right; `sha256` is what the next manifest of the job refers to."""

    path: Path
    sha256: str
    manifest: Manifest


def manifest_name(run: UUID) -> str:
    """The file name of a run's manifest."""
    return f"export-{run}{MANIFEST_SUFFIX}"


def encryption_of(name: str) -> str | None:
    """How the part of this name is protected; None when it is not the name of a part.

    >>> encryption_of("export-1-0001-of-0001.zip.p7m"), encryption_of("letter.txt")
    ('gcm', None)
    """
    return next((how for suffix, how in ENCRYPTIONS.items() if name.endswith(suffix)), None)


def load_keys(path: Path) -> Keys:
    """The keys in the answer of `GET /files/signing-keys`, or in a PEM file. Raises Failure."""
    content = path.read_bytes()
    try:
        pems = _PUBLIC_KEY.findall(content)
        labelled = [] if content.lstrip()[:1] != b"{" else orjson.loads(content)["items"]
        keys = {key_id(key): key for key in map(_public_key, pems if not labelled else [])}
        for item in labelled:
            keys[item["key_id"]] = _public_key(item["pem"].encode())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(f"{path} holds no signing keys: save the answer of GET /api/v1/files/signing-keys") from error
    if not keys:
        raise Failure(f"{path} holds no signing keys: save the answer of GET /api/v1/files/signing-keys")
    return keys


def key_id(key: Ed25519PublicKey) -> str:
    """The id an installation gives its key: the beginning of the SHA-256 of the raw key."""
    return sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def _public_key(pem: bytes) -> Ed25519PublicKey:
    key = load_pem_public_key(pem)
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("not an Ed25519 key")
    return key


def read_manifest(path: Path, keys: Keys) -> Signed:
    """The manifest in this file, if one of the keys signed it. Raises ManifestRejected."""
    if path.stat().st_size > _MANIFEST_BYTES:
        raise ManifestRejected("it is far too large for a manifest")
    return check_manifest(path, path.read_bytes(), keys)


def check_manifest(path: Path, content: bytes, keys: Keys) -> Signed:
    """The manifest in these bytes, if one of the keys signed it. Raises ManifestRejected."""
    return Signed(path, sha256(content.strip()).hexdigest(), parsed(verify(content, _signer(content, keys))))


def parsed(document: Mapping[str, Any]) -> Manifest:
    """What a verified document says. Raises ManifestRejected."""
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(map(str, first["loc"]))
        raise ManifestRejected(f"its member {where} is not what a manifest has: {first['msg']}") from error


def _signer(content: bytes, keys: Keys) -> Ed25519PublicKey:
    try:
        name = str(orjson.loads(content)["signature"]["key_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestRejected("it is not a signed manifest") from error
    if name not in keys:
        raise ManifestRejected(f"the key {name!r} that it names is not among the signing keys")
    return keys[name]


def in_folder(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files with one of these endings, by name."""
    return sorted(path for path in folder.iterdir() if path.name.endswith(tuple(suffixes)) and path.is_file())
