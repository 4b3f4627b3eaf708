"""Composition root of history: settings -> backbone -> store -> edges."""

from typing import NoReturn

from services.history import api, consumers
from services.history.config import Settings
from services.history.store import Store
from shared import runtime
from shared.service import backbone

SERVICE = "history"


async def application(settings: Settings) -> None:
    """Run history until it is stopped."""
    async with backbone(SERVICE, settings, outbox=False) as service:
        store = Store(service.database)
        consumers.register(service.inbox, store)
        await service.run(router=api.router(store))


def main() -> NoReturn:
    """Start the process."""
    runtime.main(SERVICE, Settings, application)
