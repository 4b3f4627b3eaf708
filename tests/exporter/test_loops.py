"""The worker: whole attempts with a real source, a real store and real files."""

import asyncio
import hashlib
import hmac
import io
import json
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key
from pydantic import SecretStr, ValidationError

from deploy.local.postgres import EmbeddedPostgres
from services.exporter.config import Settings
from services.exporter.domain import Claim, Lane, Outcome, manifest_id
from services.exporter.loops import Worker, attempt
from services.exporter.pipeline import ObjectStore, StoreFailed
from services.exporter.pipeline.cms import unseal
from services.exporter.pipeline.content import tenant_key
from services.exporter.pipeline.manifest import SigningKey, verify
from services.exporter.pipeline.storage import Stored
from services.exporter.store import SealManifest, Store
from shared.database import Database
from shared.events import CertificateAdded, RunProgressed
from shared.messaging import Record
from shared.sources import Sources
from tests.conftest import fresh_database
from tests.exporter.runs import (
    LEASE,
    SLOT,
    cancel_order,
    claimed,
    digest,
    expire_lease,
    names,
    published,
    requested,
    run_row,
)
from tests.exporter.test_lanes import asked
from tests.exporter.test_pipeline_cms import identity
from tests.exporter.test_pipeline_storage import files

SOURCES = """
[sources.ucs]
title = "Contact centre"
dsn = "file:{folder}/ucs.dsn"
[sources.ucs.types.interaction]
title = "Interaction"
table = "public.interaction"
id_column = "id"
time_column = "at"
tenant_column = "tenant"
[sources.ucs.types.endless]
title = "Endless"
table = "public.endless"
id_column = "id"
time_column = "at"
tenant_column = "tenant"
[sources.ucs.types.long]
title = "Long"
table = "public.long"
id_column = "id"
time_column = "at"
tenant_column = "tenant"
[sources.ucs.types.stuck]
title = "Stuck"
table = "public.stuck"
id_column = "id"
time_column = "at"
tenant_column = "tenant"
[sources.ucs.types.gone]
title = "Gone"
table = "public.gone"
id_column = "id"
time_column = "at"
tenant_column = "tenant"

[sources.private]
title = "Of one tenant"
dsn = "file:{folder}/ucs.dsn"
tenants = ["t1"]
allow_plaintext = true
[sources.private.types.note]
title = "Note"
table = "public.note"
id_column = "id"
time_column = "at"
"""


class Ticks:
    """Takes progress in Kafka's place."""

    def __init__(self) -> None:
        self.progress: list[RunProgressed] = []
        self.first = asyncio.Event()

    async def publish(self, records: Iterable[Record]) -> None:
        self.progress += [RunProgressed.model_validate_json(record.value) for record in records]
        self.first.set()


class Held(ObjectStore):
    """Keeps the exporting thread after its first part until the worker tells it to stop."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.loop = asyncio.get_running_loop()
        self.first_part = asyncio.Event()
        self.told_to_stop = threading.Event()

    def write(self, key: str, chunks: Iterable[bytes], cancelled: Callable[[], bool] = lambda: False) -> Stored:
        stored = super().write(key, chunks, cancelled)
        self.loop.call_soon_threadsafe(self.first_part.set)
        assert self.told_to_stop.wait(60)
        return stored


@pytest.fixture(scope="module")
async def source(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """Ten rows of each of two tenants, and a view that takes seconds to read."""
    async with fresh_database(postgres) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                """CREATE TABLE interaction AS
                   SELECT i AS id, timestamptz '2026-01-01' + i * interval '1 s' AS at, 't' || i % 2 + 1 AS tenant,
                          repeat('canary of t' || i % 2 + 1, 20) AS text FROM generate_series(1, 20) i"""
            )
            connection.execute("CREATE TABLE note AS SELECT 1 AS id, timestamptz '2026-01-01' AS at")
            connection.execute(
                """CREATE VIEW endless AS
                   SELECT i AS id, timestamptz '2026-01-01' AS at, 't1' AS tenant, md5(i::text) || md5((-i)::text) AS x
                   FROM generate_series(1, 400000) i"""
            )
            connection.execute(
                """CREATE VIEW long AS
                   SELECT i AS id, timestamptz '2026-01-01' AS at, 't1' AS tenant, md5(i::text) AS x
                   FROM generate_series(1, 4000000) i"""
            )
            connection.execute(
                "CREATE VIEW stuck AS SELECT 1 AS id, timestamptz '2026-01-01' AS at, 't1' AS tenant "
                "FROM (SELECT pg_sleep(600) OFFSET 0) s"
            )
        yield dsn


@pytest.fixture
def sources(source: str, tmp_path: Path) -> Sources:
    (tmp_path / "ucs.dsn").write_text(source)
    (tmp_path / "sources.toml").write_text(SOURCES.format(folder=tmp_path))
    return Sources.load(tmp_path / "sources.toml")


@pytest.fixture(scope="module")
def recipient() -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    return identity("recipient")


@pytest.fixture
async def certificate(store: Store, recipient: tuple[rsa.RSAPrivateKey, x509.Certificate]) -> x509.Certificate:
    """The recipient's certificate, added by an event as job_api sends it."""
    await store.keep_certificate(added(recipient[1]))
    return recipient[1]


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
async def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Held:
    held = Held(tmp_path / "objects")

    class Stop(threading.Event):
        def set(self) -> None:
            super().set()
            held.told_to_stop.set()

    monkeypatch.setattr(attempt, "Stop", Stop)
    return held


