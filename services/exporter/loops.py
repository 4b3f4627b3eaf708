"""The workers: claim a run, export it in a thread, beat while it runs, and write down how it ended."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Final

from aiokafka.errors import KafkaError
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from structlog.contextvars import bound_contextvars

from services.exporter import domain
from services.exporter.config import Settings
from services.exporter.domain import Claim, Failure, Outcome, StoredFile
from services.exporter.pipeline import (
    Cancelled,
    ObjectStore,
    Output,
    PipelineError,
    Query,
    Result,
    RowTooLarge,
    SourceRefused,
    export,
)
from services.exporter.pipeline.manifest import DataInterval, Manifest, SigningKey, document
from services.exporter.store import Fenced, Store
from shared.database import is_outage
from shared.events import RunProgressed
from shared.messaging import Producer, Record
from shared.observability import log
from shared.runtime import every
from shared.sources import Sources, SourcesInvalid

LOOK: Final = timedelta(milliseconds=500)
PROGRESS: Final = timedelta(seconds=1)
LEASE_MARGIN: Final = 1 / 6
"""A worker that could not renew stops when this part of its lease is left (5 s of 30 s), so that it never writes
beside its successor."""


class Stop(threading.Event):
    """Tells the exporting thread to end."""


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
            log.warning("run failed: its last attempt was lost", run_id=str(lost.run_id), tenant=lost.request.tenant)
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
            recipients = await self._recipients(claim)
            query, output = self._question(claim)
            await asyncio.to_thread(self._remove, *claim.dead_prefixes)
            result = await attempt.supervise(
                lambda: export(
                    query, output, recipients, self._objects, claim.prefix, attempt.note, attempt.stop.is_set
                )
            )
            await self._store.succeed(claim, _outcome(result), self._manifest(claim, result, recipients))
        except asyncio.CancelledError:
            with suppress(Fenced):
                await self._store.hand_over(claim)
            raise
        except Fenced:
            # After a lost reply to our own commit we look fenced, too: what was published must stay.
            if not await self._store.published(claim):
                await asyncio.to_thread(self._remove, claim.prefix)
            raise
        except Exception as error:
            if is_outage(error):
                raise
            failure = _failure(error)
            final = await self._store.fail_attempt(claim, failure)
            log.warning("attempt failed", reason=failure.reason, message=failure.message, final=final, exc_info=error)
        else:
            log.info("run succeeded", rows=result.rows, parts=len(result.parts))

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

    def _question(self, claim: Claim) -> tuple[Query, Output]:
        request = claim.request
        question = request.question
        source = self._sources.visible_to(request.tenant).get(question.source)
        data_type = source.types.get(question.type) if source else None
        if source is None or data_type is None:
            raise Unanswerable(
                "source_unknown",
                f"The operator's sources have no {question.source}/{question.type} for this tenant any more.",
            )
        query = Query(
            dsn=source.resolve_dsn(),
            table=data_type.table,
            columns=question.fields,
            id_column=data_type.id_column,
            time_column=data_type.time_column,
            tenant_column=data_type.tenant_column,
            tenant=request.tenant,
            media_type_column=data_type.media_type_column,
            media_types=None if question.media_types == "all" else question.media_types,
            interval_from=question.interval_from,
            interval_to=question.interval_to,
        )
        output = Output(
            run=str(claim.run_id),
            noun=data_type.title,
            split_bytes=question.split_bytes,
            modified_at=question.interval_to,
        )
        return query, output

    def _manifest(
        self, claim: Claim, result: Result, recipients: Sequence[x509.Certificate]
    ) -> Callable[[datetime, str | None], bytes]:
        request = claim.request
        question = request.question

        def seal(now: datetime, previous: str | None) -> bytes:
            manifest = Manifest(
                run=str(claim.run_id),
                job=str(request.job_id),
                tenant=request.tenant,
                slot_key=request.slot.key,
                attempt=claim.attempt,
                source=question.source,
                type=question.type,
                data_interval=DataInterval(question.interval_from, question.interval_to),
                snapshot=result.snapshot,
                rows=result.rows,
                parts=result.parts,
                recipients=[c.fingerprint(hashes.SHA256()).hex() for c in recipients],
                format=question.format,
                encryption=question.encryption,
                software_version=version("cdds"),
                created_at=now,
                previous_manifest_sha256=previous,
            )
            return self._key.sign(document(manifest))

        return seal


class Unanswerable(Exception):
    """The run can't be answered, and trying again would not change that."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


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
        """The result of `work`; it is stopped when the lease is lost, which raises Fenced, or when we are cancelled."""
        exporting = asyncio.create_task(asyncio.to_thread(work))
        beating = asyncio.create_task(self._beat())
        telling = asyncio.create_task(self._tell())
        try:
            await asyncio.wait({exporting, beating}, return_when=asyncio.FIRST_COMPLETED)
            if not exporting.done():
                beating.result()  # only ends by losing the lease
            return await exporting
        finally:
            self.stop.set()
            beating.cancel()
            telling.cancel()
            # The thread must have let go of source and store before the run is given away.
            await asyncio.gather(exporting, beating, telling, return_exceptions=True)

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


def _outcome(result: Result) -> Outcome:
    files = tuple(
        StoredFile(number, part.key, part.name, part.stored_bytes, part.rows, part.stored_sha256)
        for number, part in enumerate(result.parts, start=1)
    )
    return Outcome(result.snapshot, result.rows, result.bytes, files)


def _failure(error: Exception) -> Failure:
    match error:
        case Unanswerable():
            return Failure(error.reason, str(error), repeatable=False)
        case SourceRefused():
            return Failure("source_refused", str(error), repeatable=False)
        case RowTooLarge():
            return Failure("row_too_large", str(error), repeatable=False)
        case SourcesInvalid():
            return Failure("source_unconfigured", str(error), repeatable=True)
        case Cancelled():
            return Failure("stopped", str(error), repeatable=True)
        case PipelineError():
            return Failure("export_failed", str(error), repeatable=True)
        case _:
            # A fault of ours; the log has it, people get no internals.
            return Failure("internal", "The export failed on our side; the log has the details.", repeatable=True)
