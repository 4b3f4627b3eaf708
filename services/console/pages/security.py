"""What browsers may do with our pages, and which requests they may send on their own."""

from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
PROGRAMS: Final = ("/api/", "/docs", "/openapi.json", "/metrics", "/health/")
"""Answered by bearer token or to anybody, so nothing a browser sends by itself opens them."""


class Guard:
    """Sets the security headers of pages and refuses writes that another site's page began.

    A session's cookie goes along with whatever a browser sends here, so a write must come from a page of ours: its
    Origin (every browser sends one with a write) is the address it was sent to.
    """

    def __init__(self, app: ASGIApp, public_url: str | None) -> None:
        self._app = app
        self._public = None if public_url is None else urlsplit(public_url).netloc

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["type"] != "http" or scope["path"].startswith(PROGRAMS):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["method"] not in SAFE and not self._ours(headers):
            refused = PlainTextResponse("This was not sent by a page of this address, so nothing was done.\n", 403)
            await refused(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)

    def _ours(self, headers: Headers) -> bool:
        origin = urlsplit(headers.get("origin", "")).netloc
        return bool(origin) and origin in (self._public, headers.get("host"))
