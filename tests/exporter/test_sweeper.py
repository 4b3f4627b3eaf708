"""Bytes that belong to nobody are found, all others are spared, whatever happens while the sweeper looks."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from services.exporter.domain import Claim, Failure
from services.exporter.loops import Janitor, Sweeper, sweeper
from services.exporter.pipeline import ObjectStore
from services.exporter.pipeline.storage import Prefix
from services.exporter.store import Store
from shared.database import Database
from tests.exporter.runs import LEASE, cancel_order, claimed, expire_lease, outcome, requested, seal

REPEATABLE = Failure("export_failed", "The source went away.", repeatable=True)
HOPELESS = Failure("source_refused", "There is no such table.", repeatable=False)
OLD, ANCIENT = timedelta(hours=2), timedelta(days=8)


class Bytes:
    """What lies in the store, and how long."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects = ObjectStore(folder)

    def write(self, prefix: str, age: timedelta, *numbers: int) -> str:
        for number in numbers or (1, 2):
            key = f"{prefix}/{number:04}"
            self.objects.write(key, [b"sealed"])
            self.age(key, age)
        return prefix

    def age(self, key: str, age: timedelta) -> None:
        path = self.folder / key
        written = path.stat().st_mtime - age.total_seconds()
        os.utime(path, (written, written))

    @property
    def prefixes(self) -> set[str]:
        return {f"{found.run}/{found.attempt}" for found in self.objects.prefixes()}


@pytest.fixture
def stored(tmp_path: Path) -> Bytes:
    return Bytes(tmp_path / "objects")


@pytest.fixture
def sweep(store: Store, stored: Bytes) -> Callable[[], Awaitable[int]]:
    """One look through the whole store, however often."""
    return Sweeper(store, stored.objects, timedelta(), timedelta(0)).step


async def next_attempt(store: Store, database: Database, claim: Claim) -> Claim:
    """The worker of `claim` is lost, and another one takes over."""
    await expire_lease(database, claim.run_id)
    following = await store.claim_run("second", LEASE)
    assert following is not None
    assert (following.run_id, following.attempt) == (claim.run_id, claim.attempt + 1)
    return following


Sweep = Callable[[], Awaitable[int]]


async def test_bytes_of_dead_attempts_go_and_published_ones_stay(
    store: Store, database: Database, stored: Bytes, sweep: Sweep
) -> None:
    first = await claimed(store, requested())
    second = await next_attempt(store, database, first)
    dead, published = stored.write(first.prefix, ANCIENT), stored.write(second.prefix, ANCIENT)
    await store.succeed(second, outcome(second), seal)

    assert await sweep() == 1
    assert await sweep() == 0

    assert stored.prefixes == {published} == {f"{first.run_id}/2"} != {dead}


@pytest.mark.parametrize("ends", ["failed", "cancelled", "queued again", "handed over"])
async def test_bytes_of_an_attempt_that_did_not_succeed_go(
    store: Store, stored: Bytes, sweep: Sweep, ends: str
) -> None:
    request = requested(backoff=timedelta(hours=1))
    claim = await claimed(store, request)
    stored.write(claim.prefix, OLD)
    match ends:
        case "failed":
            await store.fail_attempt(claim, HOPELESS)
        case "queued again":
            await store.fail_attempt(claim, REPEATABLE)
        case "handed over":
            await store.hand_over(claim)
        case _:
            await store.order_cancel(cancel_order(request))
            await store.cancel(claim)

    await sweep()

    assert stored.prefixes == set()


async def test_bytes_of_a_running_attempt_stay_whatever_its_lease_says(
    store: Store, database: Database, stored: Bytes, sweep: Sweep
) -> None:
    claim = await claimed(store, requested())
    prefix = stored.write(claim.prefix, ANCIENT)
    await expire_lease(database, claim.run_id)

    await sweep()
    assert stored.prefixes == {prefix}

    await next_attempt(store, database, claim)
    await sweep()
    assert stored.prefixes == set()


async def test_young_bytes_are_left_to_the_worker_that_wrote_them(store: Store, stored: Bytes, sweep: Sweep) -> None:
    claim = await claimed(store, requested())
    stored.write(claim.prefix, OLD, 1)
    stored.write(claim.prefix, timedelta(0), 2)  # the newest one counts
    await store.fail_attempt(claim, HOPELESS)

    await sweep()
    assert stored.prefixes == {claim.prefix}

    stored.age(f"{claim.prefix}/0002", OLD)
    await sweep()
    assert stored.prefixes == set()


async def test_what_the_database_has_not_heard_of_waits_for_a_week(store: Store, stored: Bytes, sweep: Sweep) -> None:
    known = await claimed(store, requested())
    await store.fail_attempt(known, REPEATABLE)
    # The database was restored: it knows neither the run nor the attempt that the store has bytes of.
    restored = [stored.write(f"{uuid4()}/1", timedelta(days=6)), stored.write(f"{known.run_id}/2", timedelta(days=6))]
    stored.write(f"{uuid4()}/1", ANCIENT)
    stored.write(f"{known.run_id}/3", ANCIENT)

    assert await sweep() == 2

    assert stored.prefixes == set(restored)


