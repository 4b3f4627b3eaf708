"""Composition root of exporter: settings -> backbone -> store -> edges and workers."""

from typing import NoReturn

from services.exporter import api, consumers
from services.exporter.config import Settings
from services.exporter.loops import Worker
from services.exporter.pipeline import Catalogue, ObjectStore
from services.exporter.pipeline.manifest import SigningKey
from services.exporter.store import Store
from shared import runtime
from shared.service import backbone
from shared.sources import Sources

SERVICE = "exporter"


async def application(settings: Settings) -> None:
    """Run the exporter until it is stopped."""
    sources = Sources.load(settings.sources)
    key = SigningKey.load(settings.signing_key)
    objects = ObjectStore(settings.objects, settings.object_options)
    async with backbone(SERVICE, settings) as service:
        store = Store(service.database, settings.retention)
        consumers.register(service.inbox, store)
        workers = [
            Worker(settings, store, objects, sources, key, service.producer) for _ in range(settings.concurrent_runs)
        ]
        router = api.router(store, objects, key, Catalogue(sources))
        await service.run(*(worker.run() for worker in workers), router=router, problems=api.PROBLEMS)


def main() -> NoReturn:
    """Start the process."""
    runtime.main(SERVICE, Settings, application)
