"""`cdds artifacts decrypt`: rows out of sealed parts; a file appears when it is proved, or not at all."""

import re
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, NoReturn

import orjson
import typer
from rich.markup import escape

from cli.artifacts.failures import one_line
from cli.artifacts.manifests import (
    ENCRYPTIONS,
    KEYS_NAME,
    MANIFEST_SUFFIX,
    Manifest,
    Part,
    encryption_of,
    in_folder,
    load_keys,
    parsed,
    read_manifest,
)
from cli.artifacts.opening import Damaged, Identity, Measured, differences, load_identity, measure
from cli.artifacts.unnamed import unnamed
from cli.console import (
    Advance,
    Exit,
    Failure,
    Output,
    OutputOption,
    err,
    out,
    print_json,
    print_table,
    progress,
    size_text,
)
from services.exporter.pipeline.errors import NotARecipient, SealError
from services.exporter.pipeline.manifest import ManifestRejected

_RUN: Final = re.compile(r"(export-[0-9a-f-]{36})-\d+-of-\d+\.")

Key = Annotated[Path | None, typer.Option("--key", help="The private key (PEM) that belongs to your certificate.")]
Certificate = Annotated[
    Path | None,
    typer.Option("--certificate", help="Your certificate (PEM); without it, every recipient of a file is tried."),
]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", help="Holds the passphrase of the key; asked for otherwise.")
]


class Proof(StrEnum):
    """What shows that the content is what was exported."""

    SIGNED = "signed manifest"
    MANIFEST = "manifest, signature not checked"
    TAG = "encryption only"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Decrypted:
    """A file that was written."""

    part: Path
    file: Path
    measured: Measured
    proof: Proof


