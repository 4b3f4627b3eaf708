"""One attempt: the export in a thread, and beside it on the event loop its lease, its orders and its progress."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aiokafka.errors import KafkaError

from services.exporter import domain
from services.exporter.config import Settings
from services.exporter.domain import Claim
from services.exporter.pipeline import Result
from services.exporter.store import CancelOrdered, Fenced, Store
from shared.database import is_outage
from shared.events import RunProgressed
from shared.messaging import Producer, Record
from shared.observability import log

PROGRESS: Final = timedelta(seconds=1)
CANCEL_LOOK: Final = timedelta(seconds=1)
"""How often an attempt looks whether it shall end; what it does then takes another 0.1 s to 1 s."""
LEASE_MARGIN: Final = 1 / 6
"""A worker that could not renew stops when this part of its lease is left (5 s of 30 s), so that it never writes
beside its successor."""


class Stop(threading.Event):
    """Tells the exporting thread to end."""


class Attempt:
    """An export in a thread, its lease and its progress beside it on the event loop."""

    def __init__(self, claim: Claim, settings: Settings, store: Store, producer: Producer) -> None:
        self.stop = Stop()
        self._claim = claim
        self._settings = settings
        self._store = store
        self._producer = producer
        self._started = datetime.now(UTC)
        self._counts: tuple[int, int, int | None] = (0, 0, None)

    def note(self, rows: int, bytes_: int, total: int | None) -> None:
        """Take the counts from the exporting thread; one assignment, so that no lock is needed."""
        self._counts = (rows, bytes_, total)

    async def supervise(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, which is stopped when the attempt has to end before.

        Raises Fenced when the lease is lost, CancelOrdered when the run shall end.
        """
        exporting = asyncio.create_task(asyncio.to_thread(work))
        ending: list[asyncio.Task[Any]] = [
            asyncio.create_task(watch) for watch in (self._beat(), self._look_for_orders())
        ]
        telling: asyncio.Task[Any] = asyncio.create_task(self._tell())
        try:
            done, _ = await asyncio.wait({exporting, *ending}, return_when=asyncio.FIRST_COMPLETED)
            for watch in done - {exporting}:
                watch.result()  # neither ends but by raising
            return await exporting
        finally:
            self.stop.set()
            for task in (*ending, telling):
                task.cancel()
            # The thread must have let go of source and store before the run is given away.
            await asyncio.gather(exporting, *ending, telling, return_exceptions=True)

    async def _look_for_orders(self) -> None:
        """Raise CancelOrdered when the run shall end."""
        while True:
            await asyncio.sleep(CANCEL_LOOK.total_seconds())
            try:
                if await self._store.cancel_ordered(self._claim):
                    raise CancelOrdered
            except Exception as error:
                # The lease decides how long we may go on without PostgreSQL.
                if not is_outage(error):
                    raise

    async def _beat(self) -> None:
        """Renew the lease; raises Fenced when it is lost, or may be because PostgreSQL did not answer for too long."""
        loop = asyncio.get_running_loop()
        patience = self._settings.lease.total_seconds() * (1 - LEASE_MARGIN)
        renewed_at = loop.time()
        while True:
            await asyncio.sleep(self._settings.beat.total_seconds())
            try:
                async with asyncio.timeout_at(renewed_at + patience):
                    await self._store.beat(self._claim, self._settings.lease)
                renewed_at = loop.time()
            except Exception as error:
                if not is_outage(error):
                    raise
                log.warning("lease not renewed", error=repr(error))
                if loop.time() >= renewed_at + patience:
                    raise Fenced from error

    async def _tell(self) -> None:
        """Publish progress; a lost tick changes nothing."""
        sequence = 0
        told: tuple[int, int, int | None] | None = None
        while True:
            await asyncio.sleep(PROGRESS.total_seconds())
            if self._counts == told or self._counts[2] is None:
                continue
            told, sequence, now = self._counts, sequence + 1, datetime.now(UTC)
            rows, bytes_, total = told
            event = RunProgressed(
                occurred_at=now,
                tenant=self._claim.request.tenant,
                run_id=self._claim.run_id,
                job_id=self._claim.request.job_id,
                progress=domain.progress(
                    self._claim, sequence, rows=rows, bytes_=bytes_, total=total, started=self._started, now=now
                ),
            )
            with suppress(KafkaError):
                await self._producer.publish([Record.of(event)])
