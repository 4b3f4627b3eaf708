"""The HTTP edge of history: queries."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel

from services.history.store import Store
from shared.clock import UtcDatetime
from shared.events import Progress, Question, RunState, Trigger
from shared.http import Reader, cursor, not_found, read_cursor

Limit = Annotated[int, Query(ge=1, le=200)]


class ExecutionAnswer(BaseModel):
    """A run as history saw it."""

    run_id: UUID
    job_id: UUID
    title: str | None
    source: str | None
    type: str | None
    trigger: Trigger | None
    slot_key: str | None
    slot_at: UtcDatetime | None
    question: Question | None
    requested_at: UtcDatetime | None
    state: RunState
    attempt: int
    worker: str | None
    started_at: UtcDatetime | None
    finished_at: UtcDatetime | None
    rows: int | None
    bytes: int | None
    parts: int | None
    snapshot: str | None
    manifest_id: UUID | None
    manifest_sha256: str | None
    schema_id: UUID | None
    reason: str | None
    message: str | None
    progress: Progress | None


class ArtifactAnswer(BaseModel):
    """A stored file; download it from `/api/v1/files/{artifact_id}`."""

    artifact_id: UUID
    run_id: UUID
    job_id: UUID
    title: str | None
    source: str | None
    type: str | None
    number: int
    entity: str | None
    file_name: str
    size_bytes: int
    rows: int
    sha256: str
    stored_at: UtcDatetime
    expires_at: UtcDatetime
    remaining_days: int
    deleted_at: UtcDatetime | None
    deletion_reason: str | None


class ExecutionDetails(ExecutionAnswer):
    """A run with its files."""

    artifacts: list[ArtifactAnswer]


class ExecutionsAnswer(BaseModel):
    """A page of executions; `next` is the `after` of the following page."""

    items: list[ExecutionAnswer]
    next: str | None


class ArtifactsAnswer(BaseModel):
    """A page of artifacts; `next` is the `after` of the following page."""

    items: list[ArtifactAnswer]
    next: str | None


def router(store: Store) -> APIRouter:
    """The routes under `/api/v1`."""
    api = APIRouter(prefix="/api/v1")

    @api.get("/executions", tags=["executions"])
    async def list_executions(
        caller: Reader, job_id: UUID | None = None, state: RunState | None = None,
        limit: Limit = 50, after: str | None = None,
    ) -> ExecutionsAnswer:  # fmt: skip
        """Executions, newest first."""
        rows = await store.list_executions(caller.tenant, limit + 1, read_cursor(after), job_id, state)
        items = [ExecutionAnswer.model_validate(dict(row)) for row in rows[:limit]]
        return ExecutionsAnswer(items=items, next=_next(rows, limit, "requested_at", "run_id"))

    @api.get("/executions/{run_id}", tags=["executions"])
    async def read_execution(run_id: UUID, caller: Reader) -> ExecutionDetails:
        """One execution with its artifacts."""
        found = await store.execution(caller.tenant, run_id)
        if found is None:
            raise not_found("execution")
        row, artifacts = found
        return ExecutionDetails.model_validate({**row, "artifacts": [dict(artifact) for artifact in artifacts]})

    @api.get("/artifacts", tags=["artifacts"])
    async def list_artifacts(
        caller: Reader, run_id: UUID | None = None, limit: Limit = 50, after: str | None = None
    ) -> ArtifactsAnswer:
        """Artifacts, newest first."""
        rows = await store.list_artifacts(caller.tenant, limit + 1, read_cursor(after), run_id)
        items = [ArtifactAnswer.model_validate(dict(row)) for row in rows[:limit]]
        return ArtifactsAnswer(items=items, next=_next(rows, limit, "stored_at", "artifact_id"))

    return api


def _next(rows: list[Any], limit: int, moment: str, key: str) -> str | None:
    return cursor(rows[limit - 1][moment], rows[limit - 1][key]) if len(rows) > limit else None
