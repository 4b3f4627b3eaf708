"""The HTTP edge of console: `/api/v1` forwarded by prefix."""

from collections.abc import Mapping
from typing import Final

import httpx
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.background import BackgroundTask

from shared.http import Problem, not_found

HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host"})
"""Headers that belong to one connection and are not forwarded (RFC 9110, 7.6.1)."""


def router(client: httpx.AsyncClient, owners: Mapping[str, str]) -> APIRouter:
    """Forward every prefix in `owners` to its base URL."""
    api = APIRouter(prefix="/api/v1", include_in_schema=False)

    @api.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def forward(path: str, request: Request) -> Response:
        base = owners.get(path.partition("/")[0])
        if base is None:
            raise not_found("resource")
        outgoing = client.build_request(
            request.method,
            httpx.URL(base + request.url.path, query=request.url.query.encode()),
            headers=[(name, value) for name, value in request.headers.items() if name not in HOP_BY_HOP],
            content=request.stream(),
        )
        try:
            answer = await client.send(outgoing, stream=True)
        except httpx.TransportError as error:
            raise Problem(
                503, "unavailable", "The service that answers this is away; try again.", headers={"Retry-After": "5"}
            ) from error
        return StreamingResponse(
            answer.aiter_raw(),
            answer.status_code,
            {name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP},
            background=BackgroundTask(answer.aclose),
        )

    return api
