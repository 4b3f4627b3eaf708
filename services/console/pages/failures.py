"""What a browser sees when something can't be answered: a page, or a notice on the page that is open."""

from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlencode, urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from services.console.gateway import Away, Refused
from services.console.pages.page import SignInNeeded, is_partial, render
from services.console.pages.sessions import forget_session
from shared.http import wrong
from shared.observability import log

Handler = Callable[[Request, Exception], Awaitable[Response]]

TITLES: Final = {
    403: "Access denied",
    404: "Not found",
    405: "Not found",
    409: "Not possible now",
    410: "Not there any more",
    412: "Changed meanwhile",
    413: "Too large",
    422: "Not understood",
    500: "Something went wrong",
    503: "Away for a moment",
}
OURS: Final = ("/api/", "/health/", "/metrics", "/openapi.json", "/docs")
"""What is for programs, and answers problem+json."""


def install(app: FastAPI) -> None:
    """Answer browsers with pages; programs go on to get problem details."""
    answers = app.exception_handlers
    for kind in (HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _for_browsers(answers[kind]))  # pyright: ignore[reportArgumentType] - both are ours
    app.add_exception_handler(SignInNeeded, _sign_in)
    app.add_exception_handler(Refused, _refused)
    for kind in (Away, ConnectionError):
        app.add_exception_handler(kind, _away)


def failure(request: Request, status: int, detail: str, errors: list[dict[str, str]] | None = None) -> Response:
    """A page about what went wrong, or a notice where htmx asked."""
    title = TITLES.get(status, "Not possible")
    template = "parts/notice.html" if is_partial(request) else "failure.html"
    response = render(request, template, status=status, title=title, detail=detail, errors=errors or [])
    if is_partial(request):
        response.headers["HX-Retarget"], response.headers["HX-Reswap"] = "#notices", "beforeend"
    return response


async def _sign_in(request: Request, _: Exception) -> Response:
    if request.headers.get("accept") == "text/event-stream":
        return Response(status_code=401)
    partial = is_partial(request)
    shown = urlsplit(request.headers.get("HX-Current-URL", "/") if partial else str(request.url))
    # Back to the page that is open; a write is not repeated.
    page = shown.path + (f"?{shown.query}" if shown.query else "") if partial or request.method == "GET" else "/"
    there = "/sign-in?" + urlencode({"next": page})
    response = RedirectResponse(there, 303)
    if partial or request.headers.get("accept") == "text/event-stream":
        response = Response(status_code=401, headers={"HX-Redirect": there})
    forget_session(request, response)
    return response


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    if error.status == 401:
        return await _sign_in(request, error)
    return failure(request, error.status, str(error), error.errors)


async def _away(request: Request, error: Exception) -> Response:
    log.warning("a service is away", path=str(error))
    return failure(request, 503, "A part of the service does not answer at the moment; try again.")


def _for_browsers(programs: Handler) -> Handler:  # pyright: ignore[reportUnknownParameterType]
    async def answer(request: Request, error: Exception) -> Response:
        if request.url.path.startswith(OURS):
            return await programs(request, error)
        if isinstance(error, HTTPException):
            return failure(
                request, error.status_code, "There is no such page." if error.status_code == 404 else str(error.detail)
            )
        if isinstance(error, RequestValidationError):
            body = wrong(error.errors(), error.body).body
            return failure(request, 422, "The address or the form says something unknown.", list(body["errors"]))  # pyright: ignore[reportArgumentType] - as made there
        log.error("page failed", path=request.url.path, exc_info=error)
        return failure(request, 500, "The page failed on our side; the log has the details.")

    return answer