@pytest.fixture
def worker(
    settings: Settings, store: Store, objects: ObjectStore, sources: Sources, signing_key: SigningKey, ticks: Any
) -> Worker:
    return Worker(settings, store, objects, sources, signing_key, ticks)


def added(certificate: x509.Certificate) -> CertificateAdded:
    return CertificateAdded(
        occurred_at=SLOT,
        tenant="t1",
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        actor="admin",
        pem=certificate.public_bytes(Encoding.PEM).decode(),
        not_after=certificate.not_valid_after_utc,
    )


def stored_files(tmp_path: Path) -> list[str]:
    return files(tmp_path / "objects")


async def manifest_of(store: Store, run_id: UUID) -> bytes:
    download = await store.start_download("t1", manifest_id(run_id), "test")
    assert download is not None
    assert download.body is not None
    return download.body


async def failure_of(database: Database, run_id: UUID) -> tuple[str, str, int]:
    """How the run ended, why, and at which attempt."""
    event = (await published(database, run_id))[-1]
    return type(event).__name__, event.reason, event.attempt


async def test_an_attempt_turns_the_tenants_rows_into_signed_and_sealed_files(
    worker: Worker,
    store: Store,
    database: Database,
    tmp_path: Path,
    signing_key: SigningKey,
    recipient: tuple[rsa.RSAPrivateKey, x509.Certificate],
    certificate: x509.Certificate,
) -> None:
    request = requested()
    await store.queue_run(request)

    assert await worker.step() == 1
    assert await worker.step() == 0

    *_, stored, succeeded = await published(database, request.run_id)
    assert names([stored, succeeded]) == ["ArtifactStored", "RunSucceeded"]
    kept = (tmp_path / "objects" / f"{request.run_id}/1/0001").read_bytes()
    assert stored_files(tmp_path) == [f"{request.run_id}/1/0001"]
    assert (stored.part.size_bytes, stored.part.sha256) == (len(kept), hashlib.sha256(kept).hexdigest())
    assert stored.part.file_name == f"export-{request.run_id}-0001-of-0001.zip.p7m"
    with zipfile.ZipFile(io.BytesIO(b"".join(unseal(io.BytesIO(kept), *recipient)))) as opened:
        content = opened.read(f"Interaction-{request.run_id}-0001.jsonl")
    assert [json.loads(line)["id"] for line in content.splitlines()] == list(range(2, 21, 2))
    assert b"canary of t2" not in content

    body = await manifest_of(store, request.run_id)
    public: Any = load_pem_public_key(signing_key.public_pem.encode())
    manifest = verify(body, public)
    assert digest(body) == succeeded.manifest_sha256
    assert manifest["parts"][0]["stored_sha256"] == stored.part.sha256
    assert manifest["parts"][0]["plain_sha256"] == digest(content)
    assert manifest["recipients"] == [certificate.fingerprint(hashes.SHA256()).hex()]
    assert (manifest["rows"], manifest["attempt"], manifest["tenant"]) == (10, 1, "t1")
    assert manifest["snapshot"] == succeeded.snapshot
    assert manifest["previous_manifest_sha256"] is None


async def test_each_run_of_a_job_signs_the_hash_of_the_manifest_before(
    worker: Worker, store: Store, certificate: x509.Certificate
) -> None:
    first = requested()
    second = requested(job_id=first.job_id)
    for request in (first, second):
        await store.queue_run(request)
        await worker.step()

    manifest = json.loads(await manifest_of(store, second.run_id))

    assert manifest["previous_manifest_sha256"] == digest(await manifest_of(store, first.run_id))


