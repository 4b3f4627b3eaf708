"""From a stored part to its rows as one stream: decrypted, unzipped, hashed and counted on the way."""

import csv
import io
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final

import typer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from stream_unzip import UnzipError, stream_unzip

from cli.artifacts.manifests import Part, encryption_of, plain_name
from cli.console import Failure, err
from services.exporter.pipeline import cms, smime

_CHUNK_BYTES: Final = 1024**2
_CELL_BYTES: Final = 2**31 - 1
"""The csv module refuses cells above 128 KiB unless told; a row is never larger than 1 GiB."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who opens a part; without a certificate every recipient of the file is tried."""

    key: rsa.RSAPrivateKey
    certificate: x509.Certificate | None


@dataclass(frozen=True, slots=True)
class Measured:
    """What came out of a part that was read to its end; sizes in bytes."""

    entry: str
    rows: int
    plain_bytes: int
    plain_sha256: str
    zip_bytes: int


class Damaged(Exception):
    """What is inside a part is not what an export holds, though it could be decrypted."""


Sink = Callable[[bytes], object]


def load_identity(key: Path, certificate: Path | None, passphrase_file: Path | None) -> Identity:
    """The private key in a PEM file, asking for its passphrase where one is needed. Raises Failure."""
    private = _private_key(key, passphrase_file)
    if not isinstance(private, rsa.RSAPrivateKey):
        raise Failure(f"{key} holds no RSA private key: exports are encrypted for RSA keys only")
    if certificate is None:
        return Identity(private, None)
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    except ValueError as error:
        raise Failure(f"{certificate} holds no PEM certificate: name the file that was given to CDDS") from error
    if loaded.public_key() != private.public_key():
        raise Failure(f"{key} does not belong to {certificate}: name the key that the certificate was made with")
    return Identity(private, loaded)


def _private_key(path: Path, passphrase_file: Path | None) -> object:
    content = path.read_bytes()
    passphrase = None if passphrase_file is None else passphrase_file.read_bytes().rstrip(b"\r\n")
    try:
        try:
            return load_pem_private_key(content, passphrase)
        except TypeError:
            if passphrase is not None:  # the key needs none
                return load_pem_private_key(content, None)
        if not err.is_terminal:
            raise Failure(f"{path} is encrypted: give its passphrase with --passphrase-file")
        asked: str = typer.prompt(f"Passphrase of {path}", hide_input=True, err=True)
        return load_pem_private_key(content, asked.encode())
    except ValueError as error:
        raise Failure(f"{path} can't be read: it is no private key in PEM form, or the passphrase is wrong") from error


def measure(
    path: Path,
    identity: Identity | None,
    *,
    expected: Part | None = None,
    entered: Callable[[str], object] = lambda _: None,
    sink: Sink = lambda _: None,
    read: Callable[[int], object] = lambda _: None,
) -> Measured:
    """Read a part to its end; only when this returns may what `sink` got be used.

    `entered` is told the name of the file inside, `read` how much of the part was read. With `expected` it ends as
    soon as more comes out than the manifest knows of. Raises SealError, Damaged, Failure.
    """
    encryption = encryption_of(path.name)
    if encryption is None:
        raise Failure(f"{path} is not named like a part (.zip.p7m, .zip.smime or .zip): name the files of an export")
    if encryption != "none" and identity is None:
        raise Failure(f"{path} is encrypted: give the private key with --key")
    digest = sha256()
    with path.open("rb") as file:
        zipped = _Counted(_unsealed(_Told(file, read), encryption, identity))
        entry, content = unzipped(iter(zipped))
        entered(entry)
        plain = _Counted(content, digest.update, sink, limit=None if expected is None else expected.plain_bytes)
        rows = count_rows(plain, entry.rpartition(".")[2])
    return Measured(entry, rows, plain.bytes, digest.hexdigest(), zipped.bytes)


