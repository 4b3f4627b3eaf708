"""One attempt: the work, and beside it on the event loop its lease, its orders and its progress."""

import asyncio
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from aiokafka.errors import KafkaError

from services.exporter import domain, metrics
from services.exporter.config import Settings
from services.exporter.domain import Claim, Counts
from services.exporter.store import CancelOrdered, Fenced, Store
from shared.database import is_outage
from shared.events import RunProgressed
from shared.messaging import Producer, Record
from shared.observability import log
from shared.tracing import tracer

T = TypeVar("T")

PROGRESS: Final = timedelta(seconds=1)
CANCEL_LOOK: Final = timedelta(seconds=1)
"""How often an attempt looks whether it shall end."""
LET_GO: Final = timedelta(seconds=0.75)
"""How long a thread that was told to stop is waited for. Mostly it takes 0.1 s to 0.3 s; one that waits for a silent
source or store is left behind, so that an order is followed within two seconds whatever the run waits for."""
LEASE_MARGIN: Final = 1 / 6
"""A worker that could not renew stops when this part of its lease is left (5 s of 30 s), so that it never writes
beside its successor."""


class Stop(threading.Event):
    """Tells the exporting thread to end."""


class Attempt:
    """A claimed run while it is worked on.

    Beats need no thread of their own: what exports here lets the interpreter go every 5 ms or sooner. Beside two
    exports at full speed on two cores a beat took 2 ms, at worst 0.1 s; beside eight 3 ms, at worst 0.3 s.
    """

    def __init__(self, claim: Claim, settings: Settings, store: Store, producer: Producer, claimed_at: float) -> None:
        self.stop = Stop()
        self._claim = claim
        self._settings = settings
        self._store = store
        self._producer = producer
        self._renewed_at = claimed_at
        """When the last good renewal was asked for, by the event loop's clock: the lease is no older than that."""
        self._first: Counts | None = None
        self._last: Counts | None = None
        source = claim.request.question.source
        self._rows = metrics.ROWS.labels(source)
        self._bytes = metrics.BYTES.labels(source)

    def note(self, rows: int, bytes_: int, total: int | None) -> None:
        """Take the counts from the exporting thread; single assignments, so that no lock is needed."""
        counts = Counts(rows, bytes_, total, time.monotonic())
        if rows and self._first is None:
            self._first = counts  # what came before, as the source's sort, says nothing about the rate
        before = self._last
        self._rows.inc(rows - (before.rows if before else 0))
        self._bytes.inc(bytes_ - (before.bytes if before else 0))
        self._last = counts

    async def supervise(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is stopped when the attempt has to end before.

        Raises Fenced when the lease is lost, CancelOrdered when the run shall end.
        """
        working = asyncio.create_task(work)
        with tracer().quiet():
            ending: list[asyncio.Task[Any]] = [
                asyncio.create_task(watch) for watch in (self._beat(), self._look_for_orders())
            ]
            telling: asyncio.Task[Any] = asyncio.create_task(self._tell())
        try:
            done, _ = await asyncio.wait({working, *ending}, return_when=asyncio.FIRST_COMPLETED)
            for watch in done - {working}:
                watch.result()  # neither ends but by raising
            return await working
        finally:
            self.stop.set()
            # A thread that hangs lets go of nothing anyway; it has its own prefix, and empties it when it ends.
            await asyncio.wait({working}, timeout=LET_GO.total_seconds())
            tasks = (working, *ending, telling)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

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
        while True:
            await asyncio.sleep(self._settings.beat.total_seconds())
            asked_at = loop.time()
            try:
                async with asyncio.timeout_at(self._renewed_at + patience):
                    await self._store.beat(self._claim, self._settings.lease)
                self._renewed_at = asked_at
            except Exception as error:
                if not is_outage(error):
                    raise
                log.warning("lease not renewed", error=repr(error))
                if loop.time() >= self._renewed_at + patience:
                    raise Fenced from error

    async def _tell(self) -> None:
        """Publish progress; a lost tick changes nothing."""
        sequence = 0
        told: Counts | None = None
        while True:
            await asyncio.sleep(PROGRESS.total_seconds())
            last = self._last
            if last is None or last is told or last.total is None:
                continue
            told, sequence = last, sequence + 1
            event = RunProgressed(
                occurred_at=datetime.now(UTC),
                tenant=self._claim.request.tenant,
                run_id=self._claim.run_id,
                job_id=self._claim.request.job_id,
                requested_at=self._claim.request.occurred_at,
                progress=domain.progress(self._claim, sequence, self._first or last, last),
            )
            with suppress(KafkaError):
                await self._producer.publish([Record.of(event)])
