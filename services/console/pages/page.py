"""What every page is made with: who looks, the templates, and how lists are asked for by their address."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from urllib.parse import unquote, urlencode
from zoneinfo import ZoneInfo, available_timezones

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment

from services.console.domain.sessions import Sealer, joined
from services.console.gateway import Gateway, Query
from services.console.identity import Identity
from services.console.pages.templates import environment
from shared.auth import Authenticator, Principal, Scope, Unauthenticated

SESSION_COOKIE: Final = "cdds_session"
THEME_COOKIE: Final = "cdds_theme"
ZONE_COOKIE: Final = "cdds_zone"
THEMES: Final = ("system", "light", "dark")
ZONES: Final = frozenset(available_timezones())
PAGE_ROWS: Final = 25
RENEWED_BEFORE: Final = timedelta(seconds=60)
"""A token that expires sooner is renewed, so that what a page asks with it is answered."""


class SignInNeeded(Exception):
    """Nobody is signed in, or the session has ended."""


@dataclass(frozen=True, slots=True)
class Console:
    """What pages are made with, one for the process."""

    gateway: Gateway
    sealer: Sealer
    authenticator: Authenticator
    public_url: str | None = None
    identity: Identity | None = None
    """Where people sign in; without one, access tokens are what they sign in with."""
    templates: Environment = field(default_factory=environment)

    @property
    def secure(self) -> bool:
        """Whether cookies may go over https only."""
        return (self.public_url or "").startswith("https:")


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks at a page, and how they want to see it."""

    principal: Principal
    token: str
    zone: ZoneInfo
    theme: str
    gateway: Gateway

    @property
    def may_operate(self) -> bool:
        """Run, cancel, retry, suspend, resume, download."""
        return Scope.OPERATE in self.principal.scopes

    @property
    def may_administer(self) -> bool:
        """Everything."""
        return Scope.ADMINISTER in self.principal.scopes

    async def get(self, path: str, query: Query | None = None) -> Any:
        """What a query answers this visitor."""
        return await self.gateway.get(self.token, path, query)

    async def send(self, method: str, path: str, body: object = None, **more: Any) -> Any:
        """What a command of this visitor answers."""
        return await self.gateway.send(method, self.token, path, body, **more)


def console_of(request: Request) -> Console:
    """What pages are made with."""
    console: Console = request.app.state.console
    return console


async def _visitor(request: Request) -> Visitor:
    console = console_of(request)
    session = console.sealer.session(joined(SESSION_COOKIE, request.cookies))
    if session is None:
        raise SignInNeeded
    principal = await _known(console, session.token)
    if _ends_soon(principal) and session.refresh_token and console.identity:
        renewed = await console.identity.renew(session.refresh_token)
        if renewed is not None and (known := await _known(console, renewed.token)):
            session, principal = renewed, known
            # The answer brings the new tokens along, see `Guard`.
            request.state.renewed = renewed, known
    if principal is None:
        raise SignInNeeded
    return Visitor(principal, session.token, zone_of(request), theme_of(request), console.gateway)


async def _known(console: Console, token: str) -> Principal | None:
    try:
        return await console.authenticator.principal(token)
    except Unauthenticated:
        return None


def _ends_soon(principal: Principal | None) -> bool:
    return principal is None or principal.expires_at - datetime.now(UTC) < RENEWED_BEFORE


Signed = Annotated[Visitor, Depends(_visitor)]


def theme_of(request: Request) -> str:
    """The theme that the browser was told to keep."""
    theme = request.cookies.get(THEME_COOKIE, "system")
    return theme if theme in THEMES else "system"


def zone_of(request: Request) -> ZoneInfo:
    """The time zone that the browser was told to keep; UTC when it has none."""
    name = unquote(request.cookies.get(ZONE_COOKIE, "UTC"))
    return ZoneInfo(name if name in ZONES else "UTC")


async def sources_of(visitor: Visitor) -> list[dict[str, Any]]:
    """What the visitor's tenant may export; empty when that can't be said now, for lists do without."""
    return await visitor.gateway.sources(visitor.principal.tenant, visitor.token)


def is_partial(request: Request) -> bool:
    """Whether htmx asks for a part of a page rather than the browser for all of it."""
    return "HX-Request" in request.headers and "HX-Boosted" not in request.headers


def address_of(request: Request) -> str:
    """Where browsers and programs find the console."""
    return console_of(request).public_url or str(request.base_url).rstrip("/")


def render(
    request: Request, template: str, visitor: Visitor | None = None, *, status: int = 200, **context: object
) -> Response:
    """A page, or a part of one."""
    console = console_of(request)
    everywhere = {
        "visitor": visitor,
        "titles": {} if visitor is None else visitor.gateway.titles(visitor.principal.tenant),
        "path": request.url.path,
        "partial": is_partial(request),
        "theme": theme_of(request) if visitor is None else visitor.theme,
        "zone": zone_of(request) if visitor is None else visitor.zone,
    }
    html = console.templates.get_template(template).render({**everywhere, **context})
    return HTMLResponse(html, status, headers={"Cache-Control": "no-store"})


@dataclass(frozen=True, slots=True)
class Listing:
    """How a list is asked for by the address of its page: filters, an order, and where the page begins."""

    path: str
    parameters: Mapping[str, list[str]]
    sort: str

    @classmethod
    def read(cls, request: Request, filters: tuple[str, ...], default_sort: str) -> "Listing":
        """What the address says; unknown parameters are ignored, empty ones left out."""
        parameters = {
            name: values
            for name in (*filters, "sort", "after")
            if (values := [value for text in request.query_params.getlist(name) if (value := text.strip())])
        }
        return cls(request.url.path, parameters, parameters.get("sort", [default_sort])[-1])

    @property
    def query(self) -> dict[str, Any]:
        """What the service is asked."""
        return {**self.parameters, "sort": self.sort, "limit": PAGE_ROWS}

    @property
    def filtered(self) -> bool:
        """Whether some filter is set."""
        return bool(self.parameters.keys() - {"sort", "after"})

    @property
    def is_first(self) -> bool:
        """Whether this is the first page."""
        return "after" not in self.parameters

    def value(self, name: str) -> str:
        """The value of a filter."""
        return self.parameters.get(name, [""])[-1]

    def values(self, name: str) -> list[str]:
        """The values of a filter that may have several."""
        return self.parameters.get(name, [])

    def sorted_by(self, column: str) -> str:
        """The address that sorts by a column, or turns its order round."""
        return self._address(sort=f"-{column}" if self.sort == column else column, after=None)

    def direction(self, column: str) -> str:
        """What `aria-sort` says of a column."""
        return {column: "ascending", f"-{column}": "descending"}.get(self.sort, "none")

    def following(self, after: str) -> str:
        """The address of the next page."""
        return self._address(after=after)

    @property
    def here(self) -> str:
        """The address of this very page."""
        return self._address()

    @property
    def first(self) -> str:
        """The address of the first page."""
        return self._address(after=None)

    def without(self, *names: str) -> str:
        """The address without these filters."""
        return self._address(after=None, **dict.fromkeys(names))

    @property
    def unfiltered(self) -> str:
        """The address without any filter."""
        return self.without(*(self.parameters.keys() - {"sort"}))

    def _address(self, **changes: str | None) -> str:
        changed = {name: value for name, value in {**self.parameters, **changes}.items() if value}
        return f"{self.path}?{urlencode(changed, doseq=True)}" if changed else self.path
