"""The HTTP edge of exporter: files and the keys that prove where they come from, and what can be exported."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID

from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from services.exporter import domain
from services.exporter.pipeline import Catalogue, Estimate, Estimator, ObjectStore, SourceRefused, SourceUnavailable
from services.exporter.pipeline.catalogue import ListedSource, ListedType
from services.exporter.pipeline.manifest import SigningKey
from services.exporter.store import Store
from shared.clock import UtcDatetime
from shared.events import Question
from shared.http import Operator, Problem, Reader, not_found
from shared.jobs import JobSettings
from shared.observability import log
from shared.sources import SourcesInvalid


class SigningKeyAnswer(BaseModel):
    """A public key that manifests of this installation are signed with."""

    key_id: str
    algorithm: str
    pem: str


class SigningKeysAnswer(BaseModel):
    """All keys that were ever in use."""

    items: list[SigningKeyAnswer]
    next: None = None


class FieldAnswer(BaseModel):
    """A column that can be exported; `type` is PostgreSQL's name of its type."""

    name: str
    type: str
    nullable: bool


class TypeAnswer(BaseModel):
    """A type of a source; `fields` is null while its table can't be read, and then `error` says why."""

    name: str
    title: str
    media_types: list[str]
    id_column: str
    time_column: str
    fields: list[FieldAnswer] | None
    error: str | None

    @classmethod
    def of(cls, listed: ListedType) -> Self:
        """The answer for a type of the catalogue."""
        fields = None
        if listed.columns is not None:
            fields = [FieldAnswer(name=c.name, type=c.type, nullable=c.nullable) for c in listed.columns]
        return cls(
            name=listed.name, title=listed.definition.title, media_types=list(listed.definition.media_types),
            id_column=listed.definition.id_column, time_column=listed.definition.time_column,
            fields=fields, error=listed.error,
        )  # fmt: skip


class SourceAnswer(BaseModel):
    """A source that the caller's tenant may export from; its data intervals end `settle` before the slot."""

    name: str
    title: str
    settle: timedelta
    allow_plaintext: bool
    types: list[TypeAnswer]

    @classmethod
    def of(cls, listed: ListedSource) -> Self:
        """The answer for a source of the catalogue."""
        source = listed.definition
        return cls(
            name=listed.name, title=source.title, settle=source.settle, allow_plaintext=source.allow_plaintext,
            types=[TypeAnswer.of(type_) for type_ in listed.types],
        )  # fmt: skip


class SourcesAnswer(BaseModel):
    """All of them; there is only one page."""

    items: list[SourceAnswer]
    next: None = None


class IntervalAnswer(BaseModel):
    """A data interval, half-open; `from` is null for all data."""

    from_: UtcDatetime | None = Field(serialization_alias="from")
    to: UtcDatetime

    @classmethod
    def of(cls, question: Question) -> Self:
        """The interval of a question."""
        return cls(from_=question.interval_from, to=question.interval_to)


class EstimateAnswer(BaseModel):
    """How much the next run of a job would export.

    Rows of an interval that lies ahead are not there yet: then `measured` is the newest one of the same length, else
    it equals `interval`. `bytes` is the content before compression; `method` says how the numbers were found.
    """

    slot_at: UtcDatetime
    interval: IntervalAnswer
    measured: IntervalAnswer
    rows: int
    bytes: int
    parts: int
    method: str

    @classmethod
    def of(cls, estimate: Estimate) -> Self:
        """The answer for an estimate."""
        size = estimate.size
        return cls(
            slot_at=estimate.slot_at, interval=IntervalAnswer.of(estimate.question),
            measured=IntervalAnswer.of(estimate.measured),
            rows=size.rows, bytes=size.bytes, parts=size.parts, method=size.method,
        )  # fmt: skip


def _refused(error: domain.SettingsRefused) -> Problem:
    errors = [{"pointer": f.pointer, "message": f.message, "remedy": f.remedy} for f in error.faults]
    return Problem(422, "invalid", str(error), errors=errors)


def _away(error: Exception) -> Problem:
    log.warning("source not read", error=str(error))
    return Problem(503, "unavailable", "The source does not answer at the moment; try again later.")


PROBLEMS: Mapping[type[Exception], Callable[[Any], Problem]] = {
    domain.SettingsRefused: _refused,
    SourceUnavailable: _away,
    SourceRefused: _away,
    SourcesInvalid: _away,
}
"""What goes wrong with a question as the answer a caller gets; what the source says stays in the log."""


def router(store: Store, objects: ObjectStore, key: SigningKey, catalogue: Catalogue) -> APIRouter:
    """The routes of exporter."""
    api = APIRouter(prefix="/api/v1")
    api.include_router(_files(store, objects, key))
    api.include_router(_sources(catalogue))
    return api


def _sources(catalogue: Catalogue) -> APIRouter:
    api = APIRouter(tags=["sources"])
    estimator = Estimator(catalogue)

    @api.get("/sources")
    async def list_sources(caller: Reader) -> SourcesAnswer:
        """What the caller's tenant may export, with the fields as the sources have them now."""
        return SourcesAnswer(items=[SourceAnswer.of(source) for source in await catalogue.listed(caller.tenant)])

    @api.post("/estimates")
    async def estimate_job(settings: JobSettings, caller: Reader) -> EstimateAnswer:
        """The next slot of a job with these settings, and how much its run would export; nothing is stored."""
        return EstimateAnswer.of(await estimator.estimate(settings, caller.tenant, datetime.now(UTC)))

    return api


def _files(store: Store, objects: ObjectStore, key: SigningKey) -> APIRouter:
    api = APIRouter(prefix="/files", tags=["files"])

    @api.get("/signing-keys")
    async def list_signing_keys(_: Reader) -> SigningKeysAnswer:
        """The keys to verify manifests with."""
        return SigningKeysAnswer(items=[SigningKeyAnswer(key_id=key.key_id, algorithm="Ed25519", pem=key.public_pem)])

    @api.get("/{artifact_id}", response_class=StreamingResponse)
    async def download_file(artifact_id: UUID, caller: Operator) -> Response:
        """The bytes of a part or of a manifest; every download is an event."""
        download = await store.start_download(caller.tenant, artifact_id, caller.subject)
        if download is None:
            raise not_found("file")
        if not download.available:
            raise Problem(410, "artifact-expired", "The file was deleted when its retention ended.")
        headers = {
            "Content-Disposition": f'attachment; filename="{download.file_name}"',
            "Content-Length": str(download.size_bytes),
            "ETag": f'"{download.sha256}"',
        }
        if download.body is not None:
            return Response(download.body, media_type="application/json", headers=headers)
        chunks = await asyncio.to_thread(objects.read, str(download.object_key))
        return StreamingResponse(chunks, media_type="application/octet-stream", headers=headers)

    return api
