"""A way to the stack on which answers get lost, streams break, and somebody else is faster."""

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse


@dataclass
class Relay:
    """Passes everything on; tests say what goes wrong, and look at `requests`."""

    target: str
    lost: list[str] = field(default_factory=list)
    """Methods, the next request of which is carried out and not answered."""
    before: dict[str, Callable[[], object]] = field(default_factory=dict)
    """What happens once before the next request of a method is passed on."""
    away_after: int | None = None
    """After how many submitted jobs nothing is passed on any more."""
    no_stream: bool = False
    break_after: list[int] = field(default_factory=list)
    """After how many pieces the next streams break off."""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers of every request."""
    streaming: int = 0
    """How many streams were opened by those that they come from."""
    url: str = ""

    def sent(self, method: str, ending: str = "") -> list[dict[str, str]]:
        """Headers of the requests of a method."""
        return [headers for sent, path, headers in self.requests if sent == method and path.endswith(ending)]

    def app(self) -> FastAPI:
        client = httpx.AsyncClient(base_url=self.target, timeout=60)

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            async with client:
                yield

        app = FastAPI(lifespan=lifespan)

        @app.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
        async def forward(path: str, request: Request) -> Any:
            self.requests.append((request.method, request.url.path, dict(request.headers)))
            if self.away_after is not None and len(self.sent("POST", "/jobs")) > self.away_after:
                return Response("{}", 503)
            streams = path.endswith("/stream")
            if streams and self.no_stream:
                return Response("{}", 404)
            if action := self.before.pop(request.method, None):
                action()
            headers = {name: value for name, value in request.headers.items() if name != "host"}
            url = httpx.URL(f"{self.target}/{path}", query=request.url.query.encode())
            asked = client.build_request(request.method, url, headers=headers, content=await request.body())
            answer = await client.send(asked, stream=True)
            if self.lost and self.lost[0] == request.method:
                self.lost.pop(0)
                await answer.aread()
                return StreamingResponse(_broken(), 200, {"Content-Length": "1000"})
            self.streaming += streams
            pieces = self.break_after.pop(0) if streams and self.break_after else None
            return StreamingResponse(
                _pieces(answer, pieces), answer.status_code,
                {name: value for name, value in answer.headers.items() if name != "transfer-encoding"},
            )  # fmt: skip

        return app


async def _broken() -> AsyncIterator[bytes]:
    yield b"{"


async def _pieces(answer: httpx.Response, most: int | None) -> AsyncIterator[bytes]:
    try:
        number = 0
        async for piece in answer.aiter_raw():
            yield piece
            number += 1
            if number == most:
                return
    finally:
        await answer.aclose()


@contextmanager
def relayed(target: str) -> Iterator[Relay]:
    """The relay on a free port, in a thread of its own."""
    relay = Relay(target)
    server = uvicorn.Server(uvicorn.Config(relay.app(), port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    relay.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield relay
    finally:
        server.should_exit = True
        thread.join()
