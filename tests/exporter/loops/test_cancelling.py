"""An order ends a run, whatever its attempt waits for, and nothing of it is left."""

import asyncio
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography import x509

from services.exporter.config import Settings
from services.exporter.domain import Claim
from services.exporter.loops import Worker, attempt
from services.exporter.pipeline import ObjectStore, StoreFailed
from services.exporter.pipeline.manifest import SigningKey
from services.exporter.store import Store
from shared.database import Database
from shared.events import RunCancelOrdered
from shared.sources import Sources
from tests.exporter.loops.working import Held, Stuck, Ticks, stored_files
from tests.exporter.runs import (
    LEASE,
    cancel_order,
    claimed,
    expire_lease,
    names,
    published,
    requested,
)
from tests.exporter.s3 import soon


class Looking(Store):
    """Counts the looks for an order that begin after it was committed."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, timedelta(days=30))
        self.ordered = False
        self.looks = 0

    async def cancel_ordered(self, claim: Claim) -> bool:
        self.looks += self.ordered
        return await super().cancel_ordered(claim)

    async def order_cancel(self, event: RunCancelOrdered) -> None:
        await super().order_cancel(event)
        self.ordered = True


@pytest.fixture
def store(database: Database) -> Looking:
    return Looking(database)


def test_an_order_is_followed_within_two_seconds() -> None:
    """What a busy machine takes comes on top; that the first look follows it is what the tests below see."""
    within = attempt.CANCEL_LOOK + attempt.LET_GO
    assert within < timedelta(seconds=2)


async def test_an_export_is_cancelled_at_the_next_look_and_leaves_no_bytes(
    settings: Settings,
    store: Looking,
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

    await store.order_cancel(cancel_order(request, actor="mary"))
    await working

    assert store.looks <= 1  # none, if one had begun just before
    events = await published(database, request.run_id)
    assert names(events) == ["RunQueued", "RunStarted", "RunCancelled"]
    assert (events[-1].actor, events[-1].attempt) == ("mary", 1)
    assert soon(lambda: stored_files(tmp_path) == [])
    assert ticks.progress[-1].progress.rows < 4_000_000


async def test_an_export_that_waits_for_its_source_is_cancelled_at_the_next_look(
    worker: Worker, store: Looking, database: Database, source: str, certificate: x509.Certificate
) -> None:
    request = requested(type="stuck")
    await store.queue_run(request)
    working = asyncio.create_task(worker.step())
    await until_reading(source)

    await store.order_cancel(cancel_order(request))
    async with asyncio.timeout(60):  # the source says nothing for 600 s
        await working

    assert store.looks <= 1
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