def decrypt(
    paths: Annotated[list[Path], typer.Argument(help="Parts, manifests (for all their parts), or folders of parts.")],
    key: Key = None,
    certificate: Certificate = None,
    into: Annotated[Path, typer.Option("--into", help="Folder for the decrypted files.")] = Path(),
    passphrase_file: PassphraseFile = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", help=f"Signing keys; {KEYS_NAME} beside the parts otherwise.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Decrypt and unzip parts of any size into JSON Lines or CSV files.

    A file gets its name only after everything about it was checked: the tag of the encryption, and, when the manifest
    lies beside the part, the hash, the size and the number of rows. A failure, Ctrl-C included, leaves nothing.

        cdds artifacts decrypt exports/ --key key.pem --into rows/
    """
    # Ends like Ctrl-C, so that hidden files are removed where the file system can't do without them.
    signal.signal(signal.SIGTERM, _end)
    with one_line():
        identity = None if key is None else load_identity(key, certificate, passphrase_file)
        parts = _parts(paths)
        if identity is None and any(encryption_of(part.name) != "none" for part in parts):
            raise Failure("the parts are encrypted: give your private key with --key")
        into.mkdir(parents=True, exist_ok=True)
        manifests = _Manifests(keys)
        done: list[Decrypted] = []
        failures: list[Failure] = []
        with progress("Decrypting", sum(part.stat().st_size for part in parts)) as advance:
            for part in parts:
                try:
                    done.append(_decrypt(part, identity, manifests, into, force, advance))
                except Failure as failure:
                    failures.append(failure)
    _warn(done)
    _print(done, output)
    _raise(failures, len(parts))


def _end(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def _parts(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += _sealed(in_folder(path, tuple(ENCRYPTIONS)))
        elif path.name.endswith(MANIFEST_SUFFIX):
            found += [path.with_name(part.name) for part in _unsigned(path).parts]
        else:
            found.append(path)
    if not found:
        raise Failure("there are no parts (.zip.p7m, .zip.smime, .zip): name a folder that `fetch` filled")
    return list(dict.fromkeys(found))


def _sealed(paths: Sequence[Path]) -> list[Path]:
    """Without each `part.zip` that openssl made of the `part.zip.p7m` beside it."""
    names = {path.name for path in paths}
    return [path for path in paths if names.isdisjoint((path.name + ".p7m", path.name + ".smime"))]


class _Manifests:
    """The manifests beside the parts, each read once; `keys` None means: those beside them."""

    def __init__(self, keys: Path | None) -> None:
        self._keys = keys
        self._known: dict[Path, tuple[Manifest, Proof]] = {}

    def of(self, part: Path) -> tuple[Part, Proof] | None:
        """What is said about this part, and how well that is known. Raises Failure."""
        named = _RUN.match(part.name)
        if named is None:
            return None
        path = part.with_name(named[1] + MANIFEST_SUFFIX)
        if path not in self._known:
            if not path.exists():
                return None
            self._known[path] = self._read(path)
        manifest, proof = self._known[path]
        for record in manifest.parts:
            if record.name == part.name:
                return record, proof
        raise Failure(f"{part}: {path.name} does not know this part: fetch the run again", Exit.VERIFICATION)

    def _read(self, path: Path) -> tuple[Manifest, Proof]:
        keys = self._keys or path.with_name(KEYS_NAME)
        if self._keys is None and not keys.exists():
            return _unsigned(path), Proof.MANIFEST
        try:
            return read_manifest(path, load_keys(keys)).manifest, Proof.SIGNED
        except ManifestRejected as error:
            raise Failure(f"{path}: {error}: fetch the run again", Exit.VERIFICATION) from error


def _unsigned(path: Path) -> Manifest:
    try:
        return parsed(orjson.loads(path.read_bytes()))
    except (ValueError, ManifestRejected) as error:
        raise Failure(f"{path}: it is no manifest ({error}): fetch the run again", Exit.VERIFICATION) from error


def _decrypt(
    path: Path, identity: Identity | None, manifests: _Manifests, into: Path, force: bool, advance: Advance
) -> Decrypted:
    known = manifests.of(path)
    expected, proof = known or (None, Proof.TAG if encryption_of(path.name) == "gcm" else Proof.NOTHING)

    def refuse_existing(entry: str) -> None:
        if not force and (into / entry).exists():
            raise Failure(f"{into / entry} exists: remove it, or give --force to replace it")

    try:
        with unnamed(into) as target:
            measured = measure(
                path, identity, expected=expected, entered=refuse_existing, sink=target.write, read=advance
            )
            if expected is not None and (wrong := differences(measured, expected)):
                raise Damaged("; ".join(wrong))
            refuse_existing(measured.entry)
            final = target.publish(measured.entry, replace=force)
    except NotARecipient as error:
        raise Failure(
            f"{path}: it was not encrypted for this key: use the private key of a certificate that the job encrypts for"
        ) from error
    except (SealError, Damaged) as error:
        raise Failure(f"{path}: {_sentence(error)}: fetch it again; nothing was kept", Exit.VERIFICATION) from error
    return Decrypted(path, final, measured, proof)


def _sentence(error: Exception) -> str:
    return str(error).removesuffix(".")


def _warn(done: Iterable[Decrypted]) -> None:
    unproved = [one.file.name for one in done if one.proof is Proof.NOTHING]
    unsigned = [one.file.name for one in done if one.proof is Proof.MANIFEST]
    if unproved:
        err.print(
            f"[bold yellow]Warning:[/] nothing proves that {escape(', '.join(unproved))} is what was exported: this"
            " kind of part does not notice changes. Put the manifest and the signing keys beside the parts.",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    if unsigned:
        err.print(
            f"[bold yellow]Warning:[/] the manifest's signature was not checked, because there is no {KEYS_NAME}"
            " beside it and no --keys.",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


def _print(done: Sequence[Decrypted], output: Output) -> None:
    if output is Output.JSON:
        print_json(
            {
                "files": [
                    {
                        "part": str(one.part), "file": str(one.file), "rows": one.measured.rows,
                        "bytes": one.measured.plain_bytes, "sha256": one.measured.plain_sha256, "proof": one.proof,
                    }
                    for one in done
                ],
                "rows": sum(one.measured.rows for one in done),
            }
        )  # fmt: skip
        return
    if not done:
        return
    print_table(
        "File", "Rows", "Size", "Proved by",
        rows=[
            [escape(str(one.file)), f"{one.measured.rows:,}", size_text(one.measured.plain_bytes), one.proof]
            for one in done
        ],
    )  # fmt: skip
    out.print(f"{sum(one.measured.rows for one in done):,} rows in {len(done)} file(s).", highlight=False)


def _raise(failures: Sequence[Failure], parts: int) -> None:
    if not failures:
        return
    code = Exit.VERIFICATION if any(one.code is Exit.VERIFICATION for one in failures) else Exit.FAILED
    if len(failures) == 1 and parts == 1:
        raise Failure(str(failures[0]), code)
    for failure in failures:
        err.print(f"[bold red]cdds:[/] {escape(str(failure))}", highlight=False, soft_wrap=True)
    raise Failure(f"{len(failures)} of {parts} parts were not decrypted", code)
