"""One run in a folder, held against its manifest: every file that must be there, and what is inside."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from cli.artifacts.chain import Finding, Link, Severity
from cli.artifacts.manifests import (
    ENCRYPTIONS,
    KEYS_NAME,
    MANIFEST_SUFFIX,
    SCHEMA_SUFFIX,
    Keys,
    Manifest,
    Part,
    Signed,
    in_folder,
    load_keys,
    read_manifest,
)
from cli.artifacts.opening import Damaged, Identity, differences, measure
from cli.console import Advance, Failure
from services.exporter.pipeline.errors import SealError
from services.exporter.pipeline.manifest import ManifestRejected

_CHUNK_BYTES: Final = 1024**2


@dataclass(frozen=True, slots=True)
class Inspected:
    """What was found about a manifest and its files; `signed` None means that nothing in it can be believed."""

    path: Path
    signed: Signed | None
    findings: Sequence[Finding]

    @property
    def failed(self) -> bool:
        return any(finding.severity is Severity.FAILED for finding in self.findings)


class Signatures:
    """Reads manifests with the keys that were named, or with those beside each manifest."""

    def __init__(self, keys: Path | None) -> None:
        self._named = None if keys is None else load_keys(keys)
        self._beside: dict[Path, Keys] = {}

    def read(self, path: Path) -> Signed:
        """Raises ManifestRejected; and Failure where there are no keys, because then nothing can be verified."""
        return read_manifest(path, self._named or self._keys_beside(path.parent))

    def _keys_beside(self, folder: Path) -> Keys:
        if folder not in self._beside:
            path = folder / KEYS_NAME
            if not path.exists():
                raise Failure(
                    f"there are no signing keys: give --keys, or save GET /api/v1/files/signing-keys as {path}"
                )
            self._beside[folder] = load_keys(path)
        return self._beside[folder]


def inspect(
    path: Path, signatures: Signatures, identity: Identity | None, *, manifest_only: bool, advance: Advance
) -> Inspected:
    """Verify a manifest and, unless told otherwise, its files; with an identity also what is inside the parts."""
    try:
        signed = signatures.read(path)
    except ManifestRejected as error:
        return Inspected(path, None, [_failed(path.name, f"{error}; nothing it says can be believed: fetch it again")])
    manifest = signed.manifest
    findings: list[Finding] = [*_consistency(path, manifest)]
    if not manifest_only:
        findings += _schema(path.parent, manifest)
        for part in manifest.parts:
            findings += _part(path.with_name(part.name), part, identity, advance)
    return Inspected(path, signed, findings)


def link(inspected: Inspected) -> Link | None:
    """The manifest as a link of its job's chain; None for one that can't be believed."""
    if inspected.signed is None:
        return None
    manifest = inspected.signed.manifest
    return Link(
        name=inspected.path.name,
        run=str(manifest.run),
        sha256=inspected.signed.sha256,
        previous=manifest.previous_manifest_sha256,
        slot_key=manifest.slot_key,
        start=manifest.data_interval.start,
        end=manifest.data_interval.to,
        created_at=manifest.created_at,
    )


def strangers(folder: Path, inspected: Iterable[Inspected]) -> list[Finding]:
    """Files of exports in the folder that no believed manifest speaks of: nothing proves what they are."""
    manifests = [one.signed.manifest for one in inspected if one.signed is not None and one.path.parent == folder]
    known = {part.name for manifest in manifests for part in manifest.parts}
    known |= {manifest.rows_schema.name for manifest in manifests if manifest.rows_schema}
    # A rejected manifest is reported itself, and `part.zip` is what openssl makes of `part.zip.p7m`.
    rejected = tuple(one.path.name.removesuffix(MANIFEST_SUFFIX) for one in inspected if one.signed is None)
    return [
        _failed(path.name, "no manifest here speaks of this file: fetch the manifest of its run, or remove the file")
        for path in in_folder(folder, (*ENCRYPTIONS, SCHEMA_SUFFIX))
        if path.name.startswith("export-")
        and known.isdisjoint((path.name, path.name + ".p7m", path.name + ".smime"))
        and not path.name.startswith(rejected)
    ]


def _consistency(path: Path, manifest: Manifest) -> Iterable[Finding]:
    if path.name != manifest.file_name:
        yield Finding(Severity.WARNING, path.name, f"it is the manifest of another name: {manifest.file_name}")
    for name, entity in manifest.entities.items():
        rows = sum(part.rows for part in manifest.parts if part.entity == name)
        if rows != entity.rows:
            yield _failed(path.name, f"its parts have {rows} rows of {name}, where it says {entity.rows}")


def _schema(folder: Path, manifest: Manifest) -> Iterable[Finding]:
    schema = manifest.rows_schema
    if schema is None:
        return
    try:
        found = _digest(folder / schema.name, lambda _: None)
    except FileNotFoundError:
        yield _failed(schema.name, "missing: fetch the run again")
        return
    if found != schema.sha256:
        yield _failed(
            schema.name, "its SHA-256 is not that of the manifest: it was altered or exchanged; fetch it again"
        )


def _part(path: Path, part: Part, identity: Identity | None, advance: Advance) -> Iterable[Finding]:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        yield _failed(part.name, "missing: fetch the run again")
        return
    if size != part.stored_bytes:
        yield _failed(part.name, f"it has {size} bytes, the manifest says {part.stored_bytes}: fetch it again")
        return
    if _digest(path, advance) != part.stored_sha256:
        yield _failed(part.name, "its SHA-256 is not that of the manifest: it was altered or exchanged; fetch it again")
        return
    if identity is not None:
        yield from _content(path, part, identity, advance)


def _content(path: Path, part: Part, identity: Identity, advance: Advance) -> Iterable[Finding]:
    try:
        measured = measure(path, identity, expected=part, read=advance)
    except (SealError, Damaged) as error:
        yield _failed(part.name, str(error).removesuffix("."))
        return
    for difference in differences(measured, part):
        yield _failed(part.name, difference)


def _digest(path: Path, advance: Callable[[int], object]) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


def _failed(subject: str, message: str) -> Finding:
    return Finding(Severity.FAILED, subject, message)
