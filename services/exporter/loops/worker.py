"""The worker: claim a run, have it exported, and write down how it ended."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from cryptography import x509
from structlog.contextvars import bound_contextvars

from services.exporter import domain, metrics
from services.exporter.config import Settings
from services.exporter.domain import Claim, Lane
from services.exporter.loops.answer import asked, failure_of, outcome_of, sealing, usable
from services.exporter.loops.attempt import Attempt
from services.exporter.loops.threads import in_thread
from services.exporter.pipeline import Encryption, ObjectStore, Result, StoreFailed, export
from services.exporter.pipeline.manifest import SigningKey
from services.exporter.store import CancelOrdered, Fenced, Store
from shared.database import is_outage, outlast
from shared.events import RunState
from shared.messaging import Producer
from shared.observability import log
from shared.sources import Sources
from shared.tracing import tracer

T = TypeVar("T")

LOOK: Final = timedelta(milliseconds=500)
HAND_OVER: Final = timedelta(seconds=3)
"""How long a stopping process tries to give a run back; the lease and the next attempt do the rest."""


class Worker:
    """A process's share of the work: several slots, each of which attempts one run after the other."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        objects: ObjectStore,
        sources: Sources,
        key: SigningKey,
        producer: Producer,
    ) -> None:
        self._settings = settings
        self._store = store
        self._objects = objects
        self._sources = sources
        self._key = key
        self._producer = producer
        self._limits = {
            name: source.max_parallel for name, source in sources.sources.items() if source.max_parallel is not None
        }
        self._claims = 0
        self._backfills = 0
        self._looking = asyncio.Lock()
        self._draining = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Work until drained, or until cancelled; the runs in hand then go back to the queue."""
        async with asyncio.TaskGroup() as slots:
            for _ in range(self._settings.concurrent_runs):
                slots.create_task(self._slot())
        self._ended.set()

    async def drain(self) -> None:
        """Claim nothing more; returns when the runs in hand have ended, or when their grace is over."""
        self._draining.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.grace.total_seconds()):
                await self._ended.wait()

    async def step(self) -> int:
        """Attempt one run; 0 when none is due."""
        async with self._looking:
            claimed = await self._claim()
        if claimed is None:
            return 0
        await self._work(*claimed)
        return 1

    async def _slot(self) -> None:
        while (claimed := await self._next()) is not None:
            await self._work(*claimed)

    async def _next(self) -> tuple[Claim, float] | None:
        """The next claim, as soon as there is one; None when none shall be made any more."""
        async with self._looking:  # one slot looks for all of them
            while not self._draining.is_set():
                if claimed := await outlast(self._claim, self._settings.outage_patience):
                    return claimed
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK.total_seconds()):
                        await self._draining.wait()
        return None

    async def _claim(self) -> tuple[Claim, float] | None:
        """A run for this process, and when it was asked for by the event loop's clock."""
        lanes = domain.lanes_for(self._claims, backfills=self._backfills, slots=self._settings.concurrent_runs)
        abandoned: list[Claim] = []
        asked_at = asyncio.get_running_loop().time()
        claim = await self._store.claim_run(
            self._settings.worker, self._settings.lease, abandoned, lanes=lanes, limits=self._limits
        )
        if claim is not None:
            self._claims += 1
            self._backfills += claim.lane is Lane.BACKFILL
        for lost in abandoned:
            log.warning("run ended: its worker was lost", run_id=str(lost.run_id), tenant=lost.request.tenant)
            await self._discard(lost.prefix, *lost.dead_prefixes)
        return None if claim is None else (claim, asked_at)

    async def _work(self, claim: Claim, claimed_at: float) -> None:
        ids = {"tenant": claim.request.tenant, "run_id": str(claim.run_id), "job_id": str(claim.request.job_id)}
        question = claim.request.question
        with (
            bound_contextvars(**ids, attempt=claim.attempt),
            tracer().span(
                "attempt", claim.trace, **ids, attempt=claim.attempt, lane=claim.lane, source=question.source,
                type=question.type,
            ),
        ):  # fmt: skip
            log.info("attempt started", lane=claim.lane)
            try:
                attempt = Attempt(claim, self._settings, self._store, self._producer, claimed_at)
                state = await self._attempt(claim, attempt)
                metrics.ATTEMPT_DURATION.labels(state).observe(asyncio.get_running_loop().time() - claimed_at)
            except Fenced:
                log.warning("attempt fenced: somebody else owns the run")
            except Exception as error:
                if not is_outage(error):
                    raise
                log.warning("run left to its lease", error=repr(error))
            finally:
                self._backfills -= claim.lane is Lane.BACKFILL

    async def _attempt(self, claim: Claim, attempt: Attempt) -> RunState:
        """Make the attempt, and say what it made of the run."""
        try:
            result, recipients = await attempt.supervise(self._export(claim, attempt))
            seal = sealing(claim, result, recipients, self._key)
            await self._outlasting(lambda: self._store.succeed(claim, outcome_of(result), seal))
        except asyncio.CancelledError:
            await self._hand_over(claim)
            raise
        except Fenced:
            # After a lost reply to our own commit we look fenced, too: what was published must stay.
            if not await self._store.published(claim):
                await self._discard(claim.prefix)
            raise
        except CancelOrdered:
            await self._outlasting(lambda: self._store.cancel(claim))
            log.info("run cancelled")
            await self._discard(claim.prefix)
            return RunState.CANCELLED
        except Exception as error:
            if is_outage(error):
                raise
            failure = failure_of(error)
            state = await self._outlasting(lambda: self._store.fail_attempt(claim, failure))
            metrics.FAILURES.labels(failure.reason).inc()
            log.warning("attempt failed", reason=failure.reason, message=failure.message, run=state, exc_info=error)
            await self._discard(claim.prefix)
            return state
        metrics.STORED_BYTES.inc(sum(part.stored_bytes for part in result.parts))
        log.info("run succeeded", rows=result.rows, parts=len(result.parts))
        return RunState.SUCCEEDED

    async def _export(self, claim: Claim, attempt: Attempt) -> tuple[Result, list[x509.Certificate]]:
        # Its own place, too: a database that was restored from a backup may give an attempt out again.
        await in_thread(lambda: self._remove(*claim.dead_prefixes, claim.prefix))
        query, output = asked(claim, self._sources, self._settings.masking_key)
        encrypted = output.encryption is not Encryption.NONE
        recipients = await self._outlasting(lambda: self._recipients(claim)) if encrypted else []
        result = await in_thread(
            lambda: export(query, output, recipients, self._objects, claim.prefix, attempt.note, attempt.stop.is_set),
            unwanted=lambda: self._clear(claim.prefix),
        )
        return result, recipients

    async def _hand_over(self, claim: Claim) -> None:
        try:
            async with asyncio.timeout(HAND_OVER.total_seconds()):
                await self._store.hand_over(claim)
                await self._discard(claim.prefix)
        except Fenced:
            log.warning("attempt fenced: somebody else owns the run")
        except Exception as error:
            if not is_outage(error):
                raise
            log.warning("run left to its lease", error=repr(error))

    async def _outlasting(self, call: Callable[[], Awaitable[T]]) -> T:
        """What the store answers, through an outage as long as a lease: then the run may be somebody else's."""
        return await outlast(call, self._settings.lease)

    async def _discard(self, *prefixes: str) -> None:
        """Remove what an attempt that is over may have left when it ended after its last part; the run may be, too."""
        await in_thread(lambda: self._clear(*prefixes))

    def _clear(self, *prefixes: str) -> None:
        try:
            self._remove(*prefixes)
        except StoreFailed as error:
            log.warning("bytes left behind", prefixes=prefixes, error=str(error))

    def _remove(self, *prefixes: str) -> None:
        for prefix in prefixes:
            self._objects.delete_prefix(prefix)

    async def _recipients(self, claim: Claim) -> list[x509.Certificate]:
        known = await self._store.recipients(claim.request.tenant, claim.request.question.recipients)
        return usable(known, datetime.now(UTC))
