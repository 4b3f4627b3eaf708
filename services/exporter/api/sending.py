"""How the bytes of an object reach a client: a thread per piece, and one piece of them in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Final, TypeVar

from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from services.exporter.pipeline import ObjectStore, StoreFailed
from shared.observability import log

T = TypeVar("T")

_SLICE_BYTES: Final = 256 * 1024
"""What is given to the server at once: it copies what the client does not take at once."""
_THREADS: Final = 4
"""Pieces read at once, in threads of their own: neither downloads nor anything else shall wait for the other."""
STALL: Final = timedelta(minutes=1)
"""A client that takes less than a slice in this time (4 KiB/s) is let go, so that it does not keep others out; with
`Range` it can go on where it was."""


class Reading:
    """Reads objects beside the event loop."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="download")

    async def begin(self, key: str, span: range) -> AsyncIterator[bytes]:
        """The bytes of the object in `span`; the first piece has been read. Raises FileNotFoundError, StoreFailed."""
        pieces = await self._beside(lambda: self._objects.read(key, span.start, span.stop))
        first = await self._beside(lambda: next(pieces, b""))
        return self._slices(first, pieces)

    async def _slices(self, piece: bytes, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        while piece:
            for start in range(0, len(piece), _SLICE_BYTES):
                yield piece[start : start + _SLICE_BYTES]
            piece = b""  # not two of them at once
            piece = await self._beside(lambda: next(pieces, b""))

    async def _beside(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


class Sending(StreamingResponse):
    """Sends slices; when they break off, so does the connection, before the announced length is reached."""

    def __init__(self, slices: AsyncIterator[bytes], status: int, headers: Mapping[str, str], held: ExitStack) -> None:
        super().__init__(slices, status, headers)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry; whatever is held for the answer is let go at its end."""
        with self._held:
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """Send all of it, or return early: the server then closes the connection."""

        async def in_time(message: Message) -> None:
            async with asyncio.timeout(STALL.total_seconds()):
                await send(message)

        try:
            await super().stream_response(in_time)
        except TimeoutError:
            log.warning("download let go: the client does not read")
        except (StoreFailed, FileNotFoundError) as error:
            log.warning("download broke off", error=str(error))
