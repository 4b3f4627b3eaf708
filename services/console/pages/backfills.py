"""Exporting a past period again: what would be requested, the request, and how far such requests are."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from services.console.domain.forms import backfills
from services.console.domain.forms.faults import Fault, by_input, faults_of
from services.console.domain.forms.form import Form
from services.console.gateway import Refused
from services.console.pages.page import Signed, Visitor, is_partial, render

LISTED: Final = 200
"""As many slots of a plan are shown; their number is told for all."""


async def _sent(request: Request) -> Form:
    sent = await request.form()
    return Form.sent((name, value) for name, value in sent.multi_items() if isinstance(value, str))


Sent = Annotated[Form, Depends(_sent)]


def router() -> APIRouter:
    """The routes."""
    pages = APIRouter(prefix="/jobs/{job_id:uuid}")

    @pages.get("/backfill")
    async def ask(request: Request, visitor: Signed, job_id: UUID) -> Response:
        """The form, filled in by the address as the coverage calendar has it."""
        return await _shown(request, visitor, job_id, backfills.form_of(request.query_params))

    @pages.post("/backfill/plan")
    async def plan(request: Request, visitor: Signed, job_id: UUID, form: Sent) -> Response:
        """The slots that would be requested."""
        wish = backfills.wish_of(form)
        faults: list[Fault] = list(wish.faults)
        slots: list[dict[str, Any]] | None = None
        if not faults:
            try:
                slots = (await visitor.send("POST", f"/jobs/{job_id}/backfill", {**wish.body, "dry_run": True}))[
                    "slots"
                ]
            except Refused as error:
                faults = _faults(error)
        if not is_partial(request):
            return await _shown(request, visitor, job_id, form, faults, slots)
        return render(
            request, "jobs/backfill/plan.html", visitor, slots=slots, faults=faults, listed=LISTED
        )  # fmt: skip

    @pages.post("/backfill")
    async def start(request: Request, visitor: Signed, job_id: UUID, form: Sent) -> Response:
        wish = backfills.wish_of(form)
        if wish.faults:
            return await _shown(request, visitor, job_id, form, wish.faults)
        try:
            await visitor.send("POST", f"/jobs/{job_id}/backfill", wish.body)
        except Refused as error:
            return await _shown(
                request,
                visitor,
                job_id,
                form,
                _faults(error),
                certificate_required=error.slug == "certificate-required",
            )
        return RedirectResponse(f"/jobs/{job_id}/backfill?asked=1", 303)

    @pages.get("/backfills")
    async def progress(request: Request, visitor: Signed, job_id: UUID) -> Response:
        """The list alone, read again while something in it goes on."""
        return render(
            request,
            "jobs/backfill/list.html",
            visitor,
            job_id=job_id,
            backfills=await _listed(visitor, job_id),
            said=None,
        )

    @pages.post("/backfills/{backfill_id:uuid}/cancel")
    async def cancel(request: Request, visitor: Signed, job_id: UUID, backfill_id: UUID) -> Response:
        await visitor.send("POST", f"/jobs/{job_id}/backfills/{backfill_id}/cancel")
        if not is_partial(request):
            return RedirectResponse(f"/jobs/{job_id}/backfill", 303)
        return render(
            request, "jobs/backfill/list.html", visitor, job_id=job_id, backfills=await _listed(visitor, job_id),
            said="The backfill is cancelled, with its runs in progress.",
        )  # fmt: skip

    return pages


async def _listed(visitor: Visitor, job_id: UUID) -> Mapping[str, Any]:
    found: Mapping[str, Any] = await visitor.get(f"/jobs/{job_id}/backfills", {"limit": 50})
    return found


async def _shown(
    request: Request, visitor: Visitor, job_id: UUID, form: Form, faults: Sequence[Fault] = (),
    slots: list[dict[str, Any]] | None = None, *, certificate_required: bool = False,
) -> Response:  # fmt: skip
    job, listed = await asyncio.gather(visitor.get(f"/jobs/{job_id}"), _listed(visitor, job_id))
    return render(
        request, "jobs/backfill.html", visitor, status=422 if faults else 200, job=job, job_id=job_id, form=form,
        faults=faults, errors=by_input(faults), backfills=listed, slots=slots, said=None, listed=LISTED,
        asked="asked" in request.query_params, certificate_required=certificate_required,
    )  # fmt: skip


def _faults(error: Refused) -> list[Fault]:
    if error.status not in (409, 422):
        raise error
    return faults_of(error.errors) or [Fault("/", str(error))]
