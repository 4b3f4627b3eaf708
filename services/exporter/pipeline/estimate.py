"""How much a job would export, without exporting it."""

from dataclasses import dataclass, replace
from datetime import datetime
from math import ceil
from typing import Final

from isal import isal_zlib

from services.exporter import domain
from services.exporter.pipeline.archive import DEFAULT_SPLIT_BYTES, LEVEL, MAX_SPLIT_BYTES
from services.exporter.pipeline.catalogue import ANSWERS_WITHIN, Catalogue
from services.exporter.pipeline.content import Content
from services.exporter.pipeline.errors import SourceTooSlow
from services.exporter.pipeline.extract import Extraction, Query
from shared.events import Question
from shared.jobs import JobSettings

SAMPLE_ROWS: Final = 200
_HASH_KEY: Final = b"any: a hash has the same length under every key"
_UNKNOWN_WIDTH: Final = 16
"""Bytes of a value of which nothing is known."""
_SHRINKS_TO: Final = 1 / 3
"""What compression makes of text that was not sampled; `archive` has the measurement."""


@dataclass(frozen=True, slots=True)
class Size:
    """Estimated rows, bytes of content and parts; `method` says in words how they were found."""

    rows: int
    bytes: int
    parts: int
    method: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """The next slot of a job, its question, and the size of the answer to `measured`, which is that or one before."""

    slot_at: datetime
    question: Question
    measured: Question
    size: Size


class Estimator:
    """Answers what a job would export."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def estimate(self, settings: JobSettings, tenant: str, now: datetime) -> Estimate:
        """The size of the next run of a job of `tenant` that is submitted at `now`.

        Raises domain.SettingsRefused; SourceUnavailable, SourceRefused, SourcesInvalid.
        """
        source, data_type = domain.asked_type(settings, self._catalogue.sources.visible_to(tenant))
        columns = await self._catalogue.columns(settings.source, settings.type)
        domain.check_fields(settings, {column.name for column in columns})
        slot_at, question = domain.next_question(settings, now, source.settle)
        measured = domain.measurable(question, now - source.settle)
        query = Query.answering(measured, tenant, source, data_type)
        content = Content(question.format, question.masking or {}, _HASH_KEY, question.csv_profile)
        size = await self._catalogue.in_thread(lambda: measure(query, content, question.split_bytes))
        return Estimate(slot_at, question, measured, size)


def measure(query: Query, content: Content, split_bytes: int | None) -> Size:
    """The size of an answer, attachments apart; blocks for at most a few times `ANSWERS_WITHIN`.

    Raises PipelineError's children.
    """
    hasty = replace(query, attachments=False, statement_timeout=ANSWERS_WITHIN, connect_timeout=ANSWERS_WITHIN)
    with Extraction(hasty, content) as source:
        entity = source.entities[0]
        rows, fields = source.planned(entity), entity.fields
        names = sum(len(name) + 6 for name in fields) if content.format == "jsonl" else len(fields)
        try:
            sample = source.sample(entity, SAMPLE_ROWS)
        except SourceTooSlow:
            width = source.width(entity) or _UNKNOWN_WIDTH * len(fields)
            return _size(
                rows, (width + names) * rows, _SHRINKS_TO, split_bytes,
                "rows: the source's planner; bytes: its statistics, since a sample took too long",
            )  # fmt: skip
    plain = b"".join(sample)
    if len(sample) < SAMPLE_ROWS:
        return _size(len(sample), len(plain), 1, split_bytes, "counted: the source has no more rows")
    rows = max(rows, SAMPLE_ROWS)
    shrinks_to = len(isal_zlib.compress(plain, LEVEL)) / len(plain)
    method = f"rows: the source's planner; bytes: a sample of {SAMPLE_ROWS} rows"
    return _size(rows, round(rows * len(plain) / SAMPLE_ROWS), shrinks_to, split_bytes, method)


def _size(rows: int, plain_bytes: int, shrinks_to: float, split_bytes: int | None, method: str) -> Size:
    limit = min(DEFAULT_SPLIT_BYTES if split_bytes is None else split_bytes, MAX_SPLIT_BYTES)
    return Size(rows, plain_bytes, max(1, ceil(plain_bytes * shrinks_to / limit)), method)
