"""What whole attempts leave in the counters."""

import asyncio
from pathlib import Path

from cryptography import x509

from services.exporter.config import Settings
from services.exporter.loops import Worker
from services.exporter.pipeline.manifest import SigningKey
from services.exporter.store import Store
from shared.database import Database
from shared.sources import Sources
from tests.exporter.loops.working import Held, Ticks, stored_files
from tests.exporter.runs import cancel_order, published, requested
from tests.shared.metrics import Moved


async def test_a_run_that_succeeds_moves_rows_bytes_and_its_duration(
    worker: Worker, store: Store, database: Database, tmp_path: Path, certificate: x509.Certificate
) -> None:
    moved = Moved()
    request = requested()
    await store.queue_run(request)

    assert await worker.step() == 1

    [file] = stored_files(tmp_path)
    succeeded = (await published(database, request.run_id))[-1]
    assert moved["cdds_exported_rows_total", "ucs"] == succeeded.rows == 10
    assert moved["cdds_exported_bytes_total", "ucs"] == succeeded.bytes
    assert moved["cdds_artifact_stored_bytes_total", ""] == (tmp_path / "objects" / file).stat().st_size
    assert moved["cdds_attempt_duration_seconds_count", "succeeded"] == 1
    assert moved["cdds_attempt_duration_seconds_sum", "succeeded"] > 0


async def test_each_failed_attempt_counts_by_its_reason_and_by_what_becomes_of_the_run(
    worker: Worker, store: Store, certificate: x509.Certificate
) -> None:
    moved = Moved()
    for question in ({"type": "gone"}, {"source": "nowhere"}):
        await store.queue_run(requested(**question))
        assert await worker.step() == 1
    assert moved["cdds_attempt_failures_total", "source_refused"] == 1
    assert moved["cdds_attempt_failures_total", "source_unknown"] == 1
    assert moved["cdds_attempt_duration_seconds_count", "failed"] == 2
    assert moved["cdds_attempt_duration_seconds_count", "succeeded"] == 0


async def test_an_attempt_that_is_followed_by_another_one_is_no_failed_run(
    worker: Worker, store: Store, tmp_path: Path, certificate: x509.Certificate
) -> None:
    moved = Moved()
    (tmp_path / "ucs.dsn").write_text("postgresql://127.0.0.1:1/none")
    await store.queue_run(requested(attempts=2))
    assert [await worker.step() for _ in range(3)] == [1, 1, 0]
    assert moved["cdds_attempt_failures_total", "source_unavailable"] == 2
    assert moved["cdds_attempt_duration_seconds_count", "queued"] == 1
    assert moved["cdds_attempt_duration_seconds_count", "failed"] == 1


async def test_a_cancelled_run_is_no_failure(
    settings: Settings,
    store: Store,
    sources: Sources,
    signing_key: SigningKey,
    ticks: Ticks,
    held: Held,
    certificate: x509.Certificate,
) -> None:
    moved = Moved()
    request = requested(type="endless", split_bytes=1024 * 1024)
    await store.queue_run(request)
    worker = Worker(settings, store, held, sources, signing_key, ticks)  # pyright: ignore[reportArgumentType]
    working = asyncio.create_task(worker.step())
    await held.first_part.wait()
    await store.order_cancel(cancel_order(request))
    assert await working == 1
    assert moved["cdds_attempt_duration_seconds_count", "cancelled"] == 1
    assert moved["cdds_attempt_duration_seconds_count", "failed"] == 0
    assert moved["cdds_exported_rows_total", "ucs"] > 0
