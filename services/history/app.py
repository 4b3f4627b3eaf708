"""Composition root of history: settings -> backbone -> store -> edges."""

import gc
from typing import Final, NoReturn

from services.history import api, consumers
from services.history.config import Settings
from services.history.feed import Feed, Limits
from services.history.loops import keeper
from services.history.loops.rebuild import Rebuilder
from services.history.store import Store
from shared import runtime
from shared.service import backbone

SERVICE = "history"
BATCH_RECORDS = 5000
"""The more of a run is in one batch, the fewer versions its rows have; this many events take about 180 ms."""
GARBAGE_THRESHOLD: Final = 250_000
"""More containers than two batches are made of, or each batch is searched for cycles while it grows."""


async def application(settings: Settings) -> None:
    """Run history until it is stopped."""
    gc.set_threshold(GARBAGE_THRESHOLD)
    async with backbone(SERVICE, settings, outbox=False, batch_records=BATCH_RECORDS) as service:
        store = Store(service.database, settings.retention)
        await store.keep_partitions()
        consumers.register(service.inbox, store)
        patience = settings.outage_patience
        feed = Feed(store, patience, Limits(settings.stream_readers))
        loops = (keeper.run(store, patience), feed.run(), Rebuilder(SERVICE, settings, store).run())
        await service.run(*loops, router=api.router(store, feed))


def main() -> NoReturn:
    """Start the process."""
    runtime.main(SERVICE, Settings, application)
