"""The HTTP edge of console: `/api/v1` forwarded by prefix."""

from collections.abc import Iterable, Mapping
from typing import Final

import httpx
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.background import BackgroundTask
from starlette.types import Send

from shared.http import Problem, not_found
from shared.observability import log
from shared.runtime import break_off_at_stop

HOP_BY_HOP: Final = frozenset(
    {
        *("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
        *("proxy-authenticate", "proxy-authorization", "proxy-connection"),
        *("host", "date"),
    }
)
"""Headers that belong to one connection (RFC 9110, 7.6.1), and the two that our client and server write themselves."""

Headers = list[tuple[bytes, bytes]]


class Passing(StreamingResponse):
    """Passes an answer on; when its service breaks off, so does the connection, and the client sees that."""

    async def stream_response(self, send: Send) -> None:
        """Send what comes; returning early makes the server close the connection."""
        try:
            await super().stream_response(send)
        except httpx.TransportError as error:
            log.warning("answer broke off", error=repr(error))


def router(client: httpx.AsyncClient, owners: Mapping[str, str]) -> APIRouter:
    """Forward every prefix in `owners` to its base URL."""
    api = APIRouter(prefix="/api/v1", include_in_schema=False)

    @api.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
    async def forward(path: str, request: Request) -> Response:
        prefix, *rest = path.split("/")
        # Dot segments would lead out of the prefix, to what a service shows only to its operator.
        if prefix not in owners or {".", ".."} & set(rest):
            raise not_found("resource")
        # Not `client.build_request`: it adds headers of its own, such as the encodings httpx understands.
        outgoing = httpx.Request(
            request.method,
            httpx.URL(owners[prefix] + request.scope["raw_path"].decode(), query=request.scope["query_string"]),
            headers=_end_to_end(request.headers.raw),
            content=request.stream(),
        )
        try:
            answer = await client.send(outgoing, stream=True)
        except httpx.TransportError as error:
            raise Problem(
                503, "unavailable", "The service that answers this is away; try again.", headers={"Retry-After": "5"}
            ) from error
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            break_off_at_stop(request.scope)
        response = Passing(answer.aiter_raw(), answer.status_code, background=BackgroundTask(answer.aclose))
        response.raw_headers = _end_to_end(answer.headers.raw)
        return response

    return api


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers to pass on, each as often as it came; `Connection` may name more that belong to the connection."""
    found = [(name.lower(), value) for name, value in headers]
    named = {option.strip().lower() for name, value in found if name == b"connection" for option in value.split(b",")}
    return [(name, value) for name, value in found if name.decode("latin-1") not in HOP_BY_HOP and name not in named]