async def test_what_deleted_files_leave_behind_goes(
    store: Store, database: Database, stored: Bytes, sweep: Sweep
) -> None:
    claim = await claimed(store, requested())
    stored.write(claim.prefix, ANCIENT, 1, 2, 3)  # the third one belongs to nobody, but its folder to somebody
    await store.succeed(claim, outcome(claim), seal)
    async with database.transaction() as connection:
        await connection.execute("UPDATE artifacts SET expires_at = now() WHERE number = 1")
    janitor = Janitor(store, stored.objects, timedelta())
    await janitor.step()
    await sweep()
    assert stored.prefixes == {claim.prefix}

    async with database.transaction() as connection:
        await connection.execute("UPDATE artifacts SET expires_at = now()")
    taken = await store.take_deletions(10, timedelta(0))
    await sweep()
    assert stored.prefixes == {claim.prefix}  # it is being deleted, and by whom is known

    await store.finish_deletions([each.artifact_id for each in taken])
    await sweep()
    assert stored.prefixes == set()


async def test_what_no_worker_wrote_stays(stored: Bytes, sweep: Sweep) -> None:
    run = uuid4()
    names = [f"{run}/0", f"{run}/01", f"{run}/-1", f"{run}/x", f"{run}/{2**31}", f"{str(run).upper()}/1", "notes/1",
             f"{run.hex}/1"]  # fmt: skip
    for name in names:
        stored.write(name, ANCIENT)

    assert await sweep() == 0
    assert stored.prefixes == set(names)


class Meanwhile(ObjectStore):
    """A store in which something happens right after the list of its prefixes was made."""

    def __init__(self, folder: Path, event: Callable[[], Awaitable[None]]) -> None:
        super().__init__(folder)
        self._event = event
        self._loop = asyncio.get_running_loop()

    def prefixes(self) -> Iterator[Prefix]:
        listed = list(super().prefixes())

        async def happens() -> None:
            await self._event()

        asyncio.run_coroutine_threadsafe(happens(), self._loop).result()
        yield from listed


async def test_an_attempt_that_begins_after_the_list_was_made_keeps_its_bytes(
    store: Store, database: Database, stored: Bytes
) -> None:
    first = await claimed(store, requested())
    stored.write(first.prefix, ANCIENT)
    begun: list[str] = []

    async def begins() -> None:
        second = await next_attempt(store, database, first)
        begun.append(stored.write(second.prefix, timedelta(0)))
        fresh = await claimed(store, requested())
        begun.append(stored.write(fresh.prefix, ANCIENT))

    await Sweeper(store, Meanwhile(stored.folder, begins), timedelta(), timedelta(0)).step()

    assert stored.prefixes == set(begun)


async def test_an_attempt_that_succeeds_after_the_list_was_made_keeps_its_bytes(store: Store, stored: Bytes) -> None:
    claim = await claimed(store, requested())
    prefix = stored.write(claim.prefix, ANCIENT)

    async def succeeds() -> None:
        await store.succeed(claim, outcome(claim), seal)

    await Sweeper(store, Meanwhile(stored.folder, succeeds), timedelta(), timedelta(0)).step()

    assert stored.prefixes == {prefix}


async def test_an_unknown_run_that_comes_back_while_others_are_removed_keeps_its_bytes(
    store: Store, stored: Bytes
) -> None:
    # As old as they are, both are orphans when the batch is looked at; the second one's request comes before its turn.
    request = requested()
    other, prefix = f"{UUID(int=1)}/1", f"{request.run_id}/1"
    for each in (other, prefix):
        stored.write(each, ANCIENT)

    class InOrder(ObjectStore):
        def prefixes(self) -> Iterator[Prefix]:
            return iter(sorted(super().prefixes()))

        def delete_prefix(self, removed: str) -> None:
            super().delete_prefix(removed)
            asyncio.run_coroutine_threadsafe(comes_back(), loop).result()

    async def comes_back() -> None:
        await claimed(store, request)

    loop = asyncio.get_running_loop()
    await Sweeper(store, InOrder(stored.folder), timedelta(), timedelta(0)).step()

    assert stored.prefixes == {prefix}


async def test_many_attempts_are_looked_at_in_batches(
    store: Store, stored: Bytes, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "BATCH", 2)
    claims = [await claimed(store, requested()) for _ in range(7)]
    for claim in claims:
        stored.write(claim.prefix, OLD, 1)
    for claim in claims[:5]:
        await store.fail_attempt(claim, HOPELESS)

    assert await sweep() == 5
    assert stored.prefixes == {claim.prefix for claim in claims[5:]}


async def test_an_orphan_that_can_not_be_removed_holds_no_other_up(
    store: Store, stored: Bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = [await claimed(store, requested()) for _ in range(3)]
    for claim in claims:
        stored.write(claim.prefix, OLD, 1)
        await store.fail_attempt(claim, HOPELESS)

    class Stuck(ObjectStore):
        def delete_prefix(self, prefix: str) -> None:
            if prefix == claims[1].prefix:
                # A file where a folder is expected: the disk's own refusal.
                prefix += "/0001"
            super().delete_prefix(prefix)

    with capture_logs() as logs:
        assert await Sweeper(store, Stuck(stored.folder), timedelta(), timedelta(0)).step() == 2
    assert stored.prefixes == {claims[1].prefix}
    assert [line["prefix"] for line in logs if line["log_level"] == "warning"] == [claims[1].prefix]


async def test_a_store_that_can_not_be_listed_is_a_line_in_the_log(store: Store, tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    (tmp_path / "gone").touch()

    with capture_logs() as logs:
        assert await Sweeper(store, objects, timedelta(), timedelta(0)).step() == 0
    assert [line["event"] for line in logs] == ["object store not looked through"]


async def test_replicas_look_one_at_a_time_and_once_per_interval(store: Store) -> None:
    hour = timedelta(hours=1)
    async with store.sweep(timedelta(0)) as first, store.sweep(timedelta(0)) as second:
        assert (first, second) == (True, False)
    async with store.sweep(hour) as again:
        assert again
    for _ in range(2):
        async with store.sweep(hour) as too_early:
            assert not too_early
