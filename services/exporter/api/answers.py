"""What exporter answers in JSON."""

from datetime import timedelta
from typing import Self

from pydantic import BaseModel, Field

from services.exporter.pipeline import Estimate
from services.exporter.pipeline.catalogue import ListedSource, ListedType
from shared.clock import UtcDatetime
from shared.events import Question


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
