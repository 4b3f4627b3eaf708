"""Events as they happen: Server-Sent Events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from services.history.feed import Feed, Full, Reader
from shared import http
from shared.http import Problem
from shared.runtime import break_off

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
MAX_POSITION = 2**63 - 1

Position = Annotated[int | None, Query(ge=0, le=MAX_POSITION)]


class EventStream(StreamingResponse):
    """Sends what a reader is offered until it leaves, is ended or its connection takes no more."""

    media_type = "text/event-stream"

    def __init__(self, reader: Reader) -> None:
        super().__init__(_nothing(), headers=HEADERS)
        self._reader = reader
        self._stuck = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sending, leaving, self._reader.ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._reader.close()
            for task in (sending, leaving):
                task.cancel()
            failed, _ = await asyncio.gather(sending, leaving, return_exceptions=True)
        if isinstance(failed, Exception):
            raise failed
        if not self._stuck:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        # Closed in an orderly way, the connection would stay until somebody takes what is in its buffer.
        elif break_off(scope):
            await _left(receive)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._reader.chunks()) as chunks:
            async for chunk in chunks:
                self._stuck = True
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                self._stuck = False


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield


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
