"""Executions: lists of them, and one with all that belongs to it."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import WithJsonSchema

from services.history.api.answers import EventAnswer, EventsAnswer, ExecutionAnswer, ExecutionDetails, ExecutionsAnswer
from services.history.api.parameters import between, next_place, place
from services.history.domain.listing import EXECUTION_COLUMNS, ExecutionFilter, Order, orders
from services.history.store import Store
from shared.events import RunState, Trigger
from shared.http import Reader, cursor, not_found, read_cursor
from shared.jobs import Moment, Slug
from shared.listing import After, Label, Limit, SearchText, labelled, one_of
from shared.openapi import problems

_ORDERS = orders(EXECUTION_COLUMNS)
SortText = Annotated[str, one_of(_ORDERS), WithJsonSchema({"type": "string", "enum": list(_ORDERS)})]


def router(store: Store) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/executions", tags=["executions"])

    @api.get("")
    async def list_executions(
        caller: Reader,
        job_id: UUID | None = None,
        source: Slug | None = None,
        type: Slug | None = None,
        state: Annotated[list[RunState], Query(max_length=len(RunState), description="Several: one of them.")] = [],  # noqa: B006 - FastAPI copies it
        trigger: Trigger | None = None,
        label: Annotated[
            list[Label], Query(max_length=20, description="`name:value`, as the job had it; several must all be there.")
        ] = [],  # noqa: B006
        text: Annotated[SearchText | None, Query(description="In the title, whatever its case.")] = None,
        requested_from: Moment | None = None,
        requested_to: Moment | None = None,
        started_from: Moment | None = None,
        started_to: Moment | None = None,
        finished_from: Moment | None = None,
        finished_to: Moment | None = None,
        data_from: Annotated[Moment | None, Query(description="With data of this moment or later.")] = None,
        data_to: Annotated[Moment | None, Query(description="With data from before this moment.")] = None,
        sort: Annotated[
            SortText,
            Query(description="A column; `-` before it turns the order round. What has no value yet comes last then."),
        ] = "-requested_at",
        total: Annotated[
            bool,
            Query(
                description="Say how many there are; of more than 10,000, or where counting takes long, by an estimate."
            ),
        ] = False,
        limit: Limit = 50,
        after: After = None,
    ) -> ExecutionsAnswer:
        """Executions with all that a list of them shows."""
        order = Order.read(sort)
        only = ExecutionFilter(
            job_id, source, type, state, trigger, text, labelled(label),
            requested=between("requested", requested_from, requested_to),
            started=between("started", started_from, started_to),
            finished=between("finished", finished_from, finished_to),
            touching=between("data", data_from, data_to),
        )  # fmt: skip
        begin = place(order, EXECUTION_COLUMNS[order.column], after)
        rows = await store.list_executions(caller.tenant, order, only, limit + 1, begin)
        answer = ExecutionsAnswer(
            items=[ExecutionAnswer.of(row) for row, _ in rows[:limit]],
            next=next_place(order, [where for _, where in rows], limit),
        )
        if total:
            answer.total, answer.total_is_estimate = await store.count_executions(caller.tenant, only)
        return answer

    @api.get("/{run_id}", responses=problems(404))
    async def read_execution(run_id: UUID, caller: Reader) -> ExecutionDetails:
        """One execution with the settings its job had, its attempts and its files."""
        found = await store.execution(caller.tenant, run_id)
        if found is None:
            raise not_found("execution")
        return ExecutionDetails.whole(found.execution, found.settings, found.events, found.artifacts)

    @api.get("/{run_id}/events", responses=problems(404))
    async def list_events(run_id: UUID, caller: Reader, limit: Limit = 50, after: After = None) -> EventsAnswer:
        """What happened to a run, oldest first, as it was told."""
        rows = await store.timeline(caller.tenant, run_id, limit + 1, read_cursor(after))
        if rows is None:
            raise not_found("execution")
        page = rows[:limit]
        more = cursor(page[-1]["occurred_at"], page[-1]["event_id"]) if len(rows) > limit else None
        return EventsAnswer(items=[EventAnswer.model_validate(dict(row)) for row in page], next=more)

    return api
