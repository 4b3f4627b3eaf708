"""The HTTP edge of console: `/api/v1` forwarded by prefix."""

from collections.abc import Mapping

import httpx
from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.console.gateway import end_to_end, passing
from shared.http import Problem, not_found
from shared.runtime import break_off_at_stop


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
            headers=end_to_end(request.headers.raw),
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
        return passing(answer)

    return api
