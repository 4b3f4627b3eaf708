"""What can be exported, and how much of it there is."""

from datetime import UTC, datetime

from fastapi import APIRouter

from services.exporter.api.answers import EstimateAnswer, SourceAnswer, SourcesAnswer
from services.exporter.pipeline import Catalogue, Estimator
from shared.http import Reader
from shared.jobs import JobSettings


def router(catalogue: Catalogue) -> APIRouter:
    """The routes of sources and estimates."""
    api = APIRouter(tags=["sources"])
    estimator = Estimator(catalogue)

    @api.get("/sources")
    async def list_sources(caller: Reader) -> SourcesAnswer:
        """What the caller's tenant may export, with the fields as the sources have them now."""
        return SourcesAnswer(items=[SourceAnswer.of(source) for source in await catalogue.listed(caller.tenant)])

    @api.post("/estimates")
    async def estimate_job(settings: JobSettings, caller: Reader) -> EstimateAnswer:
        """The next slot of a job with these settings, and how much its run would export; nothing is stored."""
        return EstimateAnswer.of(await estimator.estimate(settings, caller.tenant, datetime.now(UTC)))

    return api
