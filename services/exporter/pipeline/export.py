"""The pipeline: every stage of an export, composed."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, assert_never

from cryptography import x509

from services.exporter.pipeline import archive, cms, smime
from services.exporter.pipeline.batch import Batch
from services.exporter.pipeline.content import AS_IT_IS, Content
from services.exporter.pipeline.errors import Cancelled
from services.exporter.pipeline.extract import Entity, Extraction, Query
from services.exporter.pipeline.manifest import EntityRecord, PartRecord
from services.exporter.pipeline.schema import schema
from services.exporter.pipeline.stages import ahead
from services.exporter.pipeline.storage import ObjectStore, Stored
from shared.failpoints import reached

_POLL_SECONDS: Final = 0.1

Progress = Callable[[int, int, int | None], None]
"""Rows so far, bytes of content so far, and how many rows were expected beforehand."""


class Encryption(StrEnum):
    """How a part is protected; NONE has to be asked for and is never a fallback."""

    GCM = "gcm"
    SMIME = "smime"
    NONE = "none"


_SUFFIXES = {Encryption.GCM: "zip.p7m", Encryption.SMIME: "zip.smime", Encryption.NONE: "zip"}


@dataclass(frozen=True, slots=True)
class Output:
    """The shape of the files; `modified_at` stands in the zips."""

    run: str
    split_bytes: int | None
    modified_at: datetime
    encryption: Encryption = Encryption.GCM
    content: Content = AS_IT_IS

    def entry(self, entity: Entity, number: int) -> str:
        """The name of the file inside a part."""
        return f"{entity.name}-{self.run}-{number:04}.{self.content.format}"

    def name(self, number: int, total: int) -> str:
        """The name of a part, which its downloads have."""
        return f"export-{self.run}-{number:04}-of-{total:04}.{_SUFFIXES[self.encryption]}"


@dataclass(frozen=True, slots=True)
class Result:
    """What one attempt read and stored; `bytes` is the content before compression, `total` the rows expected first."""

    snapshot: str
    entities: Mapping[str, EntityRecord]
    parts: Sequence[PartRecord]
    schema: bytes
    total: int | None

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.plain_bytes for part in self.parts)


def export(
    query: Query,
    output: Output,
    recipients: Sequence[x509.Certificate],
    store: ObjectStore,
    prefix: str,
    progress: Progress,
    cancelled: Callable[[], bool],
) -> Result:
    """Read the rows of `query` once and store them as sealed parts under `prefix`; blocks, so give it a thread.

    `progress` and `cancelled` are called from other threads, `cancelled` about every 0.1 s. An entity without rows
    gives one part with a file that is empty, or has only its header. On any exception `prefix` is emptied before it
    propagates. Raises PipelineError's children, and ValueError when encryption and recipients contradict each other.
    """
    if (output.encryption is Encryption.NONE) == bool(recipients):
        raise ValueError(f"encryption {output.encryption} with {len(recipients)} recipients")
    stored: list[_Stored] = []
    try:
        source = Extraction(query, output.content)
        # Watched from before it begins: also to describe a table may have to wait for somebody's lock.
        with _watched(source, cancelled), source:
            total = source.total()
            counter = _Counter(total, progress)
            for entity in source.entities:
                with closing(_parts(source, entity, output, counter, len(stored) + 1)) as parts:
                    for part in parts:
                        key = f"{prefix}/{part.number:04}"
                        with closing(ahead(iter(part), "pack")) as packed, _interrupting(source):
                            sealed = _begun(_sealed(packed, output.encryption, recipients))
                            kept = store.write(key, sealed, cancelled)
                        stored.append(_Stored(part, entity.name, key, kept))
                        reached("exporter.part_stored")
            snapshot, entities = source.snapshot, source.entities
        reached("exporter.exported")
        if cancelled():
            # Nobody may wait any more for a thread that was held up by its last part.
            raise Cancelled
    except BaseException as error:
        _empty(store, prefix, error)
        raise
    records = [kept.record(output.name(kept.part.number, len(stored))) for kept in stored]
    return Result(
        snapshot=snapshot,
        entities={entity.name: _totals(entity, records) for entity in entities},
        parts=records,
        schema=schema(output.run, entities),
        total=total,
    )


@dataclass(frozen=True, slots=True)
class _Stored:
    part: archive.Part
    entity: str
    key: str
    stored: Stored

    def record(self, name: str) -> PartRecord:
        part = self.part
        return PartRecord(
            name=name,
            entity=self.entity,
            entry=part.entry,
            rows=part.rows,
            plain_bytes=part.plain_bytes,
            plain_sha256=part.plain_sha256,
            zip_bytes=part.zip_bytes,
            stored_bytes=self.stored.size,
            stored_sha256=self.stored.sha256,
            key=self.key,
        )


def _parts(
    source: Extraction, entity: Entity, output: Output, counter: "_Counter", first: int
) -> Generator[archive.Part, None, None]:
    """The rows of an entity, read by a thread of their own, as parts that are still to be made."""
    with closing(ahead(counter.counted(source.batches(entity)), "read")) as batches, _interrupting(source):
        yield from archive.split(
            batches,
            entry=lambda number: output.entry(entity, number),
            split_bytes=output.split_bytes,
            modified_at=output.modified_at,
            header=entity.encoder.header,
            first=first,
        )


@contextmanager
def _interrupting(source: Extraction) -> Generator[None, None, None]:
    """Interrupts the source on any exception: the threads that wait for it could not be waited for otherwise."""
    try:
        yield
    except BaseException:
        source.cancel()
        raise


class _Counter:
    """Counts what was read, over all entities."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total = total
        self._progress = progress
        self._rows = 0
        self._bytes = 0

    def counted(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Passes batches through, reporting each."""
        for batch in batches:
            if self._rows == 0:
                reached("exporter.first_row")
            self._rows += len(batch)
            self._bytes += len(batch.data)
            self._progress(self._rows, self._bytes, self._total)
            yield batch
        self._progress(self._rows, self._bytes, self._total)


def _sealed(part: Iterable[bytes], encryption: Encryption, recipients: Sequence[x509.Certificate]) -> Iterable[bytes]:
    match encryption:
        case Encryption.GCM:
            return cms.seal(part, recipients)
        case Encryption.SMIME:
            return smime.seal(part, recipients)
        case Encryption.NONE:
            return part
        case _:
            assert_never(encryption)


def _begun(chunks: Iterable[bytes]) -> Iterable[bytes]:
    for chunk in chunks:
        yield chunk
        reached("exporter.part_begun")


def _totals(entity: Entity, parts: Sequence[PartRecord]) -> EntityRecord:
    return EntityRecord(rows=sum(part.rows for part in parts if part.entity == entity.name), fields=entity.fields)


@contextmanager
def _watched(source: Extraction, cancelled: Callable[[], bool]) -> Generator[None, None, None]:
    """Cancels the extraction when asked, also while the source is silent, sorting for the first row.

    The request is repeated because one that falls between two statements is lost.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_SECONDS):
            if cancelled():
                source.cancel()

    watcher = threading.Thread(target=watch, name="export-watcher", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _empty(store: ObjectStore, prefix: str, error: BaseException) -> None:
    """Remove what a failed attempt wrote; if that fails too, the first error stays the one that is told."""
    try:
        store.delete_prefix(prefix)
    except Exception as second:
        error.add_note(f"{prefix} could not be emptied: {second}")
