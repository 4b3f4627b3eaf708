"""Artifacts in a folder or an S3 bucket, behind one interface: written as a stream, checked, then trusted.

obstore makes writes atomic: a local file grows as `<key>#1` and is renamed, an S3 object appears when its multipart
upload completes, and a generator that raises leaves neither. It does not fsync; for a folder we do. What a killed
process leaves behind (`#1` files) goes with `delete_prefix`; open multipart uploads go by the bucket's lifecycle rule.

Every write is read back and hashed. That costs about 0.7 s per GB from the page cache and proves that what the store
returns is what the pipeline made; the hash is the one the manifest signs.
"""

import hashlib
import os
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from services.exporter.pipeline.errors import StoreFailed

_PIECE_BYTES = 8 * 1024**2
"""S3 takes at most 10,000 pieces of an upload: objects up to 80 GB, where a part has at most 1 GiB."""
_CONCURRENCY = 2
"""Pieces on their way at once; with the one being filled, 24 MiB are held per write."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store was seen to return after writing."""

    size: int
    sha256: str


class ObjectStore:
    """A folder (a path or `file://` URL) or anything else obstore knows by URL, such as `s3://bucket/folder`.

    `options` are obstore's for that kind of store (`access_key_id`, `endpoint`, …). Thread-safe.
    """

    def __init__(self, location: str | Path, options: Mapping[str, str] | None = None) -> None:
        self._folder: Path | None = None
        if isinstance(location, Path) or "://" not in location or location.startswith("file://"):
            self._folder = _folder(location)
            self._store: Any = LocalStore(self._folder, mkdir=True)
            return
        config: Any = dict(options or {})
        client: Any = {"allow_http": str(config.get("endpoint", "")).startswith("http://")}
        self._store = from_url(location, config=config, client_options=client)

    def write(self, key: str, chunks: Iterable[bytes]) -> Stored:
        """Store the chunks under `key`, durably, and read them back; nothing is visible there before the last.

        What the chunks raise passes through. Raises StoreFailed.
        """
        passing = _Measured(chunks)
        with _explained(key):
            # Not `obstore.put(iterator)`: it runs the iterator inside its own event loop, where a stage that
            # touches the store again panics. Leaving the writer by an exception aborts the upload.
            with obstore.open_writer(
                self._store, key, buffer_size=_PIECE_BYTES, max_concurrency=_CONCURRENCY
            ) as writer:
                for chunk in passing:
                    writer.write(chunk)
            self._make_durable(key)
            measured = _Measured(self.read(key))
            for _ in measured:
                pass
        if measured.stored() != passing.stored():
            raise StoreFailed(f"{key}: {passing.stored()} was written, {measured.stored()} was read back")
        return measured.stored()

    def read(self, key: str, offset: int = 0) -> Iterator[bytes]:
        """The object from `offset` on, in pieces of at most 8 MiB. Raises FileNotFoundError at once."""
        size = obstore.head(self._store, key)["size"]
        # A request per piece: a slow reader can't run into a request's timeout, and each is retried alone. Besides,
        # obstore's own stream reads local files in pieces of 8 KiB (2.1 s instead of 0.35 s for 512 MiB).
        starts = range(offset, size, _PIECE_BYTES)
        return (
            bytes(obstore.get_range(self._store, key, start=start, end=min(start + _PIECE_BYTES, size)))
            for start in starts
        )

    def exists(self, key: str) -> bool:
        try:
            obstore.head(self._store, key)
        except FileNotFoundError:
            return False
        return True

    def delete_prefix(self, prefix: str) -> None:
        """Delete every object below the folder `prefix`, unfinished local ones included; nothing there is fine.

        Raises StoreFailed.
        """
        if not prefix.strip("/"):
            raise ValueError("an empty prefix would delete the whole store")
        if self._folder is not None:
            target = (self._folder / prefix).resolve()
            if self._folder not in target.parents:
                raise ValueError(f"{prefix} lies outside the store")
            with _explained(prefix):
                while target.exists():
                    # Gone under our hands: another worker deletes the same.
                    with suppress(FileNotFoundError):
                        shutil.rmtree(target)
            return
        with _explained(prefix):
            for found in obstore.list(self._store, prefix):
                obstore.delete(self._store, [entry["path"] for entry in found])

    def _make_durable(self, key: str) -> None:
        """fsync the file, and each folder up to the root because any of them may be new."""
        if self._folder is None:
            return
        path = self._folder / key
        for name in (path, *(parent for parent in path.parents if parent.is_relative_to(self._folder))):
            descriptor = os.open(name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


class _Measured:
    """Passes chunks through, counting and hashing them."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self._size = 0
        self._sha256 = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._size += len(chunk)
            self._sha256.update(chunk)
            yield chunk

    def stored(self) -> Stored:
        return Stored(self._size, self._sha256.hexdigest())


def _folder(location: str | Path) -> Path:
    if isinstance(location, str) and location.startswith("file://"):
        location = unquote(urlsplit(location).path)
    return Path(location).resolve()


@contextmanager
def _explained(key: str) -> Generator[None]:
    """Raise StoreFailed for what the store or the disk says; obstore appends pages of debugging output to it."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise StoreFailed(f"{key}: {str(error).partition(chr(10))[0]}") from error
