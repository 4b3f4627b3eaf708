"""The OpenAPI document every service shares: its problems, its headers, and the answers that any request may get."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field

API_VERSION: Final = "1"
_PROBLEM: Final = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_MEANINGS: Final[Mapping[int, str]] = {
    400: "The request can't be read (`malformed`).",
    401: "There is no valid access token (`unauthenticated`).",
    403: "The access token does not allow this (`forbidden`).",
    404: "There is no such thing, or it is another tenant's (`not-found`).",
    409: "The state of the thing does not allow this; the type says why.",
    410: "The bytes are gone (`artifact-expired`).",
    412: "It has changed since it was read (`version-mismatch`).",
    413: "The body is too large (`too-large`).",
    422: "Fields that can't be accepted, each with a remedy (`invalid`), or `idempotency-key-reused`.",
    428: "The version that was read is missing (`version-required`).",
    503: "A part of the service is away; try again (`unavailable`).",
}


class FieldError(BaseModel):
    """One field that can't be accepted."""

    pointer: str = Field(description="JSON pointer into the body, or /query/…, /path/…, /header/….")
    message: str
    remedy: str


class ProblemDetails(BaseModel):
    """Problem details (RFC 9457); `type` ends in a slug that programs can rely on."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] = Field(default_factory=list)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For `responses=`: the problems a route answers besides those that every route may answer."""
    return {status: _answer(status) for status in statuses}


def headed(status: int, *, location: bool = False) -> dict[int | str, dict[str, Any]]:
    """For `responses=`: the success that carries an `ETag`, and a `Location` where something was made."""
    headers = {"ETag": _header("The version, for If-Match.")}
    if location:
        headers["Location"] = _header("Where to read it.")
    return {status: {"headers": headers}}


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


def _answer(status: int) -> dict[str, Any]:
    return {"description": _MEANINGS.get(status, HTTPStatus(status).phrase), "content": _PROBLEM}


def complete(app: FastAPI) -> None:
    """Let the document of `app` tell all of its answers."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title, version=API_VERSION, routes=app.routes,
                description="Errors are problem details (RFC 9457); times are RFC 3339 in UTC.",
            )  # fmt: skip
            shapes = made.setdefault("components", {}).setdefault("schemas", {})
            details = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
            shapes |= details.pop("$defs")
            shapes["Problem"] = details
            for item in made.get("paths", {}).values():
                for operation in item.values():
                    _complete(operation)
            for unused in ("HTTPValidationError", "ValidationError"):
                shapes.pop(unused, None)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document


def _complete(operation: dict[str, Any]) -> None:
    responses: dict[str, Any] = operation["responses"]
    statuses = [503]
    if "security" in operation:
        statuses += [401, 403]
    if "requestBody" in operation:
        statuses += [400, 413]
    if "requestBody" in operation or operation.get("parameters"):
        # FastAPI describes its own form of this answer, which no service of ours gives.
        responses.pop("422", None)
        statuses.append(422)
    for parameter in operation.get("parameters", ()):
        if parameter["name"] == "If-Match":
            statuses += [400, 412, 428] if parameter["required"] else [400, 412]
    for status in statuses:
        responses.setdefault(str(status), _answer(status))
    operation["responses"] = dict(sorted(responses.items()))
