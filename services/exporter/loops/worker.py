"""The worker: claim a run, have it exported, and write down how it ended."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from structlog.contextvars import bound_contextvars

from services.exporter.config import Settings
from services.exporter.domain import Claim
from services.exporter.loops.answer import Unanswerable, asked, failure_of, outcome_of, sealing
from services.exporter.loops.attempt import Attempt
from services.exporter.pipeline import Encryption, ObjectStore, PipelineError, StoreFailed, export
from services.exporter.pipeline.manifest import SigningKey
from services.exporter.store import CancelOrdered, Fenced, Store
from shared.database import is_outage
from shared.messaging import Producer
from shared.observability import log
from shared.runtime import every
from shared.sources import Sources

LOOK: Final = timedelta(milliseconds=500)


class Worker:
    """Runs attempts, one after the other; a process has several."""

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

    async def run(self) -> None:
        """Work until cancelled; the run in hand then goes back to the queue."""
        await every(LOOK, self.step, self._settings.outage_patience)

    async def step(self) -> int:
        """Attempt one run; 0 when none is due."""
        abandoned: list[Claim] = []
        claim = await self._store.claim_run(self._settings.worker, self._settings.lease, abandoned)
        for lost in abandoned:
            log.warning("run ended: its worker was lost", run_id=str(lost.run_id), tenant=lost.request.tenant)
            await asyncio.to_thread(self._remove, lost.prefix, *lost.dead_prefixes)
        if claim is None:
            return len(abandoned)
        with bound_contextvars(tenant=claim.request.tenant, run_id=str(claim.run_id), attempt=claim.attempt):
            log.info("attempt started", job_id=str(claim.request.job_id))
            with suppress(Fenced):
                await self._attempt(claim)
                return 1
            log.warning("attempt fenced: somebody else owns the run")
        return 1

    async def _attempt(self, claim: Claim) -> None:
        attempt = Attempt(claim, self._settings, self._store, self._producer)
        try:
            await asyncio.to_thread(self._remove, *claim.dead_prefixes)
            query, output = asked(claim, self._sources, self._settings.masking_key)
            recipients = [] if output.encryption is Encryption.NONE else await self._recipients(claim)
            result = await attempt.supervise(
                lambda: export(
                    query, output, recipients, self._objects, claim.prefix, attempt.note, attempt.stop.is_set
                )
            )
            await self._store.succeed(claim, outcome_of(result), sealing(claim, result, recipients, self._key))
        except asyncio.CancelledError:
            with suppress(Fenced):
                await self._store.hand_over(claim)
                await self._discard(claim)
            raise
        except Fenced:
            # After a lost reply to our own commit we look fenced, too: what was published must stay.
            if not await self._store.published(claim):
                await asyncio.to_thread(self._remove, claim.prefix)
            raise
        except CancelOrdered:
            await self._cancel(claim)
        except Exception as error:
            await self._fail(claim, error)
        else:
            log.info("run succeeded", rows=result.rows, parts=len(result.parts))

    async def _cancel(self, claim: Claim) -> None:
        try:
            # The thread may have ended just before it was told to stop, and then it has left all its parts.
            await asyncio.to_thread(self._remove, claim.prefix)
            await self._store.cancel(claim)
        except PipelineError as error:
            await self._fail(claim, error)
        else:
            log.info("run cancelled")

    async def _fail(self, claim: Claim, error: Exception) -> None:
        if is_outage(error):
            raise error
        failure = failure_of(error)
        state = await self._store.fail_attempt(claim, failure)
        log.warning("attempt failed", reason=failure.reason, message=failure.message, run=state, exc_info=error)
        await self._discard(claim)

    async def _discard(self, claim: Claim) -> None:
        """Remove what an attempt that is over may have left when it ended after its last part; the run may be, too."""
        try:
            await asyncio.to_thread(self._remove, claim.prefix)
        except StoreFailed as error:
            log.warning("bytes left behind", prefix=claim.prefix, error=str(error))

    def _remove(self, *prefixes: str) -> None:
        for prefix in prefixes:
            self._objects.delete_prefix(prefix)

    async def _recipients(self, claim: Claim) -> list[x509.Certificate]:
        now = datetime.now(UTC)
        known = await self._store.recipients(claim.request.tenant, claim.request.question.recipients)
        loaded = [x509.load_pem_x509_certificate(pem.encode()) for pem in known]
        valid = [c for c in loaded if c.not_valid_before_utc <= now <= c.not_valid_after_utc]
        if not valid:
            raise Unanswerable("certificate_required", "The tenant has no valid certificate to encrypt for: add one.")
        return valid
