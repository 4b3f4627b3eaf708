"""Responses without an end: what a reader is offered, as Server-Sent Events, until one side has enough."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from shared.runtime import break_off

CHUNK_BYTES: Final = 16 * 1024
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


class Queue:
    """The frames that wait for one connection, and when it ends; the frames themselves are shared by all."""

    def __init__(self, most: int, until: datetime) -> None:
        """At most `most` frames wait; at `until` the response ends."""
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        """Done when the response has to end, whatever the connection is at."""
        self._most = most
        self._frames: deque[bytes] = deque()
        self._offered = asyncio.Event()
        self._expiry = loop.call_later(max(0.0, (until - datetime.now(UTC)).total_seconds()), self.end)

    def end(self) -> None:
        """Let the response end."""
        if not self.ended.done():
            self.ended.set_result(None)

    def clear(self) -> None:
        """Keep nothing any more."""
        self._expiry.cancel()
        self._frames.clear()

    def put(self, frame: bytes) -> bool:
        """Let a frame wait; False when too many do already."""
        if len(self._frames) >= self._most:
            return False
        self._frames.append(frame)
        self._offered.set()
        return True

    async def filled(self, within: timedelta) -> bool:
        """Wait until something does; False when nothing came."""
        try:
            async with asyncio.timeout(within.total_seconds()):
                return await self._offered.wait()
        except TimeoutError:
            # Offered in the very moment, it counts.
            return bool(self._frames)

    def take(self) -> bytes:
        """Some of what waits."""
        frames: list[bytes] = []
        size = 0
        while self._frames and size < CHUNK_BYTES:
            frames.append(self._frames.popleft())
            size += len(frames[-1])
        if not self._frames:
            self._offered.clear()
        return frames[0] if len(frames) == 1 else b"".join(frames)


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
