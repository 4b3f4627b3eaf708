"""Jobs: submit, list, read, edit, delete, suspend, resume."""

from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

from fastapi import APIRouter, Body, Query, Response
from fastapi.openapi.models import Example
from pydantic import WithJsonSchema

from services.job_api.api.answers import (
    EXAMPLES,
    JobAnswer,
    JobsAnswer,
    LatestStatus,
    MissedAnswer,
    ResumeBody,
)
from services.job_api.domain import jobs
from services.job_api.domain.jobs import Decision, Facts
from services.job_api.domain.listing import ORDERS, Filter, Order, Place
from services.job_api.domain.missed import missed_slots
from services.job_api.domain.runs import RunStatus
from services.job_api.domain.settings import merged
from services.job_api.store import JobRow, Store
from shared.events import JobState
from shared.http import Administrator, Operator, Reader, invalid, position, read_position
from shared.jobs import JobSettings, Slug
from shared.listing import After, Label, Limit, SearchText, labelled, one_of
from shared.openapi import headed, problems
from shared.preconditions import IdempotencyKey, IfMatch, OptionalIfMatch, etag
from shared.sources import Sources

SortText = Annotated[str, one_of(ORDERS), WithJsonSchema({"type": "string", "enum": list(ORDERS)})]
ListedState = Literal["active", "suspended"]
_EXAMPLES: dict[str, Example] = {name: {"value": written} for name, written in EXAMPLES.items()}
Submitted = Annotated[JobSettings, Body(openapi_examples=_EXAMPLES)]
_PATCH = {"schema": {"type": "object"}, "examples": {"another title": {"value": {"title": "A better title"}}}}


