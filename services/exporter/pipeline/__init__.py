"""From the rows of a data interval to encrypted zip parts in the store.

    source    connections that can't harm it        read-only, repeatable read
    extract   rows of one snapshot as lines            server: COPY
    content   JSON Lines or CSV, masked                server: row_to_json
    archive   lines -> zip parts below the split size  deflate, SHA-256 of the content
    cms       zip -> sealed for every recipient        AES-256-GCM
    smime     the same for clients of old              AES-256-CBC
    storage   chunks -> an object, durable and re-read SHA-256 of what is stored
    manifest  the facts of all that, signed
    catalogue what there is to export, and
    estimate  how much of it, for those who ask before

`export` composes them. Each stage is a generator that pulls from the one before it, so one thread runs it all, memory
is what a chunk per stage needs (plus the largest row, a few times), and an exception anywhere unwinds everything.
The store pulls: a slow disk slows the source down, nothing piles up.

An attempt is all or nothing: it writes under its own prefix, which is emptied again on any exception. Whether its
parts become visible is the caller's fenced decision. Since the number of parts is only known at the end, objects are
named `<prefix>/<NNNN>`, and the download names, which carry the total, are part of the result.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from cryptography import x509

from services.exporter.pipeline import archive, cms, smime
from services.exporter.pipeline.catalogue import Catalogue
from services.exporter.pipeline.content import AS_IT_IS, Content
from services.exporter.pipeline.errors import (
    Cancelled,
    FieldUnknown,
    PipelineError,
    RowTooLarge,
    SourceRefused,
    SourceUnavailable,
    StoreFailed,
)
from services.exporter.pipeline.estimate import Estimate, Estimator
from services.exporter.pipeline.extract import Extraction, Query
from services.exporter.pipeline.manifest import PartRecord
from services.exporter.pipeline.storage import ObjectStore, Stored
from shared.failpoints import reached

__all__ = [
    "Cancelled",
    "Catalogue",
    "Content",
    "Encryption",
    "Estimate",
    "Estimator",
    "Extraction",
    "FieldUnknown",
    "ObjectStore",
    "Output",
    "PartRecord",
    "PipelineError",
    "Query",
    "Result",
    "RowTooLarge",
    "SourceRefused",
    "SourceUnavailable",
    "StoreFailed",
    "export",
]

_POLL_SECONDS = 0.1
_ROWS_PER_LOOK = 256
"""How often the clock is read, so that progress is reported about every 0.1 s and costs nothing."""

Progress = Callable[[int, int, int | None], None]
"""Rows so far, bytes of content so far, and how many rows were counted beforehand."""


class Encryption(StrEnum):
    """How a part is protected; NONE has to be asked for and is never a fallback."""

    GCM = "gcm"
    SMIME = "smime"
    NONE = "none"


_SUFFIXES = {Encryption.GCM: "zip.p7m", Encryption.SMIME: "zip.smime", Encryption.NONE: "zip"}


@dataclass(frozen=True, slots=True)
class Output:
    """The shape of the files. `noun` is the type's title (`Interaction`); `modified_at` stands in the zips."""

    run: str
    noun: str
    split_bytes: int | None
    modified_at: datetime
    encryption: Encryption = Encryption.GCM
    content: Content = AS_IT_IS

    def entry(self, number: int) -> str:
        return f"{self.noun}-{self.run}-{number:04}.{self.content.format}"

    def name(self, number: int, total: int) -> str:
        return f"export-{self.run}-{number:04}-of-{total:04}.{_SUFFIXES[self.encryption]}"


@dataclass(frozen=True, slots=True)
class Result:
    """What one attempt read and stored; `bytes` is the content before compression, `total` what was counted first."""

    snapshot: str
    fields: Sequence[str]
    rows: int
    bytes: int
    parts: Sequence[PartRecord]
    total: int | None


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

    `progress` is called from this thread, `cancelled` from another one, each about every 0.1 s. No rows give one
    part with a file that is empty, or has only its header. On any exception `prefix` is emptied before it propagates.
    Raises PipelineError's children, and ValueError when encryption and recipients contradict each other.
    """
    if (output.encryption is Encryption.NONE) == bool(recipients):
        raise ValueError(f"encryption {output.encryption} with {len(recipients)} recipients")
    stored: list[tuple[archive.Part, str, Stored]] = []
    try:
        with Extraction(query, output.content) as source, _watched(source, cancelled):
            total = source.estimate()
            with closing(source.rows()) as rows:
                lines = _counted(rows, total, progress)
                for part in archive.split(
                    lines,
                    entry=output.entry,
                    split_bytes=output.split_bytes,
                    modified_at=output.modified_at,
                    header=source.header,
                ):
                    key = f"{prefix}/{part.number:04}"
                    stored.append((part, key, store.write(key, _sealed(part, output.encryption, recipients))))
                    reached("exporter.part_stored")
            snapshot, fields = source.snapshot, tuple(source.fields)
    except BaseException as error:
        _empty(store, prefix, error)
        raise
    parts = tuple(_record(part, key, kept, output.name(part.number, len(stored))) for part, key, kept in stored)
    return Result(
        snapshot=snapshot,
        fields=fields,
        rows=sum(part.rows for part in parts),
        bytes=sum(part.plain_bytes for part in parts),
        parts=parts,
        total=total,
    )


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


def _counted(lines: Iterator[bytes], total: int, progress: Progress) -> Iterator[bytes]:
    """Passes lines through, reporting on the way, and once at the end."""
    rows = size = 0
    due = time.monotonic() + _POLL_SECONDS
    for line in lines:
        if rows == 0:
            reached("exporter.first_row")
        rows += 1
        size += len(line)
        if rows % _ROWS_PER_LOOK == 0 and time.monotonic() >= due:
            progress(rows, size, total)
            due = time.monotonic() + _POLL_SECONDS
        yield line
    progress(rows, size, total)


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


def _record(part: archive.Part, key: str, stored: Stored, name: str) -> PartRecord:
    return PartRecord(
        name=name,
        entry=part.entry,
        rows=part.rows,
        plain_bytes=part.plain_bytes,
        plain_sha256=part.plain_sha256,
        zip_bytes=part.zip_bytes,
        stored_bytes=stored.size,
        stored_sha256=stored.sha256,
        key=key,
    )
