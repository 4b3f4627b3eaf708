"""The sweeper: bytes of attempts that nobody will come back for are found in the object store and deleted."""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Final
from uuid import UUID

from services.exporter.domain import AttemptBytes
from services.exporter.loops.threads import in_thread
from services.exporter.pipeline import ObjectStore, StoreFailed
from services.exporter.pipeline.storage import Prefix
from services.exporter.store import Store
from shared.observability import log
from shared.runtime import every

LOOK: Final = timedelta(minutes=1)
"""How often it is asked whether the time has come."""
BATCH: Final = 500
AGE: Final = timedelta(hours=1)
"""Younger bytes are left to the worker that wrote them: it removes them itself unless it died."""
AGE_OF_UNKNOWN: Final = timedelta(days=7)
"""A database restored from a backup does not know the newest runs; as long as Kafka keeps their requests (7 days),
the database, or the runs in it, can be brought back."""


class Sweeper:
    """Looks through the store, one replica at a time."""

    def __init__(self, store: Store, objects: ObjectStore, patience: timedelta, interval: timedelta) -> None:
        self._patience = patience
        self._interval = interval
        self._store = store
        self._objects = objects

    async def run(self) -> None:
        """Sweep until cancelled, whenever it is due."""
        await every(LOOK, self.step, self._patience)

    async def step(self) -> int:
        """Look through the whole store if it is due; says how many attempts lost their bytes."""
        async with self._store.sweep(self._interval) as due:
            if not due:
                return 0
            try:
                return await self._look_through()
            except StoreFailed as error:
                log.warning("object store not looked through", error=str(error))
                return 0

    async def _look_through(self) -> int:
        prefixes = self._objects.prefixes()
        looked_at = removed = 0
        while batch := await in_thread(lambda: list(islice(prefixes, BATCH))):
            looked_at += len(batch)
            for orphan in await self._orphans(*_attempts(batch)):
                # Asked again: deleting the ones before it has taken its time.
                if await self._orphans(orphan) and await in_thread(partial(self._remove, orphan)):
                    removed += 1
        log.info("object store looked through", attempts=looked_at, removed=removed)
        return removed

    async def _orphans(self, *found: AttemptBytes) -> list[AttemptBytes]:
        return await self._store.orphans(found, AGE, AGE_OF_UNKNOWN)

    def _remove(self, orphan: AttemptBytes) -> bool:
        try:
            self._objects.delete_prefix(orphan.prefix)
        except StoreFailed as error:
            log.warning("orphan not removed, again later", prefix=orphan.prefix, error=str(error))
            return False
        log.info("orphan removed", prefix=orphan.prefix, newest=orphan.newest.isoformat())
        return True


def _attempts(prefixes: list[Prefix]) -> Iterator[AttemptBytes]:
    """What a worker has written; whatever else lies in the store was put there by somebody else, and stays."""
    for prefix in prefixes:
        try:
            found = AttemptBytes(UUID(prefix.run), int(prefix.attempt), prefix.newest)
        except ValueError:
            continue
        if found.prefix == f"{prefix.run}/{prefix.attempt}" and 0 < found.attempt < 2**31:
            yield found