async def test_a_large_answer_is_split_and_every_part_is_published(
    worker: Worker, store: Store, database: Database, tmp_path: Path, certificate: x509.Certificate
) -> None:
    request = requested(type="endless", split_bytes=8 * 1024**2)
    await store.queue_run(request)

    await worker.step()

    events = await published(database, request.run_id)
    parts = [event.part for event in events if type(event).__name__ == "ArtifactStored"]
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert len(parts) > 1
    assert sum(part.rows for part in parts) == events[-1].rows == 400_000
    assert len(stored_files(tmp_path)) == len(parts)


async def test_a_source_of_one_tenant_needs_no_tenant_column_and_is_closed_to_others(
    worker: Worker, store: Store, database: Database, certificate: x509.Certificate
) -> None:
    own, foreign = (requested(source="private", type="note", tenant=tenant) for tenant in ("t1", "t2"))
    await store.keep_certificate(added(certificate).model_copy(update={"tenant": "t2"}))
    for request in (own, foreign):
        await store.queue_run(request)
        await worker.step()

    assert (await published(database, own.run_id))[-1].rows == 1
    assert await failure_of(database, foreign.run_id) == ("RunFailed", "source_unknown", 1)


@pytest.mark.parametrize("known", ["none", "expired", "of another tenant", "not named"])
async def test_without_a_valid_certificate_the_run_fails_and_no_byte_is_written(
    worker: Worker, store: Store, database: Database, tmp_path: Path, known: str
) -> None:
    event = added(identity("late", ends_in=timedelta(hours=-1) if known == "expired" else timedelta(days=1))[1])
    if known != "none":
        tenant = "t2" if known == "of another tenant" else "t1"
        await store.keep_certificate(event.model_copy(update={"tenant": tenant}))
    request = requested(recipients=("00" * 32,) if known == "not named" else None)
    await store.queue_run(request)

    assert await worker.step() == 1

    assert await failure_of(database, request.run_id) == ("RunFailed", "certificate_required", 1)
    assert stored_files(tmp_path) == []


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ({"source": "nowhere"}, "source_unknown"),
        ({"type": "parcel"}, "source_unknown"),
        ({"type": "gone"}, "source_refused"),
        ({"fields": ("id", "subject")}, "field_unknown"),
        ({"masking": {"subject": "redact"}}, "field_unknown"),
        ({"masking": {"text": "hash"}}, "masking_unconfigured"),
        ({"encryption": "none"}, "plaintext_not_allowed"),
    ],
)
async def test_what_trying_again_can_not_help_fails_at_the_first_attempt(
    worker: Worker,
    store: Store,
    database: Database,
    tmp_path: Path,
    certificate: x509.Certificate,
    question: dict[str, Any],
    reason: str,
) -> None:
    request = requested(**question)
    await store.queue_run(request)

    assert await worker.step() == 1

    assert await failure_of(database, request.run_id) == ("RunFailed", reason, 1)
    assert stored_files(tmp_path) == []


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [("postgresql://postgres@127.0.0.1:1/postgres", "source_unavailable"), (None, "source_unconfigured")],
)
async def test_a_source_that_comes_back_is_read_by_the_next_attempt(
    worker: Worker,
    store: Store,
    database: Database,
    tmp_path: Path,
    source: str,
    certificate: x509.Certificate,
    dsn: str | None,
    reason: str,
) -> None:
    request = requested()
    await store.queue_run(request)
    reference = tmp_path / "ucs.dsn"
    reference.write_text(dsn) if dsn else reference.unlink()

    assert await worker.step() == 1
    assert await failure_of(database, request.run_id) == ("RunAttemptFailed", reason, 1)
    reference.write_text(source)
    assert await worker.step() == 1

    (*_, succeeded) = await published(database, request.run_id)
    assert (type(succeeded).__name__, succeeded.attempt) == ("RunSucceeded", 2)
    assert stored_files(tmp_path) == [f"{request.run_id}/2/0001"]


