"""Signing in, with an access token or at the identity provider, and out."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.console.domain.sessions import SESSION_SECONDS, SIGN_IN_SECONDS, Session, pieces, pieces_among
from services.console.identity import Failed, Unreachable
from services.console.pages.page import SESSION_COOKIE, Console, console_of, render
from shared.auth import Principal, Unauthenticated

SIGN_IN_COOKIE: Final = "cdds_sign_in"


def router() -> APIRouter:
    """The routes."""
    pages = APIRouter()

    @pages.get("/sign-in")
    async def show_sign_in(request: Request, next: str = "/") -> Response:
        return _shown(request, next)

    @pages.post("/sign-in")
    async def sign_in(
        request: Request, token: Annotated[str, Form()] = "", next: Annotated[str, Form()] = "/"
    ) -> Response:
        return await _let_in(request, Session(token.strip()), next)

    @pages.get("/sign-in/start")
    async def start(request: Request, next: str = "/") -> Response:
        """Send the browser to the identity provider; it comes back to `/sign-in/back`."""
        console = console_of(request)
        if console.identity is None:
            return _shown(request, next)
        try:
            address, begun = await console.identity.begin(_inside(next))
        except Unreachable:
            return _shown(request, next, "The identity provider does not answer at the moment; try again.")
        response = RedirectResponse(address, 303)
        _keep(response, console, SIGN_IN_COOKIE, console.sealer.seal(begun), SIGN_IN_SECONDS)
        return response

    @pages.get("/sign-in/back")
    async def come_back(request: Request, state: str | None = None, code: str | None = None) -> Response:
        console = console_of(request)
        begun = console.sealer.sign_in(request.cookies.get(SIGN_IN_COOKIE))
        next_page = "/" if begun is None else begun.next
        if console.identity is None:
            return _shown(request, next_page)
        try:
            session = await console.identity.finish(begun, state, code)
        except Failed as error:
            return _shown(request, next_page, str(error))
        except Unreachable:
            return _shown(request, next_page, "The identity provider does not answer at the moment; try again.")
        response = await _let_in(request, session, next_page)
        response.delete_cookie(SIGN_IN_COOKIE)
        return response

    @pages.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        response = RedirectResponse("/sign-in", 303)
        forget_session(request, response)
        return response

    return pages


class Renewal:
    """Lets the browser keep a session that was renewed while its request was answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""

        async def renewing(message: Message) -> None:
            renewed = scope.get("state", {}).get("renewed")
            if message["type"] == "http.response.start" and renewed is not None:
                carrier = Response()
                keep_session(Request(scope), carrier, *renewed)
                for cookie in carrier.headers.getlist("set-cookie"):
                    MutableHeaders(scope=message).append("set-cookie", cookie)
            await send(message)

        await self._app(scope, receive, renewing)


async def _let_in(request: Request, session: Session, next_page: str) -> Response:
    console = console_of(request)
    try:
        principal = await console.authenticator.principal(session.token)
    except Unauthenticated as error:
        return _shown(request, next_page, str(error))
    except ConnectionError:
        return _shown(request, next_page, "The identity provider does not answer at the moment; try again.")
    response = RedirectResponse(_inside(next_page), 303)
    keep_session(request, response, session, principal)
    return response


def keep_session(request: Request, response: Response, session: Session, principal: Principal) -> None:
    """Let the browser keep a session until its token expires, or longer when that can be renewed."""
    console = console_of(request)
    left = (principal.expires_at - datetime.now(UTC)).total_seconds()
    lasts = SESSION_SECONDS if session.refresh_token else min(left, SESSION_SECONDS)
    kept = pieces(SESSION_COOKIE, console.sealer.seal(session))
    for name, piece in kept.items():
        _keep(response, console, name, piece, lasts)
    _forget(response, request.cookies, kept)


def forget_session(request: Request, response: Response) -> None:
    """Let the browser forget who it was."""
    _forget(response, request.cookies, {})


def _forget(response: Response, cookies: Mapping[str, str], kept: Mapping[str, str]) -> None:
    for name in pieces_among(SESSION_COOKIE, cookies):
        if name not in kept:
            response.delete_cookie(name)


def _keep(response: Response, console: Console, name: str, value: str, seconds: float) -> None:
    # Lax: the way back from the identity provider begins at another site.
    response.set_cookie(name, value, int(seconds), httponly=True, secure=console.secure, samesite="lax")


def _shown(request: Request, next_page: str, refused: str | None = None) -> Response:
    identity = console_of(request).identity
    return render(
        request, "sign_in.html", status=422 if refused else 200, next=_inside(next_page), refused=refused,
        by_token=identity is None,
    )  # fmt: skip


def _inside(address: str) -> str:
    """The path and query of `address`, or the start page when it leads to another site."""
    parts = urlsplit(address)
    inside = address.startswith("/") and not address.startswith(("//", "/\\")) and not parts.netloc
    return address if inside and address.isprintable() else "/"
