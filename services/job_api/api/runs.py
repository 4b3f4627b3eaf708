"""Commands on runs and backfills."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from services.job_api.api.answers import (
    BackfillAnswer,
    BackfillBody,
    BackfillsAnswer,
    PlannedAnswer,
    RunOrderAnswer,
    SlotAnswer,
)
from services.job_api.domain import commands
from services.job_api.store import Store
from shared import slots
from shared.events import Trigger, new_event_id
from shared.http import Operator, Reader, cursor, read_cursor
from shared.openapi import problems
from shared.preconditions import IdempotencyKey, OptionalIfMatch
from shared.sources import Sources

_ANY_TIME = datetime.min.replace(tzinfo=UTC)


def router(store: Store, sources: Sources) -> APIRouter:
    """The routes."""
    api = APIRouter()

    @api.post("/jobs/{job_id:uuid}/run", status_code=202, responses=problems(404, 409), tags=["runs"])
    async def run_job_now(
        job_id: UUID, caller: Operator, expected: OptionalIfMatch, once: IdempotencyKey
    ) -> RunOrderAnswer:  # fmt: skip
        """Run a job beside its schedule; the run takes its turn under the job's overlap policy."""
        command_id = new_event_id()
        run_id = await store.order_for_job(
            caller.tenant, job_id, _run_id(job_id, Trigger.MANUAL, command_id),
            lambda facts: commands.run_now(facts, command_id, actor=caller.subject, expected=expected), once,
        )  # fmt: skip
        return RunOrderAnswer(run_id=run_id, job_id=job_id)

    @api.post("/runs/{run_id:uuid}/cancel", status_code=202, responses=problems(404, 409), tags=["runs"])
    async def cancel_run(run_id: UUID, caller: Operator, once: IdempotencyKey) -> RunOrderAnswer:
        """End a run in progress, or a slot that waits for its turn."""
        command_id = new_event_id()
        _, job_id = await store.order_for_run(
            caller.tenant, run_id, lambda _: run_id,
            lambda facts, run: commands.cancel(facts, run, command_id, actor=caller.subject), once,
        )  # fmt: skip
        return RunOrderAnswer(run_id=run_id, job_id=job_id)

    @api.post("/runs/{run_id:uuid}/retry", status_code=202, responses=problems(404, 409), tags=["runs"])
    async def retry_run(run_id: UUID, caller: Operator, once: IdempotencyKey) -> RunOrderAnswer:
        """Ask the question of a finished run again, by a new run, which is answered here."""
        command_id = new_event_id()
        new_run_id, job_id = await store.order_for_run(
            caller.tenant, run_id, lambda job_id: _run_id(job_id, Trigger.RETRY, command_id),
            lambda facts, run: commands.retry(facts, run, command_id, actor=caller.subject), once,
        )  # fmt: skip
        return RunOrderAnswer(run_id=new_run_id, job_id=job_id)

    @api.post(
        "/jobs/{job_id:uuid}/backfill",
        status_code=202,
        response_model=BackfillAnswer,
        responses={**problems(404, 409), 200: {"model": PlannedAnswer, "description": "A dry run."}},
        tags=["backfills"],
    )
    async def backfill_job(
        job_id: UUID, body: BackfillBody, caller: Operator, expected: OptionalIfMatch, once: IdempotencyKey
    ) -> BackfillAnswer | Response:  # fmt: skip
        """Export past data intervals, at most 10,000, beside the schedule; or list what that would request."""
        if body.dry_run:
            return _json(await _planned(job_id, body, caller.tenant))
        command_id = new_event_id()
        backfill_id = await store.order_for_job(
            caller.tenant, job_id, command_id,
            lambda facts: commands.backfill(
                facts, body.wanted(), command_id, settle=sources.settle, actor=caller.subject, expected=expected
            ),
            once,
        )  # fmt: skip
        return BackfillAnswer.of(await store.backfill(caller.tenant, job_id, backfill_id))

    async def _planned(job_id: UUID, body: BackfillBody, tenant: str) -> PlannedAnswer:
        facts, answers = await store.facts(tenant, job_id), await store.answers(tenant, job_id)
        found = commands.planned(facts, body.wanted(), sources.settle, answers)
        return PlannedAnswer(slots=[SlotAnswer.of(piece) for piece in found])

    @api.get("/jobs/{job_id:uuid}/backfills", responses=problems(404), tags=["backfills"])
    async def list_backfills(
        job_id: UUID, caller: Reader, limit: Annotated[int, Query(ge=1, le=200)] = 50, after: str | None = None
    ) -> BackfillsAnswer:
        """The backfills of a job, newest first, with their progress."""
        found = await store.backfills(caller.tenant, job_id, limit + 1, read_cursor(after))
        page = found[:limit]
        more = cursor(page[-1].requested_at, page[-1].backfill_id) if len(found) > limit else None
        return BackfillsAnswer(items=[BackfillAnswer.of(backfill) for backfill in page], next=more)

    @api.post(
        "/jobs/{job_id:uuid}/backfills/{backfill_id:uuid}/cancel",
        status_code=202,
        responses=problems(404, 409),
        tags=["backfills"],
    )
    async def cancel_backfill(
        job_id: UUID, backfill_id: UUID, caller: Operator, once: IdempotencyKey
    ) -> BackfillAnswer:  # fmt: skip
        """End a backfill, with its runs in progress."""
        command_id = new_event_id()
        backfill = await store.order_for_backfill(
            caller.tenant, job_id, backfill_id,
            lambda facts, found: commands.cancel_backfill(facts, found, command_id, actor=caller.subject), once,
        )  # fmt: skip
        return BackfillAnswer.of(backfill)

    return api


def _run_id(job_id: UUID, trigger: Trigger, command_id: UUID) -> UUID:
    """The run that a command makes; when it was given is no part of its name."""
    return slots.run_id(job_id, slots.commanded_slot(trigger, command_id, _ANY_TIME).key)


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")
