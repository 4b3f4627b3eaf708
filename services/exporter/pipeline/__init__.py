"""From the rows of a data interval to encrypted zip parts in the store.

    source    connections that can't harm it           read-only, repeatable read
    extract   rows of one snapshot                     server: COPY
    content   rows as JSON Lines or CSV, masked        records in batches; `rows` has the fast way
    archive   records -> zip parts below the split size  deflate, SHA-256 of the content
    cms       zip -> sealed for every recipient        AES-256-GCM
    smime     the same for clients of old              AES-256-CBC
    storage   chunks -> an object, durable and re-read SHA-256 of what is stored; `transfer` waits for the store
    schema    what the records look like, for machines
    manifest  the facts of all that, signed
    catalogue what there is to export, and
    estimate  how much of it, for those who ask before

`export` composes them. Each stage is a generator that pulls from the one before it; three threads run them, so that
reading and encoding, compressing, and sealing and storing go on at the same time:

    source ─► extract, content ─►│─► archive ─►│─► cms, storage ─► store
              thread "read"    queue  thread "pack"  queue  the caller's thread

The queues (`stages`) hold two items. So memory is what a few batches and chunks need (plus the largest row, a few
times), an exception anywhere unwinds everything, and a slow disk slows the source down: nothing piles up. Their work
is done in compiled code that releases the interpreter lock, so heartbeats of the process go on beside it.

An attempt is all or nothing: it writes under its own prefix, which is emptied again on any exception. Whether its
parts become visible is the caller's fenced decision. Since the number of parts is only known at the end, objects are
named `<prefix>/<NNNN>`, and the download names, which carry the total, are part of the result.
"""

from services.exporter.pipeline.catalogue import Catalogue
from services.exporter.pipeline.content import Content
from services.exporter.pipeline.errors import (
    Cancelled,
    FieldUnknown,
    PipelineError,
    RowTooLarge,
    SourceExhausted,
    SourceRefused,
    SourceTooSlow,
    SourceUnavailable,
    StoreFailed,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
    TypeUnknown,
)
from services.exporter.pipeline.estimate import Estimate, Estimator
from services.exporter.pipeline.export import Encryption, Output, Result, export
from services.exporter.pipeline.extract import Extraction, Query
from services.exporter.pipeline.manifest import PartRecord
from services.exporter.pipeline.storage import ObjectStore

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
    "SourceExhausted",
    "SourceRefused",
    "SourceTooSlow",
    "SourceUnavailable",
    "StoreFailed",
    "StoreFull",
    "StoreReadOnly",
    "StoreUnreachable",
    "TypeUnknown",
    "export",
]
