"""Artifacts in a folder or an S3 bucket, behind one interface: written as a stream, checked, then trusted.

obstore makes writes atomic: a local file grows as `<key>#1` and is renamed, an S3 object appears when its multipart
upload completes, and a generator that raises leaves neither. It does not fsync; for a folder we do. What a killed
process leaves in a folder (`#1` files) goes with `delete_prefix`, and `prefixes` lists it. Open multipart uploads it
can't list: the bucket needs a lifecycle rule, `AbortIncompleteMultipartUpload` after 7 days.

Every write is read back and hashed. That costs about 0.7 s per GB from the page cache and proves that what the store
returns is what the pipeline made; the hash is the one the manifest signs.
"""

import asyncio
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import obstore
from obstore.store import LocalStore, from_url

from services.exporter.pipeline.errors import StoreFailed
from services.exporter.pipeline.transfer import Patience, Waiter, explained

_PIECE_BYTES = 8 * 1024**2
"""S3 takes at most 10,000 pieces of an upload: objects up to 80 GB, where a part has at most 1 GiB."""
_FOLDER_PIECE_BYTES = 1024**2
"""Writes of 8 MiB make Linux look for as much memory in one place: 0.1 to 0.9 s per 512 MiB on ext4, here 0.1 s."""
_BATCH_PIECES = 2
"""Pieces on their way at once; with those being filled, 32 MiB are held per write to S3, 4 MiB to a folder."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store was seen to return after writing."""

    size: int
    sha256: str


_PATIENCE = Patience()


class Prefix(NamedTuple):
    """An attempt's folder, `<run>/<attempt>`, and when the newest object in it was written."""

    run: str
    attempt: str
    newest: datetime


