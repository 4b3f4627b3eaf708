"""The HTTP edge of exporter: files and the keys that prove where they come from, and what can be exported."""

from fastapi import APIRouter

from services.exporter.api import files, sources
from services.exporter.api.problems import PROBLEMS
from services.exporter.pipeline import Catalogue, ObjectStore
from services.exporter.pipeline.manifest import SigningKey
from services.exporter.store import Store

__all__ = ["PROBLEMS", "router"]


def router(store: Store, objects: ObjectStore, key: SigningKey, catalogue: Catalogue) -> APIRouter:
    """All routes."""
    api = APIRouter(prefix="/api/v1")
    api.include_router(files.router(store, objects, key))
    api.include_router(sources.router(catalogue))
    return api
