"""Exports as the pipeline writes them, in a folder; and the command line in this process."""

import contextlib
import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cli.__main__ import main
from cli.artifacts.manifests import key_id
from services.exporter.pipeline import archive, cms, manifest, smime
from services.exporter.pipeline.batch import batched
from tests.exporter.test_pipeline_cms import identity

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SUFFIXES = {"gcm": "zip.p7m", "smime": "zip.smime", "none": "zip"}
ANNA = identity("Anna")
BERT = identity("Bert")
_NOISE = Random(1)
ROWS = [orjson.dumps({"ixnId": f"{number:016}", "text": _NOISE.randbytes(40).hex()}) + b"\n" for number in range(300)]
CSV_ROWS = [f'{number:016},"one\n""two"" {_NOISE.randbytes(40).hex()}"\n'.encode() for number in range(300)]


@dataclass(frozen=True)
class Told:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.out)


def cdds(*arguments: str | Path) -> Told:
    """`cdds ARGUMENTS` without a terminal; a traceback is an error of the test."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        patch.object(sys, "argv", ["cdds", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    assert isinstance(code, int)
    assert "Traceback" not in err.getvalue()
    return Told(int(code), out.getvalue(), err.getvalue())


@dataclass
class Installation:
    """Signs manifests; `folder` is where its signing keys and the files it makes lie."""

    folder: Path
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def key_id(self) -> str:
        return key_id(self.key.public_key())

    @property
    def pem(self) -> str:
        public = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return public.decode()

    def publish_keys(self) -> Path:
        path = self.folder / "signing-keys.json"
        item = {"key_id": self.key_id, "algorithm": "Ed25519", "pem": self.pem}
        path.write_bytes(orjson.dumps({"items": [item], "next": None}))
        return path


@dataclass(frozen=True)
class Run:
    """A run whose files are written; `plain` is each file inside the parts by its name."""

    id: UUID
    job: UUID
    folder: Path
    manifest: dict[str, Any]
    plain: dict[str, bytes]

    @property
    def manifest_path(self) -> Path:
        return self.folder / f"export-{self.id}.manifest.json"

    @property
    def schema_path(self) -> Path:
        return self.folder / f"export-{self.id}.schema.json"

    @property
    def parts(self) -> list[Path]:
        return [self.folder / part["name"] for part in self.manifest["parts"]]

    @property
    def sha256(self) -> str:
        return sha256(self.manifest_path.read_bytes()).hexdigest()


def make_run(
    installation: Installation,
    *,
    job: UUID | None = None,
    run: UUID | None = None,
    previous: Run | None = None,
    encryption: str = "gcm",
    format: str = "jsonl",
    rows: Sequence[bytes] | None = None,
    split_bytes: int | None = 4000,
    slot_key: str | None = None,
    start: datetime | None = MIDNIGHT,
    end: datetime | None = None,
    recipients: Iterable[Any] = (ANNA[1], BERT[1]),
    tenant: str = "acme",
    **changes: Any,
) -> Run:
    """Archive, seal, hash and sign, as the exporter does; the schema is one of its type."""
    run = run or uuid4()
    job = job or (previous.job if previous else uuid4())
    end = end or (start or MIDNIGHT) + HOUR
    slot = end.isoformat().replace("+00:00", "Z")
    slot_key = slot_key or f"schedule:{slot}"
    rows = (CSV_ROWS if format == "csv" else ROWS) if rows is None else rows
    header = b"ixnId,text\n" if format == "csv" else b""
    seal = {"gcm": cms.seal, "smime": smime.seal, "none": lambda part, _: part}[encryption]
    records: list[dict[str, Any]] = []
    sealed: list[bytes] = []
    plain: dict[str, bytes] = {}
    rest = iter(rows)
    for part in archive.split(
        batched(rest),
        entry=lambda number: f"Interaction-{run}-{number:04}.{format}",
        split_bytes=split_bytes,
        modified_at=MIDNIGHT,
        header=header,
    ):
        stored = b"".join(seal(part, list(recipients)))
        sealed.append(stored)
        records.append(
            {
                "entity": "Interaction", "entry": part.entry, "rows": part.rows, "plain_bytes": part.plain_bytes,
                "plain_sha256": part.plain_sha256, "zip_bytes": part.zip_bytes, "stored_bytes": len(stored),
                "stored_sha256": sha256(stored).hexdigest(), "key": f"{run}/1/{part.number:04}",
            }
        )  # fmt: skip
    at = 0
    for number, record in enumerate(records, 1):
        record["name"] = f"export-{run}-{number:04}-of-{len(records):04}.{SUFFIXES[encryption]}"
        (installation.folder / record["name"]).write_bytes(sealed[number - 1])
        plain[record["entry"]] = header + b"".join(rows[at : at + record["rows"]])
        at += record["rows"]
    schema = orjson.dumps({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"})
    schema_name = f"export-{run}.schema.json"
    (installation.folder / schema_name).write_bytes(schema)
    document: dict[str, Any] = {
        "run": str(run), "job": str(job), "tenant": tenant, "slot_key": slot_key, "attempt": 1, "source": "ucs",
        "type": "interaction", "data_interval": {"from": start, "to": end}, "snapshot": "750:750:",
        "rows": len(rows), "entities": {"Interaction": {"rows": len(rows), "fields": ["ixnId", "text"]}},
        "parts": records, "schema": {"name": schema_name, "sha256": sha256(schema).hexdigest()},
        "recipients": ["cc" * 32], "masking": {}, "format": format, "csv_profile": "spreadsheet",
        "encryption": encryption, "software_version": "0.1.0", "created_at": end + timedelta(minutes=1),
        "previous_manifest_sha256": previous.sha256 if previous else None,
        **changes,
    }  # fmt: skip
    written = Run(run, job, installation.folder, orjson.loads(manifest.canonical(document)), plain)
    written.manifest_path.write_bytes(manifest.sign(document, installation.key, installation.key_id))
    return written


def write_key(folder: Path, key: Any, passphrase: bytes | None = None, name: str = "key.pem") -> Path:
    """The private key as a PEM file."""
    path = folder / name
    protection = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection))
    return path


def write_certificate(folder: Path, certificate: Any, name: str = "certificate.pem") -> Path:
    path = folder / name
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path


def flip(path: Path, position: int) -> None:
    """Change one bit of the byte there; negative counts from the end."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