async def test_what_a_dead_attempt_stored_is_removed_by_the_next_one(
    worker: Worker,
    store: Store,
    database: Database,
    objects: ObjectStore,
    tmp_path: Path,
    certificate: x509.Certificate,
) -> None:
    request = requested()
    await store.queue_run(request)
    dead = await store.claim_run("killed", LEASE)
    assert dead is not None
    objects.write(f"{dead.prefix}/0001", [b"half an answer"])
    await expire_lease(database, request.run_id)

    await worker.step()

    assert stored_files(tmp_path) == [f"{request.run_id}/2/0001"]


async def test_a_fenced_attempt_stops_and_removes_its_own_bytes_only(
    settings: Settings,
    store: Store,
    database: Database,
    held: Held,
    sources: Sources,
    signing_key: SigningKey,
    ticks: Any,
    tmp_path: Path,
    certificate: x509.Certificate,
) -> None:
    request = requested(type="endless", split_bytes=1024**2)
    await store.queue_run(request)
    working = asyncio.create_task(Worker(settings, store, held, sources, signing_key, ticks).step())
    await held.first_part.wait()
    winner: Claim | None = None
    while winner is None:  # a beat may come in between
        await expire_lease(database, request.run_id)
        winner = await store.claim_run("second", LEASE)
    ObjectStore(tmp_path / "objects").write(f"{winner.prefix}/0001", [b"the winner's"])

    assert await working == 1

    assert stored_files(tmp_path) == [f"{winner.prefix}/0001"]
    run = await run_row(database, request.run_id)
    assert (run["state"], run["attempt"], run["worker"]) == ("running", 2, "second")


async def test_an_attempt_that_can_not_renew_its_lease_stops_before_it_ends(
    settings: Settings,
    database: Database,
    held: Held,
    sources: Sources,
    signing_key: SigningKey,
    ticks: Any,
    tmp_path: Path,
    certificate: x509.Certificate,
) -> None:
    class Unreachable(Store):
        async def beat(self, claim: Claim, lease: timedelta) -> None:
            raise ConnectionRefusedError

    store = Unreachable(database, timedelta(days=30))
    request = requested(type="endless", split_bytes=1024**2)
    await store.queue_run(request)
    short = settings.model_copy(update={"lease": timedelta(seconds=3)})
    working = asyncio.create_task(Worker(short, store, held, sources, signing_key, ticks).step())

    await asyncio.to_thread(held.told_to_stop.wait)
    assert await store.claim_run("second", LEASE) is None  # the lease still holds

    assert await working == 1
    assert stored_files(tmp_path) == []
    assert names(await published(database, request.run_id)) == ["RunQueued", "RunStarted"]


async def test_an_attempt_that_only_seems_fenced_keeps_its_files(
    settings: Settings,
    database: Database,
    objects: ObjectStore,
    sources: Sources,
    signing_key: SigningKey,
    ticks: Any,
    tmp_path: Path,
    certificate: x509.Certificate,
) -> None:
    class LostReply(Store):
        """Commits, does not hear of it, and asks again."""

        async def succeed(self, claim: Claim, outcome: Outcome, seal_manifest: SealManifest) -> None:
            await super().succeed(claim, outcome, seal_manifest)
            await super().succeed(claim, outcome, seal_manifest)

    store = LostReply(database, timedelta(days=30))
    request = requested()
    await store.queue_run(request)

    assert await Worker(settings, store, objects, sources, signing_key, ticks).step() == 1

    assert names(await published(database, request.run_id)).count("RunSucceeded") == 1
    assert stored_files(tmp_path) == [f"{request.run_id}/1/0001"]


async def test_a_stopped_worker_hands_its_run_over_and_tells_progress_until_then(
    settings: Settings,
    store: Store,
    database: Database,
    held: Held,
    sources: Sources,
    signing_key: SigningKey,
    tmp_path: Path,
    certificate: x509.Certificate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attempt, "PROGRESS", timedelta(milliseconds=10))
    told = asyncio.Event()

    class Telling(Ticks):
        async def publish(self, records: Iterable[Record]) -> None:
            await super().publish(records)
            told.set()

    ticks: Any = Telling()
    request = requested(attempts=1, type="endless", split_bytes=4 * 1024**2)
    await store.queue_run(request)
    working = asyncio.create_task(Worker(settings, store, held, sources, signing_key, ticks).run())
    await held.first_part.wait()
    await told.wait()

    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working

    assert await failure_of(database, request.run_id) == ("RunAttemptFailed", "worker_stopped", 1)
    assert (await run_row(database, request.run_id))["state"] == "queued"
    assert stored_files(tmp_path) == []
    again = await store.claim_run("second", LEASE)
    assert again is not None
    assert (again.attempt, again.attempts_allowed) == (2, 2)
    first = ticks.progress[0].progress
    assert (first.attempt, first.sequence, first.total) == (1, 1, 400_000)
    assert 0 < first.rows < 400_000


