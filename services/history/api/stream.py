"""Events as they happen: Server-Sent Events."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query

from services.history.feed import Feed, Full
from shared import http
from shared.http import Problem
from shared.streaming import EventStream

MAX_POSITION = 2**63 - 1

Position = Annotated[int | None, Query(ge=0, le=MAX_POSITION)]


def router(feed: Feed) -> APIRouter:
    """The route of the stream."""
    api = APIRouter()

    @api.get("/stream", tags=["stream"], status_code=200, response_class=EventStream, responses=_DESCRIBED)
    async def stream(
        caller: http.Reader,
        job_id: UUID | None = None,
        run_id: UUID | None = None,
        last_event_id: Position = None,
        last_event_id_header: Annotated[int | None, Header(alias="Last-Event-ID", ge=0, le=MAX_POSITION)] = None,
    ) -> EventStream:
        """Events as they happen, of everything or of one job or run, each under its name with its JSON as data.

        A reader that comes back with `Last-Event-ID` gets what it missed first; browsers send it by themselves, and
        `last_event_id` is for those that can't set headers. Progress comes as `RunProgressed`, without an id. A reader
        that is too slow is disconnected, and so is one whose token has expired.
        """
        # A browser that reconnects repeats the query and adds the header, so the header is the newer one.
        after = last_event_id if last_event_id_header is None else last_event_id_header
        try:
            reader = await feed.open(caller.tenant, (job_id, run_id), after, caller.expires_at)
        except Full as error:
            raise Problem(
                503,
                "unavailable",
                "No more readers are taken at the moment; try again later.",
                headers={"Retry-After": "5"},
            ) from error
        return EventStream(reader)

    return api


_DESCRIBED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The stream.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
}
