"""Who holds a run: lost leases, stopped and draining workers, and slots."""

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from pydantic import ValidationError

from services.exporter.config import Settings
from services.exporter.domain import Claim, Lane, Outcome
from services.exporter.loops import Worker, attempt
from services.exporter.pipeline import ObjectStore
from services.exporter.pipeline.manifest import SigningKey
from services.exporter.store import SealManifest, Store
from shared.database import Database
from shared.messaging import Record
from shared.sources import Sources
from tests.exporter.loops.working import Held, Stuck, Ticks, failure_of, stored_files
from tests.exporter.runs import (
    LEASE,
    cancel_order,
    expire_lease,
    names,
    published,
    requested,
    run_row,
)
from tests.exporter.test_lanes import asked


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
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Unreachable(Store):
        async def beat(self, claim: Claim, lease: timedelta) -> None:
            raise ConnectionRefusedError

    store = Unreachable(database, timedelta(days=30))
    request = requested(type="endless", split_bytes=1024**2)
    await store.queue_run(request)
    monkeypatch.setattr(attempt, "LEASE_MARGIN", 5 / 6)  # it stops after two seconds, with much of its lease left
    short = settings.model_copy(update={"lease": timedelta(seconds=12)})
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
        async with worker._looking:  # nobody is in the middle of a look that began before
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