class ObjectStore:
    """A folder (a path or `file://` URL) or anything else obstore knows by URL, such as `s3://bucket/folder`.

    `options` are obstore's for that kind of store (`access_key_id`, `endpoint`, …). Thread-safe.
    """

    def __init__(
        self, location: str | Path, options: Mapping[str, str] | None = None, patience: Patience = _PATIENCE
    ) -> None:
        self._folder: Path | None = None
        if isinstance(location, Path) or "://" not in location or location.startswith("file://"):
            self._folder = _folder(location)
            self._store: Any = LocalStore(self._folder, mkdir=True)
            return
        config: Any = dict(options or {})
        client: Any = patience.client_options()
        client["allow_http"] = str(config.get("endpoint", "")).startswith("http://")
        retries: Any = patience.retry_config()
        self._store = from_url(location, config=config, client_options=client, retry_config=retries)

    def write(self, key: str, chunks: Iterable[bytes], cancelled: Callable[[], bool] = lambda: False) -> Stored:
        """Store the chunks under `key`, durably, and read them back; nothing is visible there before the last.

        What the chunks raise passes through. Raises StoreFailed, and Cancelled within 2 s of `cancelled` turning true,
        also while the store hangs; how fast the next chunk comes is up to its maker. `cancelled` is called from this
        thread about every 0.1 s. After either, nothing new may be written under the same key.
        """
        passing = _Measured(chunks)
        with Waiter(cancelled) as waiter:
            doubt = self._upload(key, passing, waiter)
            try:
                if self._folder is not None:
                    with explained(key):
                        waiter.wait(lambda: asyncio.to_thread(self._make_durable, key))
                kept = self._measure(key, waiter)
            except StoreFailed as error:
                raise doubt or error from error
        if kept != passing.stored():
            raise doubt or StoreFailed(f"{key}: {passing.stored()} was written, {kept} was read back")
        return kept

    def _upload(self, key: str, chunks: Iterable[bytes], waiter: Waiter) -> StoreFailed | None:
        """Write the object; returns what only reading it back can decide: whether it is there without a reply."""
        # Not `obstore.put(iterator)`: it runs the iterator inside its own event loop, where a stage that touches the
        # store again panics. With a concurrency of 1 a write first waits for all pieces of the one before.
        size = _PIECE_BYTES if self._folder is None else _FOLDER_PIECE_BYTES
        writer = obstore.open_writer_async(self._store, key, buffer_size=size, max_concurrency=1)
        try:
            for batch in _batches(chunks, _BATCH_PIECES * size):
                with explained(key):
                    waiter.wait(partial(writer.write, batch))
            # Closing can be given up, but not be aborted any more: leave as little as possible to it.
            with explained(key):
                waiter.wait(partial(writer.write, b""))
        except BaseException:
            waiter.start(partial(writer.__aexit__, Exception, None, None))
            raise
        try:
            with explained(key):
                waiter.wait(writer.close)
        except StoreFailed as error:
            return error
        return None

    def _measure(self, key: str, waiter: Waiter) -> Stored:
        measured = _Measured()
        with explained(key):
            size = waiter.wait(partial(obstore.head_async, self._store, key))["size"]
            for start in range(0, size, _PIECE_BYTES):
                end = min(start + _PIECE_BYTES, size)
                piece = waiter.wait(partial(obstore.get_range_async, self._store, key, start=start, end=end))
                measured.add(memoryview(piece))
        return measured.stored()

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes `[start, end)` of the object, or to its end, in pieces of at most 8 MiB.

        Raises FileNotFoundError at once when there is no object, and StoreFailed, from the iterator too: never
        fewer bytes than that without an exception, also when the object is deleted meanwhile.
        """
        with explained(key):
            try:
                size = obstore.head(self._store, key)["size"]
            except FileNotFoundError:
                missing = FileNotFoundError(key)
            else:
                return self._pieces(key, start, size if end is None else min(end, size))
        raise missing

    def _pieces(self, key: str, start: int, end: int) -> Iterator[bytes]:
        # A request per piece: a slow reader can't run into a request's timeout, and each is retried alone. Besides,
        # obstore's own stream reads local files in pieces of 8 KiB (2.1 s instead of 0.35 s for 512 MiB).
        for first in range(start, end, _PIECE_BYTES):
            length = min(_PIECE_BYTES, end - first)
            with explained(key):
                piece = bytes(obstore.get_range(self._store, key, start=first, length=length))
            if len(piece) != length:
                raise StoreFailed(f"{key}: {len(piece)} of {length} bytes were read at {first}")
            yield piece

    def exists(self, key: str) -> bool:
        """Whether there is such an object. Raises StoreFailed."""
        with explained(key):
            try:
                obstore.head(self._store, key)
            except FileNotFoundError:
                return False
        return True

    def delete(self, keys: Sequence[str]) -> None:
        """Delete these objects; nothing there is fine. Raises StoreFailed."""
        if self._folder is not None:
            for key in keys:
                with explained(key):
                    path = self._inside(key)
                    path.unlink(missing_ok=True)
                    self._prune(path)
            return
        with explained(f"{len(keys)} objects"):
            try:
                obstore.delete(self._store, list(keys))
            except FileNotFoundError:
                # S3 deletes what is not there, other stores stop at it.
                for key in keys:
                    with suppress(FileNotFoundError):
                        obstore.delete(self._store, key)

    def prefixes(self) -> Iterator[Prefix]:
        """Every attempt's folder that holds anything, in no order; memory does not grow with their number.

        Unfinished local files count, open multipart uploads do not show. Raises StoreFailed, from the iterator too.
        """
        if self._folder is not None:
            return _local_prefixes(self._folder)
        return self._remote_prefixes()

    def _remote_prefixes(self) -> Iterator[Prefix]:
        current: Prefix | None = None
        with explained("the list of objects"):
            # Listings are sorted by key, so that a folder's objects follow each other.
            for found in obstore.list(self._store):
                for entry in found:
                    run, _, rest = entry["path"].partition("/")
                    attempt, inside, _ = rest.partition("/")
                    if not inside:
                        continue
                    newest = entry["last_modified"]
                    if current is not None and (current.run, current.attempt) == (run, attempt):
                        newest = max(newest, current.newest)
                    elif current is not None:
                        yield current
                    current = Prefix(run, attempt, newest)
        if current is not None:
            yield current

    def delete_prefix(self, prefix: str) -> None:
        """Delete every object below the folder `prefix`, unfinished local ones included; nothing there is fine.

        Raises StoreFailed.
        """
        if not prefix.strip("/"):
            raise ValueError("an empty prefix would delete the whole store")
        if self._folder is not None:
            target = self._inside(prefix)
            if not target.exists():
                return
            with explained(prefix):
                while target.exists():
                    # Gone under our hands: another worker deletes the same.
                    with suppress(FileNotFoundError):
                        shutil.rmtree(target)
                self._prune(target)
            return
        with explained(prefix):
            for found in obstore.list(self._store, prefix):
                obstore.delete(self._store, [entry["path"] for entry in found])

    def _inside(self, name: str) -> Path:
        assert self._folder is not None
        path = (self._folder / name).resolve()
        if self._folder not in path.parents:
            raise ValueError(f"{name} lies outside the store")
        return path

    def _prune(self, path: Path) -> None:
        """Remove the folders above `path` that are empty now; a writer in between makes them again."""
        assert self._folder is not None
        for parent in path.parents:
            if parent == self._folder:
                return
            with suppress(FileNotFoundError):
                try:
                    parent.rmdir()
                except OSError as error:
                    if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                        return
                    raise

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


def _local_prefixes(folder: Path) -> Iterator[Prefix]:
    with explained("the list of objects"):
        for run in _entries(folder):
            for attempt in _entries(run.path) if run.is_dir() else ():
                newest: float | None = None
                for entry in _entries(attempt.path) if attempt.is_dir() else ():
                    with suppress(FileNotFoundError):
                        newest = max(newest or 0, entry.stat().st_mtime)
                if newest is not None:
                    yield Prefix(run.name, attempt.name, datetime.fromtimestamp(newest, UTC))


def _entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """What is in a folder; one that has just been deleted has nothing."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        yield from entries


class _Measured:
    """Counts and hashes what is added, or what passes through."""

    def __init__(self, chunks: Iterable[bytes] = ()) -> None:
        self._chunks = chunks
        self._size = 0
        self._sha256 = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.add(chunk)
            yield chunk

    def add(self, chunk: bytes | memoryview) -> None:
        self._size += len(chunk)
        self._sha256.update(chunk)

    def stored(self) -> Stored:
        return Stored(self._size, self._sha256.hexdigest())


def _batches(chunks: Iterable[bytes], size: int) -> Iterator[memoryview]:
    """The same bytes in batches of `size` bytes, the last one excepted; each is valid until the next but one.

    Two buffers take turns: new memory for each would cost as much as hashing what is in it.
    """
    filling, sending = (memoryview(bytearray(size)) for _ in range(2))
    used = 0
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            taken = min(len(rest), size - used)
            filling[used : used + taken] = rest[:taken]
            used, rest = used + taken, rest[taken:]
            if used == size:
                yield filling
                filling, sending = sending, filling
                used = 0
    if used:
        yield filling[:used]


def _folder(location: str | Path) -> Path:
    if isinstance(location, str) and location.startswith("file://"):
        location = unquote(urlsplit(location).path)
    return Path(location).resolve()