def router(store: Store, sources: Sources) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/jobs", tags=["jobs"])

    @api.post("", status_code=201, responses={**headed(201, location=True), **problems(404, 409)})
    async def submit_job(
        settings: Submitted, caller: Administrator, once: IdempotencyKey, response: Response
    ) -> JobAnswer:  # fmt: skip
        """Submit a job; it follows its schedule at once."""
        job_id, visible = uuid4(), sources.visible_to(caller.tenant)
        row = await store.create_job(
            caller.tenant, job_id,
            lambda now, certificates: jobs.new_job(
                settings, job_id=job_id, created_by=caller.subject, now=now, sources=visible, certificates=certificates
            ),
            once,
        )  # fmt: skip
        response.headers["Location"] = f"/api/v1/jobs/{row.job.id}"
        return _answer(row, response)

    @api.get("")
    async def list_jobs(
        caller: Reader,
        source: Slug | None = None,
        type: Slug | None = None,
        state: ListedState | None = None,
        status: Annotated[LatestStatus | None, Query(description="State of the latest run.")] = None,
        text: Annotated[SearchText | None, Query(description="In title or description, whatever its case.")] = None,
        label: Annotated[
            list[Label], Query(max_length=20, description="`name:value`; several must all be there.")
        ] = [],  # noqa: B006 - FastAPI copies it
        sort: Annotated[SortText, Query(description="A column; `-` before it turns the order round.")] = "-created_at",
        limit: Limit = 50,
        after: After = None,
    ) -> JobsAnswer:
        """Jobs with all that a list of them shows."""
        order, labels = Order.read(sort), labelled(label)
        latest = None if status is None else RunStatus(status)
        only = Filter(source, type, None if state is None else JobState(state), latest, text, labels)
        rows = await store.list_jobs(caller.tenant, order, only, limit + 1, _place(order, after))
        items = [JobAnswer.of(row) for row, _ in rows[:limit]]
        return JobsAnswer(items=items, next=_next(order, [place for _, place in rows], limit))

    @api.get("/{job_id:uuid}", responses={**headed(200), **problems(404)})
    async def read_job(job_id: UUID, caller: Reader, response: Response) -> JobAnswer:
        """One job."""
        return _answer(await store.job(caller.tenant, job_id), response)

    @api.put("/{job_id:uuid}", responses={**headed(200), **problems(404, 409)})
    async def replace_job(
        job_id: UUID, settings: Submitted, caller: Administrator, expected: IfMatch, response: Response
    ) -> JobAnswer:
        """Replace the settings of a recurring job; its schedule counts from now then."""

        def decide(facts: Facts) -> Decision | None:
            visible = sources.visible_to(caller.tenant)
            return jobs.edit(facts, settings, actor=caller.subject, expected=expected, sources=visible)

        return _answer(await store.change_job(caller.tenant, job_id, decide), response)

    @api.patch(
        "/{job_id:uuid}",
        responses={**headed(200), **problems(404, 409)},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/merge-patch+json": _PATCH, "application/json": _PATCH},
            }
        },
    )
    async def change_job(
        job_id: UUID, patch: Annotated[dict[str, Any], Body()], caller: Administrator, expected: IfMatch,
        response: Response,
    ) -> JobAnswer:  # fmt: skip
        """Change settings of a recurring job by a JSON merge patch (RFC 7396); null takes a setting out."""

        def decide(facts: Facts) -> Decision | None:
            visible = sources.visible_to(caller.tenant)
            return jobs.edit(
                facts, lambda settings: merged(settings, patch), actor=caller.subject, expected=expected,
                sources=visible,
            )  # fmt: skip

        return _answer(await store.change_job(caller.tenant, job_id, decide), response)

    @api.delete("/{job_id:uuid}", status_code=204, responses=problems(404, 409))
    async def delete_job(job_id: UUID, caller: Administrator, expected: IfMatch) -> None:
        """Delete a job that is not in progress; its history and artifacts stay until they expire."""
        await store.change_job(
            caller.tenant, job_id, lambda facts: jobs.delete(facts, actor=caller.subject, expected=expected)
        )

    @api.post("/{job_id:uuid}/suspend", responses={**headed(200), **problems(404)})
    async def suspend_job(
        job_id: UUID, caller: Operator, expected: OptionalIfMatch, once: IdempotencyKey, response: Response
    ) -> JobAnswer:
        """Stop following the schedule; runs in progress go on."""
        row = await store.change_job(
            caller.tenant, job_id, lambda facts: jobs.suspend(facts, actor=caller.subject, expected=expected), once
        )
        return _answer(row, response)

    @api.post("/{job_id:uuid}/resume", responses={**headed(200), **problems(404, 409)})
    async def resume_job(
        job_id: UUID, caller: Operator, expected: OptionalIfMatch, once: IdempotencyKey, response: Response,
        body: ResumeBody = ResumeBody(),  # noqa: B008 - it is frozen
    ) -> JobAnswer | MissedAnswer:  # fmt: skip
        """Follow the schedule again from now on, or with `dry_run` list the slots that were missed."""
        if body.dry_run:
            return await _missed(job_id, body, caller.tenant, expected)
        row = await store.change_job(
            caller.tenant, job_id,
            lambda facts: jobs.resume(facts, body.missed, actor=caller.subject, expected=expected), once,
        )  # fmt: skip
        return _answer(row, response)

    async def _missed(job_id: UUID, body: ResumeBody, tenant: str, expected: frozenset[int] | None) -> MissedAnswer:
        facts, exported_to = await store.facts(tenant, job_id), await store.exported_to(tenant, job_id)
        since = jobs.missed_since(facts, expected)
        settings = facts.job.settings
        settle = sources.settle(settings.source)
        return MissedAnswer.of(missed_slots(settings, body.missed, since, facts.now, settle, exported_to))

    return api


def _answer(row: JobRow, response: Response) -> JobAnswer:
    response.headers["ETag"] = etag(row.job.version)
    return JobAnswer.of(row)


def _next(order: Order, places: list[Place], limit: int) -> str | None:
    if len(places) <= limit:
        return None
    last = places[limit - 1]
    return position(str(order), last.written(), last.job_id)


def _place(order: Order, after: str | None) -> Place | None:
    read = read_position(after, str(order))
    try:
        return None if read is None else Place.read(order, *read)
    except ValueError as error:
        raise invalid("/query/after", "is not a cursor of this list", "Use the `next` of the page before.") from error