async def test_an_export_is_cancelled_within_two_seconds_and_leaves_no_bytes(
    settings: Settings,
    store: Store,
    database: Database,
    objects: ObjectStore,
    sources: Sources,
    signing_key: SigningKey,
    tmp_path: Path,
    certificate: x509.Certificate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attempt, "PROGRESS", timedelta(milliseconds=10))
    ticks: Any = Ticks()
    request = requested(type="long", split_bytes=1024**2)
    await store.queue_run(request)
    working = asyncio.create_task(Worker(settings, store, objects, sources, signing_key, ticks).step())
    await ticks.first.wait()
    loop = asyncio.get_running_loop()
    ordered_at = loop.time()

    await store.order_cancel(cancel_order(request, actor="mary"))
    await working

    assert loop.time() - ordered_at < 2
    events = await published(database, request.run_id)
    assert names(events) == ["RunQueued", "RunStarted", "RunCancelled"]
    assert (events[-1].actor, events[-1].attempt) == ("mary", 1)
    assert stored_files(tmp_path) == []
    assert ticks.progress[-1].progress.rows < 4_000_000


async def test_an_export_that_waits_for_its_source_is_cancelled_within_two_seconds(
    worker: Worker, store: Store, database: Database, source: str, certificate: x509.Certificate
) -> None:
    request = requested(type="stuck")
    await store.queue_run(request)
    working = asyncio.create_task(worker.step())
    await until_reading(source)
    loop = asyncio.get_running_loop()
    ordered_at = loop.time()

    await store.order_cancel(cancel_order(request))
    await working

    assert loop.time() - ordered_at < 2
    assert names(await published(database, request.run_id)) == ["RunQueued", "RunStarted", "RunCancelled"]


async def until_reading(source: str) -> None:
    """Return when the source says that an export is reading from it."""
    async with asyncio.timeout(30):
        async with await psycopg.AsyncConnection.connect(source, autocommit=True) as connection:
            while True:
                cursor = await connection.execute(
                    "SELECT FROM pg_stat_activity WHERE application_name = 'cdds-exporter' AND state = 'active' "
                    "AND datname = current_database() AND query LIKE 'COPY%'"
                )
                if cursor.rowcount:
                    return


async def test_a_run_that_waits_for_a_source_to_answer_at_all_is_cancelled_without_waiting(
    worker: Worker, store: Store, database: Database, tmp_path: Path, certificate: x509.Certificate
) -> None:
    came = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await reader.read(-1)  # until the exporter gives up
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        patient = f"postgresql://nobody@127.0.0.1:{port}/none?connect_timeout=3600&sslmode=disable&gssencmode=disable"
        (tmp_path / "ucs.dsn").write_text(patient)
        request = requested()
        await store.queue_run(request)
        working = asyncio.create_task(worker.step())
        await came.wait()

        await store.order_cancel(cancel_order(request))
        await working

        assert names(await published(database, request.run_id)) == ["RunQueued", "RunStarted", "RunCancelled"]


