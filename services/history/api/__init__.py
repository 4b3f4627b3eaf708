"""The HTTP edge of history: queries, under `/api/v1`, and the stream of events."""

from fastapi import APIRouter

from services.history.api import artifacts, audit, coverage, executions, slots, statistics, stream
from services.history.feed import Feed
from services.history.store import Store


def router(store: Store, feed: Feed) -> APIRouter:
    """The routes under `/api/v1`."""
    api = APIRouter(prefix="/api/v1")
    for part in (executions, artifacts, slots, coverage, statistics, audit):
        api.include_router(part.router(store))
    api.include_router(stream.router(feed))
    return api
