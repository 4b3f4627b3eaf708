"""User preferences: the certificates that exports are encrypted for, time zone, theme, and who is signed in."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, File, Form, Path, Request, Response, UploadFile
from fastapi.responses import RedirectResponse

from services.console.domain import validity
from services.console.domain.sessions import joined
from services.console.domain.words import role_of
from services.console.gateway import Refused
from services.console.pages.page import (
    SESSION_COOKIE,
    THEME_COOKIE,
    THEMES,
    ZONE_COOKIE,
    ZONES,
    Signed,
    Visitor,
    console_of,
    is_partial,
    render,
)
from shared.clock import utc_text

KEPT_SECONDS: Final = 365 * 24 * 3600
NOTHING_SENT: Final = "Choose a file, or paste a certificate."
ZONE_UNKNOWN: Final = "This is no time zone of the IANA list; choose one of the list, as Europe/Berlin."

Fingerprint = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]


def router() -> APIRouter:
    """The routes."""
    pages = APIRouter(prefix="/preferences")

    @pages.get("")
    async def show_preferences(request: Request, visitor: Signed) -> Response:
        return await _page(request, visitor)

    @pages.post("/certificates")
    async def add_certificate(
        request: Request,
        visitor: Signed,
        file: Annotated[UploadFile | None, File()] = None,
        pasted: Annotated[str, Form()] = "",
    ) -> Response:
        """Add a certificate; what was sent is never shown again, because it may have been a private key."""
        field, content = "file", b"" if file is None else await file.read()
        if not content:
            field, content = "pasted", pasted.strip().encode()
        if not content:
            return await _certificates(request, visitor, refused={"file": NOTHING_SENT})
        try:
            added = await visitor.send("POST", "/certificates", content=content)
        except Refused as error:
            if error.status in (401, 403):
                raise
            return await _certificates(request, visitor, refused={field: str(error)})
        said = " ".join([f"Exports are encrypted for {added['subject']} from now on.", *added["warnings"]])
        return await _certificates(request, visitor, said=said)

    @pages.get("/certificates/{fingerprint}/remove")
    async def ask_to_remove(request: Request, fingerprint: Fingerprint, visitor: Signed) -> Response:
        now, found = datetime.now(UTC), (await visitor.get("/certificates"))["items"]
        chosen = next((each for each in found if each["fingerprint"] == fingerprint), None)
        if chosen is None:
            raise Refused(404, {"detail": "There is no such certificate."})
        left = validity.serving((each for each in found if each is not chosen), now)
        return render(request, "preferences/remove.html", visitor, certificate=chosen, last=not left)

    @pages.post("/certificates/{fingerprint}/remove")
    async def remove(request: Request, fingerprint: Fingerprint, visitor: Signed) -> Response:
        removed = await visitor.send("DELETE", f"/certificates/{fingerprint}")
        said = " ".join(["The certificate is removed.", *removed["warnings"]])
        return await _certificates(request, visitor, said=said)

    @pages.post("/zone")
    async def choose_zone(request: Request, visitor: Signed, zone: Annotated[str, Form()] = "") -> Response:
        if (zone := zone.strip()) not in ZONES:
            return await _page(request, visitor, status=422, zone_refused=ZONE_UNKNOWN, zone_typed=zone)
        return _keep(request, ZONE_COOKIE, quote(zone, safe=""))

    @pages.post("/theme")
    async def choose_theme(request: Request, visitor: Signed, theme: Annotated[str, Form()] = "") -> Response:
        """Keep the theme; the page's own script has put it on already, if there is one."""
        return _keep(request, THEME_COOKIE, theme if theme in THEMES else THEMES[0])

    return pages


def _keep(request: Request, cookie: str, value: str) -> Response:
    """Tell the browser to keep a preference. Not `httponly`: console.js looks whether a time zone was chosen."""
    response = Response(status_code=204) if is_partial(request) else RedirectResponse("/preferences", 303)
    response.set_cookie(cookie, value, max_age=KEPT_SECONDS, secure=console_of(request).secure, samesite="lax")
    return response


async def _page(request: Request, visitor: Visitor, *, status: int = 200, **context: object) -> Response:
    sealer, cookie = console_of(request).sealer, joined(SESSION_COOKIE, request.cookies)
    session, ends_at = sealer.session(cookie), sealer.kept_until(cookie)
    if session is None or session.refresh_token is None:
        ends_at = min(ends_at, visitor.principal.expires_at)
    return render(
        request, "preferences/page.html", visitor, status=status, zones=sorted(ZONES),
        now=utc_text(datetime.now(UTC)), role=role_of(visitor.principal.scopes),
        ends_at=utc_text(ends_at),
        **{"zone_refused": None, "zone_typed": visitor.zone.key, **await _found(visitor), **context},
    )  # fmt: skip


async def _certificates(
    request: Request, visitor: Visitor, *, said: str | None = None, refused: dict[str, str] | None = None
) -> Response:
    """The certificates as they are after a command: their part of the page where htmx asks, else all of it."""
    status, told = 422 if refused else 200, {"said": said, "refused": refused or {}}
    if not is_partial(request):
        return await _page(request, visitor, status=status, **told)
    found = {**await _found(visitor), **told}
    response = render(request, "preferences/certificates.html", visitor, status=status, **found)
    response.headers["HX-Retarget"], response.headers["HX-Reswap"] = "#certificates", "outerHTML"
    return response


async def _found(visitor: Visitor) -> dict[str, Any]:
    now = datetime.now(UTC)
    certificates = [(each, validity.validity(each, now)) for each in (await visitor.get("/certificates"))["items"]]
    return {"certificates": certificates, "making_one": validity.MAKING_ONE, "said": None, "refused": {}}