class Stuck(ObjectStore):
    """Does not answer for a while, whatever it is told."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.loop = asyncio.get_running_loop()
        self.came = asyncio.Event()
        self.answers = threading.Event()
        self.written = asyncio.Event()

    def write(self, key: str, chunks: Iterable[bytes], cancelled: Callable[[], bool] = lambda: False) -> Stored:
        self.loop.call_soon_threadsafe(self.came.set)
        assert self.answers.wait(60)
        stored = super().write(key, chunks, cancelled)
        self.loop.call_soon_threadsafe(self.written.set)
        return stored


async def test_a_run_whose_file_store_hangs_is_cancelled_without_waiting_and_clears_up_later(
    settings: Settings,
    store: Store,
    database: Database,
    sources: Sources,
    signing_key: SigningKey,
    ticks: Any,
    tmp_path: Path,
    certificate: x509.Certificate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stuck = Stuck(tmp_path / "objects")
    cleared = asyncio.Event()

    def clear(worker: Worker, *prefixes: str) -> None:
        clear_now(worker, *prefixes)
        if stuck.answers.is_set():
            stuck.loop.call_soon_threadsafe(cleared.set)

    clear_now = Worker._clear
    monkeypatch.setattr(Worker, "_clear", clear)
    # The thread does not look at the order any more when all its rows are on the way.
    monkeypatch.setattr(attempt.Stop, "is_set", lambda _: False)
    request = requested()
    await store.queue_run(request)
    working = asyncio.create_task(Worker(settings, store, stuck, sources, signing_key, ticks).step())
    await stuck.came.wait()

    await store.order_cancel(cancel_order(request))
    await working

    assert names(await published(database, request.run_id)) == ["RunQueued", "RunStarted", "RunCancelled"]
    stuck.answers.set()
    await stuck.written.wait()
    await cleared.wait()
    assert stored_files(tmp_path) == []


async def test_a_run_is_cancelled_while_the_bytes_of_a_dead_attempt_are_being_removed(
    settings: Settings,
    store: Store,
    database: Database,
    sources: Sources,
    signing_key: SigningKey,
    ticks: Any,
    tmp_path: Path,
) -> None:
    loop, came, answers = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    class SlowToRemove(ObjectStore):
        def delete_prefix(self, prefix: str) -> None:
            if prefix.endswith("/1"):
                loop.call_soon_threadsafe(came.set)
                assert answers.wait(60)
            super().delete_prefix(prefix)

    request = requested()
    await claimed(store, request)
    await expire_lease(database, request.run_id)
    slow = SlowToRemove(tmp_path / "objects")
    working = asyncio.create_task(Worker(settings, store, slow, sources, signing_key, ticks).step())
    await came.wait()

    await store.order_cancel(cancel_order(request))
    await working

    assert names(await published(database, request.run_id))[-1] == "RunCancelled"
    answers.set()


async def test_of_two_workers_one_takes_a_lost_run_over_and_the_loser_of_a_lease_goes_on_with_other_runs(
    settings: Settings,
    store: Store,
    database: Database,
    held: Held,
    objects: ObjectStore,
    sources: Sources,
    signing_key: SigningKey,
    ticks: Any,
    tmp_path: Path,
    certificate: x509.Certificate,
) -> None:
    request = requested(type="endless", split_bytes=8 * 1024**2)
    await store.queue_run(request)
    settings = settings.model_copy(update={"beat": timedelta(seconds=1)})
    loser = Worker(settings, store, held, sources, signing_key, ticks)
    losing = asyncio.create_task(loser.step())
    await held.first_part.wait()
    winners = [Worker(settings, store, objects, sources, signing_key, ticks) for _ in range(2)]
    taken = [0, 0]
    while taken == [0, 0]:  # a beat may come in between
        await expire_lease(database, request.run_id)
        taken = await asyncio.gather(*(winner.step() for winner in winners))
    await losing

    assert sorted(taken) == [0, 1]
    *_, succeeded = events = await published(database, request.run_id)
    assert names(events).count("RunStarted") == 2
    assert (type(succeeded).__name__, succeeded.attempt) == ("RunSucceeded", 2)
    assert {Path(file).parent.name for file in stored_files(tmp_path)} == {"2"}
    other = requested()
    await store.queue_run(other)
    assert await loser.step() == 1
    assert names(await published(database, other.run_id))[-1] == "RunSucceeded"


# --- the process stops --------------------------------------------------------------------------------------------


async def test_a_draining_worker_finishes_its_run_and_claims_no_other(
    settings: Settings,
    store: Store,
    database: Database,
    held: Held,
    sources: Sources,
    signing_key: SigningKey,
    ticks: Any,
    certificate: x509.Certificate,
) -> None:
    first, second = requested(), requested()
    await store.queue_run(first)
    worker = Worker(settings, store, held, sources, signing_key, ticks)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run())
        await held.first_part.wait()
        draining = tasks.create_task(worker.drain())
        await asyncio.sleep(0)  # it has begun
        await store.queue_run(second)
        held.told_to_stop.set()  # lets the export go on

    assert draining.done()
    assert names(await published(database, first.run_id))[-1] == "RunSucceeded"
    assert (await run_row(database, second.run_id))["state"] == "queued"


async def test_the_grace_of_a_draining_worker_ends_and_its_run_is_handed_over_then(
    settings: Settings,
    store: Store,
    database: Database,
    held: Held,
    sources: Sources,
    signing_key: SigningKey,
    ticks: Any,
    certificate: x509.Certificate,
) -> None:
    request = requested(type="endless", split_bytes=1024**2)
    await store.queue_run(request)
    short = settings.model_copy(update={"grace": timedelta(milliseconds=200)})
    worker = Worker(short, store, held, sources, signing_key, ticks)
    working = asyncio.create_task(worker.run())
    await held.first_part.wait()

    await worker.drain()

    before = await run_row(database, request.run_id)
    assert before["state"] == "running"
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert await failure_of(database, request.run_id) == ("RunAttemptFailed", "worker_stopped", 1)


async def test_a_process_never_fills_all_its_slots_with_backfills(
    settings: Settings,
    store: Store,
    database: Database,
    sources: Sources,
    signing_key: SigningKey,
    ticks: Any,
    tmp_path: Path,
    certificate: x509.Certificate,
) -> None:
    stuck = Stuck(tmp_path / "objects")
    backfills = [asked(Lane.BACKFILL) for _ in range(3)]
    scheduled = asked(Lane.SCHEDULED)
    for request in backfills:
        await store.queue_run(request)
    worker = Worker(settings, store, stuck, sources, signing_key, ticks)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run())
        await stuck.came.wait()
        await store.queue_run(scheduled)
        while (await run_row(database, scheduled.run_id))["state"] == "queued":
            await asyncio.sleep(0.01)
        states = [(await run_row(database, request.run_id))["state"] for request in backfills]
        assert sorted(states) == ["queued", "queued", "running"]
        tasks.create_task(worker.drain())
        await asyncio.sleep(0)
        stuck.answers.set()


@pytest.mark.parametrize(("beat", "lease"), [(11, 30), (0, 30), (1, 0)])
def test_a_beat_that_would_come_too_late_is_refused_at_the_start(settings: Settings, beat: int, lease: int) -> None:
    written = settings.model_dump() | {"beat": timedelta(seconds=beat), "lease": timedelta(seconds=lease)}

    with pytest.raises(ValidationError, match=r"BEAT|greater than 0"):
        Settings.model_validate(written)


async def test_an_export_that_ended_before_the_order_was_seen_leaves_no_bytes_either(
    settings: Settings,
    store: Store,
    database: Database,
    held: Held,
    sources: Sources,
    signing_key: SigningKey,
    ticks: Any,
    tmp_path: Path,
    certificate: x509.Certificate,
) -> None:
    request = requested()
    await store.queue_run(request)
    working = asyncio.create_task(Worker(settings, store, held, sources, signing_key, ticks).step())
    await held.first_part.wait()  # the only part: once told to stop, the thread ends with a whole result

    await store.order_cancel(cancel_order(request))
    await working

    assert names(await published(database, request.run_id)) == ["RunQueued", "RunStarted", "RunCancelled"]
    assert stored_files(tmp_path) == []


async def test_what_the_dead_worker_of_a_run_that_shall_end_stored_is_removed(
    worker: Worker, store: Store, database: Database, objects: ObjectStore, tmp_path: Path
) -> None:
    request = requested()
    await store.queue_run(request)
    dead = await store.claim_run("killed", LEASE)
    assert dead is not None
    objects.write(f"{dead.prefix}/0001", [b"half an answer"])
    await store.order_cancel(cancel_order(request))
    await expire_lease(database, request.run_id)

    assert await worker.step() == 0

    assert names(await published(database, request.run_id))[-1] == "RunCancelled"
    assert stored_files(tmp_path) == []


async def test_a_stopped_worker_with_an_order_cancels_instead_of_handing_over(
    settings: Settings,
    store: Store,
    database: Database,
    held: Held,
    sources: Sources,
    signing_key: SigningKey,
    ticks: Any,
    tmp_path: Path,
    certificate: x509.Certificate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attempt, "CANCEL_LOOK", timedelta(hours=1))
    request = requested(type="endless", split_bytes=4 * 1024**2)
    await store.queue_run(request)
    working = asyncio.create_task(Worker(settings, store, held, sources, signing_key, ticks).run())
    await held.first_part.wait()
    await store.order_cancel(cancel_order(request))

    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working

    assert names(await published(database, request.run_id)) == ["RunQueued", "RunStarted", "RunCancelled"]
    assert stored_files(tmp_path) == []


async def test_the_whole_question_is_answered_and_stands_in_the_manifest(
    settings: Settings,
    store: Store,
    database: Database,
    objects: ObjectStore,
    sources: Sources,
    signing_key: SigningKey,
    ticks: Any,
    tmp_path: Path,
    recipient: tuple[rsa.RSAPrivateKey, x509.Certificate],
    certificate: x509.Certificate,
) -> None:
    keyed = settings.model_copy(update={"masking_key": SecretStr("k" * 32)})
    request = requested(format="csv", fields=("text", "id", "at"), masking={"text": "hash", "at": "redact"})
    await store.queue_run(request)

    await Worker(keyed, store, objects, sources, signing_key, ticks).step()

    kept = (tmp_path / "objects" / f"{request.run_id}/1/0001").read_bytes()
    with zipfile.ZipFile(io.BytesIO(b"".join(unseal(io.BytesIO(kept), *recipient)))) as opened:
        content = opened.read(f"Interaction-{request.run_id}-0001.csv").decode()
    key = tenant_key("k" * 32, "t1")
    digest_ = hmac.new(key, ("canary of t1" * 20).encode(), hashlib.sha256).hexdigest()
    assert content == "text,id,at\n" + "".join(f"{digest_},{number},\n" for number in range(2, 21, 2))
    manifest = json.loads(await manifest_of(store, request.run_id))
    assert manifest["entities"]["Interaction"]["fields"] == ["text", "id", "at"]
    assert manifest["masking"] == {"text": "hash", "at": "redact"}
    assert (manifest["format"], manifest["encryption"]) == ("csv", "gcm")


@pytest.mark.parametrize(("encryption", "suffix"), [("none", "zip"), ("smime", "zip.smime")])
async def test_other_profiles_are_followed_where_they_are_allowed(
    worker: Worker,
    store: Store,
    database: Database,
    tmp_path: Path,
    certificate: x509.Certificate,
    encryption: str,
    suffix: str,
) -> None:
    request = requested(source="private", type="note", encryption=encryption)
    await store.queue_run(request)

    await worker.step()

    *_, stored, succeeded = await published(database, request.run_id)
    assert names([stored, succeeded]) == ["ArtifactStored", "RunSucceeded"]
    assert stored.part.file_name == f"export-{request.run_id}-0001-of-0001.{suffix}"
    manifest = json.loads(await manifest_of(store, request.run_id))
    assert manifest["encryption"] == encryption
    fingerprints = [] if encryption == "none" else [certificate.fingerprint(hashes.SHA256()).hex()]
    assert manifest["recipients"] == fingerprints
    kept = (tmp_path / "objects" / f"{request.run_id}/1/0001").read_bytes()
    assert zipfile.is_zipfile(io.BytesIO(kept)) is (encryption == "none")


async def test_a_plain_export_needs_no_certificate(worker: Worker, store: Store, database: Database) -> None:
    request = requested(source="private", type="note", encryption="none")
    await store.queue_run(request)

    await worker.step()

    assert names(await published(database, request.run_id))[-1] == "RunSucceeded"


async def test_a_run_whose_bytes_can_not_be_removed_is_cancelled_all_the_same(
    settings: Settings,
    store: Store,
    database: Database,
    sources: Sources,
    signing_key: SigningKey,
    ticks: Any,
    tmp_path: Path,
    certificate: x509.Certificate,
    held: Held,
) -> None:
    def refuse(prefix: str) -> None:
        raise StoreFailed("the folder is read-only")

    request = requested()
    await store.queue_run(request)
    working = asyncio.create_task(Worker(settings, store, held, sources, signing_key, ticks).step())
    await held.first_part.wait()
    held.delete_prefix = refuse  # type: ignore[method-assign]

    await store.order_cancel(cancel_order(request))
    await working

    assert names(await published(database, request.run_id)) == ["RunQueued", "RunStarted", "RunCancelled"]


async def test_an_attempt_that_fails_before_it_exports_still_clears_up_after_a_dead_one(
    worker: Worker, store: Store, database: Database, objects: ObjectStore, tmp_path: Path
) -> None:
    request = requested()
    await store.queue_run(request)
    dead = await store.claim_run("killed", LEASE)
    assert dead is not None
    objects.write(f"{dead.prefix}/0001", [b"half an answer"])
    await expire_lease(database, request.run_id)

    await worker.step()

    assert await failure_of(database, request.run_id) == ("RunFailed", "certificate_required", 2)
    assert stored_files(tmp_path) == []


@pytest.mark.parametrize("key", ["", "too short to be a secret"])
def test_a_masking_key_that_can_be_guessed_is_refused_at_the_start(settings: Settings, key: str) -> None:
    written = settings.model_dump() | {"masking_key": key}

    with pytest.raises(ValidationError, match="at least 32"):
        Settings.model_validate(written)
