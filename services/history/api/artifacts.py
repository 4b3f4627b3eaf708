"""Artifacts: lists of them, and the feed of those that arrived."""

import re
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import WithJsonSchema

from services.history.api.answers import ArtifactAnswer, ArtifactsAnswer
from services.history.api.parameters import between, next_place, not_a_cursor, place
from services.history.domain.listing import ARTIFACT_COLUMNS, ArtifactFilter, Order, orders
from services.history.store import Store
from shared.http import Reader, invalid, position, read_position
from shared.jobs import Moment, Slug
from shared.listing import After, Limit, SearchText, one_of

_ORDERS = orders(ARTIFACT_COLUMNS)
SortText = Annotated[str, one_of(_ORDERS), WithJsonSchema({"type": "string", "enum": list(_ORDERS)})]
_ARRIVAL = "arrival"
_OF_THE_FEED = frozenset({"order", "after", "limit"})
_NOBODY = UUID(int=0)


def router(store: Store) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/artifacts", tags=["artifacts"])

    @api.get("")
    async def list_artifacts(
        caller: Reader,
        request: Request,
        job_id: UUID | None = None,
        run_id: UUID | None = None,
        source: Slug | None = None,
        type: Slug | None = None,
        text: Annotated[SearchText | None, Query(description="In the title, whatever its case.")] = None,
        available: Annotated[bool | None, Query(description="Whether it can still be downloaded.")] = None,
        stored_from: Moment | None = None,
        stored_to: Moment | None = None,
        sort: Annotated[SortText, Query(description="A column; `-` before it turns the order round.")] = "-stored_at",
        order: Annotated[
            Literal["arrival"] | None,
            Query(
                description="All artifacts, what arrived first first. `next` is always there: kept and given as `after`"
                " next time, it brings what has arrived since, each once; `items` are empty when nothing has."
            ),
        ] = None,
        limit: Limit = 50,
        after: After = None,
    ) -> ArtifactsAnswer:
        """Artifacts, also those whose bytes are gone."""
        if order == _ARRIVAL:
            return await _arrived(request, caller.tenant, limit, after)
        sorted_by = Order.read(sort)
        only = ArtifactFilter(job_id, run_id, source, type, text, available, between("stored", stored_from, stored_to))
        begin = place(sorted_by, ARTIFACT_COLUMNS[sorted_by.column], after)
        rows = await store.list_artifacts(caller.tenant, sorted_by, only, limit + 1, begin)
        return ArtifactsAnswer(
            items=[ArtifactAnswer.model_validate(dict(row)) for row, _ in rows[:limit]],
            next=next_place(sorted_by, [where for _, where in rows], limit),
        )

    async def _arrived(request: Request, tenant: str, limit: int, after: str | None) -> ArtifactsAnswer:
        for name in request.query_params:
            if name not in _OF_THE_FEED:
                raise invalid(f"/query/{name}", "does not go with order=arrival", "Leave one of the two out.")
        found = await store.artifacts_after(tenant, _position(after), limit)
        if found is None:
            raise invalid(
                "/query/after", "lies ahead of everything: history began anew since then",
                "Begin without it, and leave out the artifacts that are there already.",
            )  # fmt: skip
        rows, arrived = found
        return ArtifactsAnswer(
            items=[ArtifactAnswer.model_validate(dict(row)) for row in rows],
            next=position(_ARRIVAL, str(arrived), _NOBODY),
        )

    return api


def _position(after: str | None) -> int:
    read = read_position(after, _ARRIVAL)
    if read is None:
        return 0
    if not re.fullmatch(r"[0-9]{1,19}", read[0]) or int(read[0]) >= 2**63:
        raise not_a_cursor()
    return int(read[0])
