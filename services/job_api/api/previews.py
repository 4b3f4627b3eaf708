"""Jobs that nobody has submitted yet: previews and clones."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body
from fastapi.openapi.models import Example

from services.job_api.api.answers import EXAMPLES, DraftAnswer, PreviewAnswer, PreviewBody
from services.job_api.domain import jobs, preview
from services.job_api.store import Store
from shared.http import Reader
from shared.openapi import problems
from shared.sources import Sources

_EXAMPLES: dict[str, Example] = {
    name: {"value": {"settings": written, "zone": "Europe/Berlin"}} for name, written in EXAMPLES.items()
}


def router(store: Store, sources: Sources) -> APIRouter:
    """The routes."""
    api = APIRouter(tags=["jobs"])

    @api.post("/jobs/preview")
    async def preview_job(
        body: Annotated[PreviewBody, Body(openapi_examples=_EXAMPLES)], caller: Reader
    ) -> PreviewAnswer:  # fmt: skip
        """The next ten slots of a job with these settings, the data each exports, and what to beware of."""
        zone = preview.zone_named(body.zone)
        now, certificates = await store.now_and_certificates(caller.tenant)
        missing = jobs.check_draft(body.settings, sources.visible_to(caller.tenant), certificates, now)
        found = preview.preview(body.settings, zone, now, sources.settle(body.settings.source))
        return PreviewAnswer.of(found, zone, certificate_required=missing)

    @api.post("/jobs/{job_id:uuid}/clone", responses=problems(404))
    async def clone_job(job_id: UUID, caller: Reader) -> DraftAnswer:
        """The settings of a job as a draft; nothing is stored, and the key stays with the job."""
        row = await store.job(caller.tenant, job_id)
        return DraftAnswer(settings=row.job.settings.model_copy(update={"key": None}))

    return api
