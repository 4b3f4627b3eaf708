"""History: runs, one run with all that belongs to it, the slots that became runs or not, and a job's calendar."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from services.console.domain import calendar, runs
from services.console.domain.calendar import Month
from services.console.gateway import Away, Refused
from services.console.pages.page import Listing, Signed, Visitor, is_partial, render, sources_of

MOMENTS: Final = ("started_from", "started_to", "finished_from", "finished_to", "data_from", "data_to")
FILTERS: Final = ("job_id", "state", "source", "type", "trigger", "label", "text", *MOMENTS)

SLOT_MOMENTS: Final = ("slot_from", "slot_to")
SLOT_FILTERS: Final = ("job_id", "outcome", "trigger", *SLOT_MOMENTS)

COLUMNS: Final = {
    "state": "Status",
    "title": "Title",
    "source": "Source",
    "type": "Type",
    "trigger": "Trigger",
    "requested_at": "Requested",
    "started_at": "Started",
    "finished_at": "Finished",
    "duration_seconds": "Duration",
    "rows": "Rows",
    "bytes": "Size",
    "files": "Files",
}
"""The list's columns; all but the files can be sorted on."""
ALWAYS: Final = frozenset({"state", "title"})
HIDDEN_COOKIE: Final = "cdds_history_hidden"
HIDDEN_FIRST: Final = "trigger.requested_at"
"""What is not shown until somebody wants to see it, as the cookie has it."""


def router() -> APIRouter:
    """The routes."""
    pages = APIRouter(prefix="/history")

    @pages.get("")
    async def list_runs(request: Request, visitor: Signed) -> Response:
        listing = Listing.read(request, FILTERS, default_sort="-requested_at")
        job_id = listing.value("job_id")
        found, sources, titles = await asyncio.gather(
            visitor.get("/executions", _asked(listing)), sources_of(visitor), _titles(visitor, [job_id])
        )
        return render(
            request, "history/list.html", visitor, runs=found, sources=sources, listing=listing,
            job_title=titles.get(job_id), columns=COLUMNS, always=ALWAYS, hidden=_hidden(request),
            chosen=runs.shown_states(listing.values("state")),
        )  # fmt: skip

    @pages.get("/slots")
    async def list_slots(request: Request, visitor: Signed) -> Response:
        listing = Listing.read(request, SLOT_FILTERS, default_sort="")
        moments = {name: runs.moment(value) for name in SLOT_MOMENTS if (value := listing.value(name))}
        found = await visitor.get("/slots", {**listing.query, **moments})
        jobs = {slot["job_id"] for slot in found["items"]} | {listing.value("job_id")}
        return render(
            request, "history/slots.html", visitor, slots=found, listing=listing, titles=await _titles(visitor, jobs)
        )

    @pages.get("/coverage/{job_id:uuid}")
    async def show_coverage(request: Request, job_id: UUID, visitor: Signed, month: str = "") -> Response:
        now = datetime.now(UTC)
        shown = Month.read(month, now)
        until = min(shown.end, now)
        job, segments = await asyncio.gather(
            _job(visitor, str(job_id)), _segments(visitor, job_id, shown.begin, until) if shown.begin < now else _none()
        )
        found = calendar.stretches(segments, calendar.expected_from(job))
        return render(
            request, "history/coverage.html", visitor, job=job, job_id=str(job_id), month=shown, found=found,
            weeks=calendar.weeks(shown, found), is_current=shown.end > now, words=calendar.STATES,
        )  # fmt: skip

    @pages.get("/{run_id:uuid}")
    async def show_run(request: Request, run_id: UUID, visitor: Signed) -> Response:
        run, events = await asyncio.gather(
            visitor.get(f"/executions/{run_id}"), visitor.get(f"/executions/{run_id}/events", {"limit": 200})
        )
        return render(request, "history/run.html", visitor, run=run, events=events)

    @pages.get("/{run_id:uuid}/{action}")
    async def ask(request: Request, run_id: UUID, action: str, visitor: Signed) -> Response:
        """Whether somebody is sure: a dialog, or without scripts a page."""
        if action not in ("cancel", "retry"):
            return RedirectResponse(f"/history/{run_id}", 303)
        run = await visitor.get(f"/executions/{run_id}")
        if not is_partial(request):
            return render(request, "history/ask_page.html", visitor, run=run, action=action)
        response = render(request, "history/ask.html", visitor, run=run, action=action)
        response.headers["HX-Retarget"], response.headers["HX-Reswap"] = "#dialog", "innerHTML"
        return response

    @pages.post("/{run_id:uuid}/cancel")
    async def cancel(request: Request, run_id: UUID, visitor: Signed) -> Response:
        await visitor.send("POST", f"/runs/{run_id}/cancel")
        return _done(request, visitor, run_id, "The run is asked to end; it says so when it has.", None)

    @pages.post("/{run_id:uuid}/retry")
    async def retry(request: Request, run_id: UUID, visitor: Signed) -> Response:
        order = await visitor.send("POST", f"/runs/{run_id}/retry")
        return _done(request, visitor, run_id, "The same question is asked again by", order["run_id"])

    return pages


def _asked(listing: Listing) -> dict[str, Any]:
    """What history is asked for."""
    moments = {name: runs.moment(value) for name in MOMENTS if (value := listing.value(name))}
    return {**listing.query, **moments, "state": runs.states(listing.values("state")), "total": "true"}


def _hidden(request: Request) -> list[str]:
    """The columns that the visitor does not want to see."""
    kept = request.cookies.get(HIDDEN_COOKIE, HIDDEN_FIRST).split(".")
    return [column for column in COLUMNS if column in kept and column not in ALWAYS]


async def _job(visitor: Visitor, job_id: str) -> dict[str, Any] | None:
    """A job; None where it is not there any more, or can't be read now."""
    try:
        return dict(await visitor.get(f"/jobs/{UUID(job_id)}"))
    except (Away, Refused, ValueError):
        return None


async def _titles(visitor: Visitor, jobs: Iterable[str]) -> dict[str, str]:
    """The titles of jobs; the ids of those that have none any more."""
    asked = [job_id for job_id in jobs if job_id]
    found = await asyncio.gather(*(_job(visitor, job_id) for job_id in asked))
    return {
        job_id: job_id if job is None else job["settings"]["title"] for job_id, job in zip(asked, found, strict=True)
    }


async def _segments(visitor: Visitor, job_id: UUID, begin: datetime, end: datetime) -> list[Any]:
    query = {"job_id": str(job_id), "from": begin.isoformat(), "to": end.isoformat()}
    return list((await visitor.get("/coverage", query))["segments"])


async def _none() -> list[Any]:
    return []


def _done(request: Request, visitor: Visitor, run_id: UUID, said: str, new: str | None) -> Response:
    """A notice about what was begun; without scripts, the run's page."""
    if not is_partial(request):
        return RedirectResponse(f"/history/{run_id}", 303)
    response = render(request, "history/done.html", visitor, said=said, new=new)
    response.headers["HX-Retarget"], response.headers["HX-Reswap"] = "#notices", "beforeend"
    return response
