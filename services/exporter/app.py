"""Composition root of exporter: settings -> backbone -> store -> edges and workers."""

from datetime import timedelta
from functools import partial
from typing import Final, NoReturn

from services.exporter import api, consumers
from services.exporter.config import Settings
from services.exporter.loops import Janitor, Sweeper, Worker, measure_files, measure_runs
from services.exporter.pipeline import Catalogue, ObjectStore
from services.exporter.pipeline.manifest import SigningKey
from services.exporter.pipeline.rows import variant
from services.exporter.store import Store
from shared import runtime
from shared.observability import log
from shared.purge import Purge, kept_for
from shared.service import backbone
from shared.sources import Sources

SERVICE = "exporter"
MEASURE_FILES: Final = timedelta(minutes=5)
"""Seldom, because all files are read for it."""


async def application(settings: Settings) -> None:
    """Run the exporter until it is stopped."""
    sources = Sources.load(settings.sources)
    key = SigningKey.load(settings.signing_key)
    log.info("rows are encoded", variant=variant())
    objects = ObjectStore(settings.objects, settings.object_options)
    async with backbone(SERVICE, settings) as service:
        store = Store(service.database, settings.retention, settings.retention_by_tenant)
        consumers.register(service.inbox, store)
        worker = Worker(settings, store, objects, sources, key, service.producer)
        patience = settings.outage_patience
        loops = (worker, Janitor(store, objects, patience), Sweeper(store, objects, patience, settings.sweep))
        router = api.router(store, objects, key, Catalogue(sources))
        await service.run(
            Purge(service.database, settings, store.forgetting(kept_for(settings))).run(),
            *(loop.run() for loop in loops),
            runtime.measure_every(runtime.MEASURE, partial(measure_runs, store), patience),
            runtime.measure_every(MEASURE_FILES, partial(measure_files, store), patience),
            router=router,
            problems=api.PROBLEMS,
            drain=worker.drain,
        )


def main() -> NoReturn:
    """Start the process."""
    runtime.main(SERVICE, Settings, application)
