"""The list of jobs, and what its toolbar and switches do."""

import asyncio
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from services.console.gateway import Refused
from services.console.pages.page import Listing, Signed, Visitor, render, sources_of

FILTERS = ("source", "type", "state", "status", "text", "label")

Selected = Annotated[list[UUID], Query(alias="job", min_length=1, max_length=100)]
Chosen = Annotated[list[UUID], Form(alias="job", min_length=1, max_length=100)]


def router() -> APIRouter:
    """The routes."""
    pages = APIRouter(prefix="/jobs")

    @pages.get("")
    async def list_jobs(request: Request, visitor: Signed, saved: UUID | None = None) -> Response:
        listing = Listing.read(request, FILTERS, default_sort="-created_at")
        found, sources, job = await asyncio.gather(
            visitor.get("/jobs", listing.query), sources_of(visitor), _saved(visitor, saved)
        )
        return render(request, "jobs/list.html", visitor, jobs=found, sources=sources, listing=listing, saved=job)

    @pages.get("/selected/{action}")
    async def act_on_selected(action: str, job: Selected) -> Response:
        """The toolbar's buttons that lead to another page."""
        there = {
            "edit": f"/jobs/{job[0]}/edit",
            "clone": f"/jobs/new?clone={job[0]}",
            "history": "/history?" + urlencode({"job_id": str(job[0])}),
        }
        return RedirectResponse(there.get(action, "/jobs"), 303)

    @pages.post("/{job_id:uuid}/suspend")
    async def suspend(request: Request, job_id: UUID, visitor: Signed) -> Response:
        job = await visitor.send("POST", f"/jobs/{job_id}/suspend")
        return render(request, "jobs/row.html", visitor, job=job, said=f"“{job['settings']['title']}” is suspended.")

    @pages.post("/{job_id:uuid}/resume")
    async def resume(
        request: Request, job_id: UUID, visitor: Signed, missed: Annotated[str | None, Form()] = None
    ) -> Response:
        """Resume a job; where slots were missed and nothing is said about them, ask first."""
        if missed is None:
            plan = await visitor.send("POST", f"/jobs/{job_id}/resume", {"missed": "all", "dry_run": True})
            if plan["slots"]:
                job = await visitor.get(f"/jobs/{job_id}")
                return _dialog(render(request, "jobs/resume.html", visitor, job=job, plan=plan))
        job = await visitor.send("POST", f"/jobs/{job_id}/resume", {"missed": missed or "none"})
        return render(request, "jobs/row.html", visitor, job=job, said=f"“{job['settings']['title']}” is active.")

    @pages.get("/delete")
    async def ask_to_delete(request: Request, visitor: Signed, job: Selected) -> Response:
        return _dialog(render(request, "jobs/delete.html", visitor, jobs=await _read(visitor, job)))

    @pages.post("/delete")
    async def delete(request: Request, visitor: Signed, job: Chosen, version: Annotated[list[int], Form()]) -> Response:
        """Delete jobs as they were shown; those that can't be deleted are named with the reason."""
        refused: list[Refused] = []
        for job_id, read in zip(job, version, strict=True):
            try:
                await visitor.send("DELETE", f"/jobs/{job_id}", version=read)
            except Refused as error:
                refused.append(error)
        return _told(request, visitor, "Deleted", len(job) - len(refused), refused)

    @pages.post("/run")
    async def run_now(request: Request, visitor: Signed, job: Chosen) -> Response:
        refused: list[Refused] = []
        for job_id in job:
            try:
                await visitor.send("POST", f"/jobs/{job_id}/run")
            except Refused as error:
                refused.append(error)
        return _told(request, visitor, "Requested a run of", len(job) - len(refused), refused)

    return pages


async def _saved(visitor: Visitor, job_id: UUID | None) -> dict[str, Any] | None:
    """The job that the editor has just saved."""
    try:
        return None if job_id is None else await visitor.get(f"/jobs/{job_id}")
    except Refused:
        return None


async def _read(visitor: Visitor, jobs: list[UUID]) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(visitor.get(f"/jobs/{job_id}") for job_id in jobs)))


def _dialog(response: Response) -> Response:
    """Show an answer as a dialog instead of where it was asked from."""
    response.headers["HX-Retarget"], response.headers["HX-Reswap"] = "#dialog", "innerHTML"
    return response


def _told(request: Request, visitor: Visitor, did: str, count: int, refused: list[Refused]) -> Response:
    """Notices about what was done to the selected jobs; the list is read again."""
    said = f"{did} {count} job{'' if count == 1 else 's'}." if count else None
    response = render(request, "parts/outcome.html", visitor, said=said, refused=refused)
    response.headers["HX-Retarget"], response.headers["HX-Reswap"] = "#notices", "beforeend"
    response.headers["HX-Trigger"] = "jobs-changed"
    return response
