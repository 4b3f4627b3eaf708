"""Composition root of job_api: settings -> backbone -> store -> edges."""

from functools import partial
from typing import NoReturn

from services.job_api import api, consumers, loops
from services.job_api.config import Settings
from services.job_api.store import NEEDED_EVENTS, Store
from shared import runtime
from shared.purge import Purge, kept_for
from shared.service import backbone
from shared.sources import Sources

SERVICE = "job_api"


async def application(settings: Settings) -> None:
    """Run job_api until it is stopped."""
    sources = Sources.load(settings.sources)
    async with backbone(SERVICE, settings) as service:
        store = Store(service.database)
        consumers.register(service.inbox, store)
        patience = settings.outage_patience
        await service.run(
            Purge(service.database, settings, store.forgetting(kept_for(settings)), NEEDED_EVENTS).run(),
            runtime.measure_every(runtime.MEASURE, partial(loops.measure_certificates, store), patience),
            router=api.router(store, sources),
            problems=api.PROBLEMS,
        )


def main() -> NoReturn:
    """Start the process."""
    runtime.main(SERVICE, Settings, application)