def differences(measured: Measured, part: Part) -> list[str]:
    """In which respects the content is not what the manifest says; none when it is."""
    pairs = (
        ("the name of the file inside", measured.entry, part.entry),
        ("the number of rows", measured.rows, part.rows),
        ("the size of the content", measured.plain_bytes, part.plain_bytes),
        ("the SHA-256 of the content", measured.plain_sha256, part.plain_sha256),
        ("the size of the zip", measured.zip_bytes, part.zip_bytes),
    )
    return [f"{what} is {found}, the manifest says {said}" for what, found, said in pairs if found != said]


def unzipped(zipped: Iterator[bytes]) -> tuple[str, Iterator[bytes]]:
    """The name and the content of the only file in a zip. Raises Damaged, and what `zipped` raises.

    The zip is read to its end even where it is broken: only then an authenticated file tells that it was changed.
    """
    members = stream_unzip(zipped, chunk_size=_CHUNK_BYTES)
    with _drained(zipped):
        first = next(members, None)
    if first is None:
        raise Damaged("the zip is empty")
    try:
        entry = plain_name(first[0].decode())
    except ValueError as error:
        raise Damaged("the zip holds a file without a plain name") from error

    def content() -> Iterator[bytes]:
        with _drained(zipped):
            yield from first[2]
            if next(members, None) is not None:
                raise Damaged("the zip holds more than one file")

    return entry, content()


@contextmanager
def _drained(zipped: Iterator[bytes]) -> Generator[None]:
    try:
        yield
    except UnzipError as error:
        for _ in zipped:
            pass
        raise Damaged(f"the zip is broken ({type(error).__name__})") from error


def count_rows(content: Iterable[bytes], extension: str) -> int:
    """Rows of JSON Lines, or records of a CSV after its header; reads `content` to its end. Raises Damaged."""
    if extension == "jsonl":
        return _lines(content)
    if extension == "csv":
        return _records(content)
    raise Damaged(f"it holds neither JSON Lines nor CSV but .{extension}")


def _lines(content: Iterable[bytes]) -> int:
    rows, last = 0, b"\n"
    for chunk in content:
        rows += chunk.count(b"\n")
        last = chunk[-1:] or last
    if last != b"\n":
        raise Damaged("its last line is not complete")
    return rows


def _records(content: Iterable[bytes]) -> int:
    csv.field_size_limit(_CELL_BYTES)
    text = io.TextIOWrapper(io.BufferedReader(_Raw(content), _CHUNK_BYTES), encoding="utf-8", newline="")
    try:
        records = sum(1 for _ in csv.reader(text, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise Damaged(f"it is no CSV: {error}") from error
    if not records:
        raise Damaged("it lacks its header line")
    return records - 1


class _Raw(io.RawIOBase):
    """Chunks as a file, for readers that want one."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]  # what it gets
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


class _Counted:
    """Passes chunks through, to the sinks as well; `bytes` is how much came. Raises Damaged above the limit."""

    def __init__(self, chunks: Iterable[bytes], *sinks: Sink, limit: int | None = None) -> None:
        self._chunks = chunks
        self._sinks = sinks
        self._limit = limit
        self.bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.bytes += len(chunk)
            if self._limit is not None and self.bytes > self._limit:
                raise Damaged(f"more than the {self._limit} bytes that the manifest says come out of it")
            for sink in self._sinks:
                sink(chunk)
            yield chunk


class _Told:
    """A file that tells how much of it was read."""

    def __init__(self, file: BinaryIO, read: Callable[[int], object]) -> None:
        self._file = file
        self._tell = read

    def read(self, size: int, /) -> bytes:
        data = self._file.read(size)
        self._tell(len(data))
        return data


def _unsealed(file: _Told, encryption: str, identity: Identity | None) -> Iterator[bytes]:
    if identity is None or encryption == "none":
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
    elif encryption == "gcm":
        yield from cms.unseal(file, identity.key, identity.certificate)
    else:
        yield from smime.unseal(file, identity.key, identity.certificate)
