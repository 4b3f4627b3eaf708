"""Responses without an end: what a reader is offered, as Server-Sent Events, until one side has enough."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Protocol

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from shared.runtime import break_off

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Offered(Protocol):
    """What is sent to one connection."""

    ended: asyncio.Future[None]
    """Done when the response has to end, whatever the connection is at."""

    def chunks(self) -> AsyncGenerator[bytes]:
        """The body."""
        ...

    def close(self) -> None:
        """Offer nothing any more."""
        ...


class EventStream(StreamingResponse):
    """Sends what a reader is offered until it leaves, is ended or its connection takes no more."""

    media_type = "text/event-stream"

    def __init__(self, reader: Offered) -> None:
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
