"""Who did what, for administrators: in pages, or all of it as a file."""

import csv
import io
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import WithJsonSchema

from services.history.api.answers import AuditAnswer, DeedAnswer
from services.history.api.parameters import between
from services.history.domain.listing import AuditFilter
from services.history.store import Store
from shared.events import EVENT_TYPES
from shared.http import Administrator, cursor, read_cursor
from shared.jobs import Moment
from shared.listing import After, Limit, SearchText, one_of

ACTIONS: Final = tuple(sorted(event.__name__ for event in EVENT_TYPES.values() if "actor" in event.model_fields))
"""The events that somebody causes."""
Action = Annotated[str, one_of(ACTIONS), WithJsonSchema({"type": "string", "enum": list(ACTIONS)})]
Deeds = AsyncIterator[list[DeedAnswer]]
_COLUMNS: Final = ("occurred_at", "actor", "action", "job_id", "run_id", "artifact_id", "event_id", "details")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_TYPES: Final = {"jsonl": "application/jsonl", "csv": "text/csv; charset=utf-8"}


def router(store: Store) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/audit", tags=["audit"])

    @api.get(
        "",
        response_model=AuditAnswer,
        responses={200: {"content": {media_type.partition(";")[0]: {} for media_type in _TYPES.values()}}},
    )
    async def list_audit(
        caller: Administrator,
        actor: SearchText | None = None,
        action: Action | None = None,
        job_id: UUID | None = None,
        run_id: UUID | None = None,
        from_: Annotated[Moment | None, Query(alias="from")] = None,
        to: Moment | None = None,
        format: Annotated[
            Literal["jsonl", "csv"] | None, Query(description="All of it as a file instead of a page.")
        ] = None,
        limit: Limit = 50,
        after: After = None,
    ) -> AuditAnswer | Response:
        """What people did, newest first."""
        only = AuditFilter(actor, action, job_id, run_id, between("", from_, to, ends="to"))
        begin = read_cursor(after)
        if format is not None:
            return _file(format, _deeds(caller.tenant, only))
        rows = await store.list_audit(caller.tenant, only, limit + 1, begin)
        page = rows[:limit]
        more = cursor(page[-1]["occurred_at"], page[-1]["event_id"]) if len(rows) > limit else None
        return AuditAnswer(items=[DeedAnswer.of(row) for row in page], next=more)

    async def _deeds(tenant: str, only: AuditFilter) -> AsyncGenerator[list[DeedAnswer]]:
        async for rows in store.whole_audit(tenant, only):
            yield [DeedAnswer.of(row) for row in rows]

    return api


def _file(format: Literal["jsonl", "csv"], deeds: Deeds) -> Response:
    chunks = _lines(deeds) if format == "jsonl" else _table(deeds)
    headers = {"Content-Disposition": f'attachment; filename="audit.{format}"'}
    return StreamingResponse(chunks, headers=headers, media_type=_TYPES[format])


async def _lines(deeds: Deeds) -> AsyncGenerator[bytes]:
    async for some in deeds:
        yield b"".join(deed.model_dump_json().encode() + b"\n" for deed in some)


async def _table(deeds: Deeds) -> AsyncGenerator[bytes]:
    yield _records([_COLUMNS])
    async for some in deeds:
        rows = (deed.model_dump(mode="json") for deed in some)
        yield _records([[_cell(row[column]) for column in _COLUMNS] for row in rows])


def _records(rows: list[Any]) -> bytes:
    """The rows by RFC 4180."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _cell(value: object) -> str:
    """A value as a spreadsheet shows it: what would be taken for a formula gets an apostrophe before it."""
    if value is None:
        return ""
    text = orjson.dumps(value).decode() if isinstance(value, dict) else str(value)
    return "'" + text if text.startswith(_FORMULA) else text
