"""Composition root of console: settings -> HTTP client -> pages and the API that is forwarded."""

from typing import NoReturn

import httpx

from services.console import api, pages
from services.console.config import Settings
from services.console.domain.sessions import Sealer
from services.console.feed import Hub
from services.console.gateway import Gateway
from services.console.identity import Client, Identity
from services.console.pages.live import Fragments
from services.console.pages.page import Console
from shared import runtime
from shared.auth import Authenticator
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
        console = Console(
            gateway=Gateway(client, owners),
            sealer=Sealer(settings.session_keys.get_secret_value().split(",")),
            authenticator=Authenticator(settings),
            public_url=settings.public_url,
            identity=_identity(settings),
        )
        live = Hub(console.gateway, Fragments(console.templates))
        pages.install(app, console, live)
        await runtime.run_all(settings, live.run(), runtime.serve_http(app, settings.http_host, settings.http_port))


def _identity(settings: Settings) -> Identity | None:
    if settings.client_id is None or settings.client_secret is None:
        return None
    return Identity(
        Client(
            issuer=settings.auth_issuer,
            client_id=settings.client_id,
            client_secret=settings.client_secret.get_secret_value(),
            redirect=f"{settings.public_url}/sign-in/back",
            scope=settings.scope.split(),
            parameters=settings.authorize_parameters,
        )
    )


def main() -> NoReturn:
    """Start the process."""
    runtime.main(SERVICE, Settings, application)
