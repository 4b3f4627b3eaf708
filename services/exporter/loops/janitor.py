"""The janitor: what has expired or was withdrawn loses its bytes, and everybody is told."""

import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Final
from uuid import UUID

from services.exporter.domain import Doomed
from services.exporter.loops.threads import in_thread
from services.exporter.pipeline import ObjectStore, StoreFailed
from services.exporter.store import Store
from shared.failpoints import reached
from shared.observability import log
from shared.runtime import every

LOOK: Final = timedelta(seconds=5)
"""How long what was withdrawn may keep its bytes."""
BATCH: Final = 500
"""S3 deletes at most 1,000 objects by one request."""
LEASE: Final = timedelta(minutes=1)
"""When a part comes again whose janitor died, or could not delete it."""


class Janitor:
    """Deletes in batches; any number of replicas share the work."""

    def __init__(self, store: Store, objects: ObjectStore, patience: timedelta, lease: timedelta = LEASE) -> None:
        self._patience = patience
        self._store = store
        self._objects = objects
        self._lease = lease

    async def run(self) -> None:
        """Delete until cancelled."""
        await every(LOOK, self.step, self._patience)

    async def step(self) -> int:
        """Delete a batch; 0 when nothing is to be deleted. What can't be deleted stays for later."""
        doomed = await self._store.take_deletions(BATCH, self._lease)
        if not doomed:
            return 0
        reached("exporter.deletion_marked")
        deleted = await in_thread(partial(self._delete, doomed))
        reached("exporter.objects_deleted")
        if deleted:
            log.info("files deleted", files=await self._store.finish_deletions(deleted))
        return len(doomed)

    def _delete(self, doomed: Sequence[Doomed]) -> list[UUID]:
        """Delete the objects; says of which parts, in the time of the lease."""
        try:
            self._objects.delete([each.object_key for each in doomed])
        except StoreFailed:
            return self._delete_one_by_one(doomed)
        return [each.artifact_id for each in doomed]

    def _delete_one_by_one(self, doomed: Sequence[Doomed]) -> list[UUID]:
        deadline = time.monotonic() + self._lease.total_seconds()
        deleted: list[UUID] = []
        failure: StoreFailed | None = None
        for each in doomed:
            if time.monotonic() > deadline:
                break
            try:
                self._objects.delete([each.object_key])
            except StoreFailed as error:
                failure = error
            else:
                deleted.append(each.artifact_id)
        log.warning("objects not deleted, again later", objects=len(doomed) - len(deleted), error=str(failure))
        return deleted
