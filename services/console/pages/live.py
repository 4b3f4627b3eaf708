"""What keeps open pages up to date: `/live`, and the HTML that it sends."""

from collections.abc import Iterable, Mapping
from typing import Any
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Request, Response
from jinja2 import Environment

from services.console.domain.news import Standing
from services.console.feed import Full, Hub
from services.console.pages.page import Signed
from shared.runtime import break_off_at_stop
from shared.streaming import EventStream


def router(hub: Hub) -> APIRouter:
    """The route."""
    pages = APIRouter()

    @pages.get("/live")
    async def live(request: Request, visitor: Signed) -> Response:
        """Changes of what pages show, as `static/live.js` takes them in."""
        principal = visitor.principal
        try:
            page = hub.open(principal.tenant, visitor.token, visitor.zone.key, principal.expires_at)
        except Full:
            return Response(status_code=503, headers={"Retry-After": "5"})
        break_off_at_stop(request.scope)
        return EventStream(page)

    return pages


class Fragments:
    """Shows changes with the macros that pages are made of."""

    def __init__(self, templates: Environment) -> None:
        changed: Any = templates.get_template("parts/changed.html").module
        self._job, self._run, self._progress = changed.job, changed.run, changed.progressed

    def jobs(self, jobs: Iterable[Mapping[str, Any]], zone: str) -> str:
        """Jobs as lists show them."""
        return "".join(self._job(job, ZoneInfo(zone)) for job in jobs)

    def runs(self, runs: Iterable[Standing]) -> str:
        """The states of runs."""
        return "".join(self._run(run) for run in runs)

    def progress(self, runs: Iterable[Standing]) -> str:
        """How far runs are."""
        return "".join(self._progress(run.run_id, run.progress) for run in runs)
