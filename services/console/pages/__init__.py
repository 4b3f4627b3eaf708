"""The web pages: each module has the routes of one of them."""

from fastapi import APIRouter, FastAPI

from services.console.feed import Hub
from services.console.pages import (
    artifacts,
    backfills,
    editor,
    failures,
    history,
    jobs,
    live,
    overview,
    preferences,
    sessions,
)
from services.console.pages.page import Console
from services.console.pages.security import Guard
from services.console.pages.templates import STATIC, Files


def install(app: FastAPI, console: Console, hub: Hub) -> None:
    """Add pages, their files and their rules to an application."""
    app.state.console = console
    app.mount("/static", Files(directory=STATIC), name="static")
    pages = APIRouter(include_in_schema=False)
    parts = (
        sessions.router(), overview.router(), jobs.router(), editor.router(), backfills.router(), history.router(),
        artifacts.router(), preferences.router(), live.router(hub),
    )  # fmt: skip
    for part in parts:
        pages.include_router(part)
    app.include_router(pages)
    app.add_middleware(sessions.Renewal)
    app.add_middleware(Guard, public_url=console.public_url)
    failures.install(app)
