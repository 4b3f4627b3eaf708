"""Composition root of scheduler: settings -> backbone -> store -> edges."""

from functools import partial
from typing import NoReturn

from services.scheduler import consumers, loops
from services.scheduler.config import Settings
from services.scheduler.store import Store
from shared import runtime
from shared.purge import Purge, kept_for
from shared.service import backbone
from shared.sources import Sources

SERVICE = "scheduler"


async def application(settings: Settings) -> None:
    """Run the scheduler until it is stopped."""
    sources = Sources.load(settings.sources)
    async with backbone(SERVICE, settings) as service:
        store = Store(service.database, sources.settle, remembers_for=settings.record_retention)
        consumers.register(service.inbox, store)
        patience = settings.outage_patience
        await service.run(
            Purge(service.database, settings, store.forgetting(kept_for(settings))).run(),
            loops.request_due_runs(store, patience),
            runtime.measure_every(runtime.MEASURE, partial(loops.measure_lag, store), patience),
        )


def main() -> NoReturn:
    """Start the process."""
    runtime.main(SERVICE, Settings, application)
