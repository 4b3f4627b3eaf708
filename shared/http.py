"""The HTTP edge every service shares: problem details (RFC 9457), authentication, body limit, health and metrics."""

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from types import MappingProxyType
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from shared.auth import Authenticator, Principal, Scope, Unauthenticated
from shared.clock import utc_text
from shared.database import is_outage
from shared.observability import log
from shared.openapi import complete
from shared.tracing import tracer

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
PROBLEM_TYPE: Final = "https://cdds.invalid/problems/"

Check = Callable[[], Awaitable[None]]


class Problem(Exception):
    """An answer in problem+json: what is wrong, and for fields what to do about it."""

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        **extra: object,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = dict(headers or {})
        self.body: dict[str, object] = {
            "type": PROBLEM_TYPE + slug,
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            **extra,
        }
        if errors:
            self.body["errors"] = list(errors)

    def response(self) -> Response:
        """The problem as an HTTP response; what can't be written in UTF-8, such as a lone surrogate, is replaced."""
        try:
            body = orjson.dumps(self.body)
        except TypeError:
            body = orjson.dumps(_writable(self.body))
        return Response(body, self.status, self.headers, media_type="application/problem+json")


def _writable(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case Mapping():
            return {_writable(name): _writable(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_writable(inner) for inner in value]
        case _:
            return value if value is None or isinstance(value, int | float) else str(value)


def invalid(pointer: str, message: str, remedy: str) -> Problem:
    """422 for one field."""
    return Problem(
        422, "invalid", f"{pointer}: {message}", errors=[{"pointer": pointer, "message": message, "remedy": remedy}]
    )


def not_found(what: str) -> Problem:
    """404, also for what belongs to another tenant."""
    return Problem(404, "not-found", f"There is no such {what}.")


def cursor(moment: datetime, key: UUID) -> str:
    """The `next` of a page whose last row has this position."""
    return base64.urlsafe_b64encode(f"{utc_text(moment)} {key}".encode()).decode().rstrip("=")


def read_cursor(text: str | None) -> tuple[datetime, UUID] | None:
    """The position behind an `after` parameter; raises Problem when it is none of ours."""
    if text is None:
        return None
    try:
        moment, _, key = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition(" ")
        return datetime.fromisoformat(moment).astimezone(UTC), UUID(key)
    except (ValueError, OverflowError) as error:
        raise invalid("/query/after", "is not a cursor of this list", "Use the `next` of the page before.") from error


def position(order: str, value: str, key: UUID) -> str:
    """The `next` of a page in `order` whose last row has this value and key."""
    return base64.urlsafe_b64encode(orjson.dumps([order, value, str(key)])).decode().rstrip("=")


def read_position(text: str | None, order: str) -> tuple[str, UUID] | None:
    """Where a page in `order` begins by its `after` parameter; raises Problem when that belongs to another list."""
    if text is None:
        return None
    try:
        read = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        found, value, key = read
        if found != order or not isinstance(value, str) or "\0" in value:
            raise ValueError("it is one of another list")
        return value, UUID(key)
    except (ValueError, TypeError, AttributeError) as error:
        raise invalid(
            "/query/after", "is not a cursor of this list in this order", "Use the `next` of the page before."
        ) from error


# --- the application ----------------------------------------------------------------------------------------------


def create_app(
    title: str,
    authenticator: Authenticator | None,
    checks: Mapping[str, Check],
    problems: Mapping[type[Exception], Callable[[Any], Problem]] = MappingProxyType({}),
) -> FastAPI:
    """A FastAPI application with health, metrics and the project's error answers; `problems` adds a service's own."""
    app = FastAPI(
        title=title, docs_url="/docs", redoc_url=None, openapi_url="/openapi.json", telemetry=tracer().telemetry()
    )
    complete(app)
    app.state.authenticator = authenticator
    app.add_middleware(BodyLimit)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(StarletteHTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)
    for refused, problem in problems.items():
        app.add_exception_handler(refused, _answer_with(problem))

    @app.get("/health/live", include_in_schema=False)
    async def live() -> Response:
        return Response("live\n", media_type="text/plain")

    @app.get("/health/ready", include_in_schema=False)
    async def ready() -> Response:
        failed: dict[str, str] = {}
        for name, check in checks.items():
            try:
                await check()
            except Exception as error:
                failed[name] = type(error).__name__
        return JSONResponse({"ready": not failed, "failed": failed}, 503 if failed else 200)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app


_bearer = HTTPBearer(auto_error=False, description="An RFC 9068 access token with `tenant` and `scope` claims.")


async def _principal(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Principal:
    if credentials is None:
        raise _unauthenticated("Send an access token: `Authorization: Bearer …`.")
    authenticator: Authenticator = request.app.state.authenticator
    try:
        principal = await authenticator.principal(credentials.credentials)
    except Unauthenticated as error:
        raise _unauthenticated(str(error)) from error
    tracer().note(tenant=principal.tenant)
    return principal


def _unauthenticated(detail: str) -> Problem:
    return Problem(401, "unauthenticated", detail, headers={"WWW-Authenticate": "Bearer"})


def allowed(scope: Scope) -> Any:
    """A dependency that gives the caller, or answers 401 or 403 when the token does not carry `scope`."""

    async def check(principal: Annotated[Principal, Depends(_principal)]) -> Principal:
        if scope not in principal.scopes:
            raise Problem(403, "forbidden", f"This needs the scope {scope}, which the token does not have.")
        return principal

    return Depends(check)


Reader = Annotated[Principal, allowed(Scope.READ)]
Operator = Annotated[Principal, allowed(Scope.OPERATE)]
Administrator = Annotated[Principal, allowed(Scope.ADMINISTER)]


def _answer_with(problem: Callable[[Any], Problem]) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(_: Request, error: Exception) -> Response:
        return problem(error).response()

    return answer


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        return Problem(400, "malformed", "The body is not JSON; send one JSON object.").response()
    if any(item["type"] == "missing" and item["loc"] == ("header", "If-Match") for item in found):
        return Problem(428, "version-required", "Send If-Match with the ETag of the version that was read.").response()
    return wrong(found, error.body).response()


def wrong(found: Sequence[Mapping[str, Any]], body: object) -> Problem:
    """422 for what pydantic found wrong with `body`; locations begin with where they are, such as `body`."""
    errors = [
        {"pointer": _pointer(item, body), "message": item["msg"].removeprefix("Value error, "), "remedy": _remedy(item)}
        for item in found
    ]
    return Problem(422, "invalid", f"{errors[0]['pointer']}: {errors[0]['message']}", errors=errors)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    slug = {404: "not-found", 405: "method-not-allowed", 413: "too-large"}.get(error.status_code, "malformed")
    # The framework names only the methods of the first route with this path.
    headers = {"Allow": ", ".join(_methods(request))} if error.status_code == 405 else error.headers
    return Problem(error.status_code, slug, str(error.detail), headers=headers).response()


def _methods(request: Request) -> list[str]:
    """The methods that the path of `request` has."""
    routes: Sequence[BaseRoute] = request.app.routes

    def has(method: str) -> bool:
        asked = {**request.scope, "method": method}
        return any(route.matches(dict(asked))[0] is Match.FULL for route in routes)

    return [method for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE") if has(method)]


async def _unexpected(request: Request, error: Exception) -> Response:
    # The server closes the connection after an error that no handler of its own type took. Who is not told sends the
    # next request on it, in vain.
    close = {"Connection": "close"}
    if is_outage(error):
        log.warning("database away", path=request.url.path, error=repr(error))
        return Problem(
            503, "unavailable", "A part of the service is away; try again.", headers={"Retry-After": "5", **close}
        ).response()
    log.error("request failed", path=request.url.path, exc_info=error)
    return Problem(
        500, "internal", "The request failed on our side; the log has the details.", headers=close
    ).response()


def _pointer(item: Mapping[str, Any], body: object) -> str:
    """The JSON pointer of a pydantic error, without the union tags pydantic puts into its location."""
    where, *rest = item["loc"]
    if where != "body":
        return f"/{where}/" + "/".join(map(str, rest))
    parts: list[str] = []
    current: Any = body
    for index, step in enumerate(rest):
        missing = item["type"] == "missing" and index == len(rest) - 1
        if isinstance(current, dict) and (step in current or missing):
            current = current.get(step)
        elif isinstance(current, list) and isinstance(step, int):
            current = current[step] if step < len(current) else None
        else:
            continue
        parts.append(str(step).replace("~", "~0").replace("/", "~1"))
    return "/" + "/".join(parts)


def _remedy(item: Mapping[str, Any]) -> str:
    context: Mapping[str, Any] = item.get("ctx") or {}
    match item["type"]:
        case "missing":
            return "Add this field."
        case "extra_forbidden":
            return "Remove this field, or see the API documentation for its right name."
        case "literal_error" | "enum":
            return f"Use {context.get('expected')}."
        case "union_tag_invalid":
            return f"Use one of {context.get('expected_tags')}."
        case "union_tag_not_found":
            return f"Add {context.get('discriminator')}."
        case "string_too_long":
            return f"Use at most {context.get('max_length')} characters."
        case _:
            return "Correct the value; the API documentation shows its form."


class BodyLimit:
    """Answers 413 to bodies beyond `MAX_BODY_BYTES`, however they are announced."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_BODY_BYTES:
                # FastAPI lets only this class through its body parsing.
                raise StarletteHTTPException(413, f"The body is larger than {MAX_BODY_BYTES} bytes.")
            return message

        await self._app(scope, counted, send)
