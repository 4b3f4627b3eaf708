"""Composition root of console: settings -> HTTP client -> edge."""

from typing import NoReturn

import httpx

from services.console import api
from services.console.config import Settings
from shared import runtime
from shared.http import create_app

SERVICE = "console"


async def application(settings: Settings) -> None:
    """Run the console until it is stopped."""
    owners = {
        **dict.fromkeys(("jobs", "runs", "certificates"), settings.job_api),
        **dict.fromkeys(("files", "sources", "estimates"), settings.exporter),
        **dict.fromkeys(
            ("executions", "artifacts", "slots", "coverage", "statistics", "audit", "stream"), settings.history
        ),
    }
    # Downloads and event streams last as long as they last, and each holds a connection; only connecting is bounded.
    # Idle connections are given up before uvicorn closes them, after 5 s, in the face of the next request.
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2.0)
    async with httpx.AsyncClient(timeout=httpx.Timeout(None, connect=5.0), limits=limits) as client:
        app = create_app("CDDS console", None, {})
        app.include_router(api.router(client, owners))
        await runtime.run_all(settings, runtime.serve_http(app, settings.http_host, settings.http_port))


def main() -> NoReturn:
    """Start the process."""
    runtime.main(SERVICE, Settings, application)
