"""The HTTP edge of job_api: commands on jobs, runs and certificates, under `/api/v1`."""

from fastapi import APIRouter

from services.job_api.api import certificates, jobs, previews, runs
from services.job_api.api.problems import PROBLEMS
from services.job_api.store import Store
from shared.sources import Sources

__all__ = ["PROBLEMS", "router"]


def router(store: Store, sources: Sources) -> APIRouter:
    """All routes."""
    api = APIRouter(prefix="/api/v1")
    for part in (previews.router(store, sources), jobs.router(store, sources), runs.router(store, sources)):
        api.include_router(part)
    api.include_router(certificates.router(store))
    return api
