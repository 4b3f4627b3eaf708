"""Jobs and certificates on a real PostgreSQL: transactions, races, and who sees what."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.job_api.domain import commands, jobs
from services.job_api.domain.certificates import Certificate
from services.job_api.domain.errors import (
    IdempotencyKeyReused,
    JobInProgress,
    KeyTaken,
    NotFound,
    SettingsRefused,
    VersionMismatch,
)
from services.job_api.domain.jobs import Decision, Facts
from services.job_api.domain.listing import ORDERS, Filter, Order, Place
from services.job_api.store import JobRow, Store
from services.job_api.store.listing import STATEMENTS
from shared import slots
from shared.database import Database
from shared.events import Job, JobState, ScheduleCompleted, Trigger, new_event_id
from tests.job_api.jobs import VALID, create, sources

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
ANY: Filter = Filter()


async def outbox_types(database: Database) -> list[str]:
    async with database.session() as connection:
        return [row["type"] for row in await connection.fetch("SELECT type FROM outbox ORDER BY id")]


async def audited(database: Database) -> list[tuple[str, str, str]]:
    async with database.session() as connection:
        rows = await connection.fetch("SELECT actor, action, subject FROM audit ORDER BY id")
    return [(row["actor"], row["action"], row["subject"]) for row in rows]


def editing(title: str, expected: int | None = None) -> Callable[[Facts], Decision | None]:
    versions = None if expected is None else frozenset({expected})
    return lambda facts: jobs.edit(
        facts, facts.job.settings.model_copy(update={"title": title}), actor="alice", expected=versions,
        sources=sources(),
    )  # fmt: skip


def deleting(facts: Facts) -> Decision | None:
    return jobs.delete(facts, actor="alice", expected=None)


async def run_now(store: Store, job: Job, once: tuple[str, bytes] | None = None) -> UUID:
    command_id = new_event_id()
    run_id = slots.run_id(job.id, f"{Trigger.MANUAL}:{command_id}")
    return await store.order_for_job(
        "acme", job.id, run_id, lambda facts: commands.run_now(facts, command_id, actor="alice", expected=None), once
    )


@pytest.fixture
async def job(store: Store) -> Job:
    return await create(store)


# --- submitting ---------------------------------------------------------------------------------------------------


async def test_a_job_its_event_and_its_audit_row_are_one_transaction(database: Database, store: Store) -> None:
    job = await create(store)
    assert await outbox_types(database) == ["cdds.CertificateAdded.v1", "cdds.JobCreated.v1"]
    assert (await audited(database))[1:] == [("alice", "job.create", str(job.id))]
    row = await store.job("acme", job.id)
    assert row.job == job
    assert row.next_slot_at == slots.first_slot(job.settings, job.created_at)


async def test_a_refused_job_leaves_nothing(database: Database, store: Store) -> None:
    await create(store, key="nightly")
    before = await outbox_types(database), await audited(database)
    with pytest.raises(SettingsRefused):
        await create(store, source="nowhere")
    with pytest.raises(KeyTaken, match="nightly"):
        await create(store, key="nightly")
    assert (await outbox_types(database), await audited(database)) == before


async def test_of_two_who_want_a_key_at_once_one_gets_it(database: Database, store: Store) -> None:
    await create(store)
    answers = await asyncio.gather(*(create(store, key="nightly") for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(answer, Job) for answer in answers) == 1
    assert sum(isinstance(answer, KeyTaken) for answer in answers) == 7
    assert (await outbox_types(database)).count("cdds.JobCreated.v1") == 2


async def test_a_key_is_free_again_once_its_job_is_deleted(store: Store) -> None:
    job = await create(store, key="nightly")
    await store.change_job("acme", job.id, deleting)
    assert (await create(store, key="nightly")).id != job.id


# --- changing -----------------------------------------------------------------------------------------------------


async def test_of_a_hundred_parallel_edits_of_a_version_one_wins(database: Database, store: Store, job: Job) -> None:
    for version in (1, 2, 3):
        answers = await asyncio.gather(
            *(store.change_job("acme", job.id, editing(f"{version}/{n}", version)) for n in range(100)),
            return_exceptions=True,
        )
        winners = [answer for answer in answers if isinstance(answer, JobRow)]
        losers = [answer for answer in answers if isinstance(answer, VersionMismatch)]
        assert (len(winners), len(losers)) == (1, 99)
        assert {loser.current for loser in losers} == {version + 1}
        assert (await store.job("acme", job.id)).job == winners[0].job
    assert (await outbox_types(database)).count("cdds.JobUpdated.v1") == 3


async def test_a_delete_and_a_run_now_at_once_leave_no_run_of_a_deleted_job(database: Database, store: Store) -> None:
    for _ in range(20):
        job = await create(store)
        ran, deleted = await asyncio.gather(
            run_now(store, job), store.change_job("acme", job.id, deleting), return_exceptions=True
        )
        if isinstance(ran, UUID):
            assert isinstance(deleted, JobInProgress)
            assert deleted.named == {"run_id": str(ran)}
        else:
            assert isinstance(ran, NotFound)
            assert isinstance(deleted, JobRow)
    async with database.session() as connection:
        assert not await connection.fetchval(
            "SELECT count(*) FROM runs JOIN jobs ON jobs.id = job_id WHERE jobs.state = 'deleted'"
        )


async def test_a_one_time_job_is_completed_once(database: Database, store: Store) -> None:
    job = await create(store, schedule={"kind": "once"}, start=datetime(2100, 1, 1, tzinfo=UTC))
    event = ScheduleCompleted(occurred_at=NOW, tenant="acme", job_id=job.id, job_version=1)
    before = len(await outbox_types(database))
    assert [await store.follow(job.id, lambda facts: jobs.complete(facts, event)) for _ in range(3)] == [
        True, False, False,
    ]  # fmt: skip
    assert (await outbox_types(database))[before:] == ["cdds.JobSuspended.v1"]
    done = await store.job("acme", job.id)
    assert (done.job.version, done.job.state, done.next_slot_at) == (2, JobState.SUSPENDED, None)
    assert not await store.follow(uuid4(), lambda facts: jobs.complete(facts, event))


async def test_the_next_slot_is_the_schedulers_latest_word_on_this_version(store: Store, job: Job) -> None:
    first, second = NOW, NOW + timedelta(hours=4)
    await store.note_next_slot(job.id, 1, second, NOW + timedelta(seconds=1))
    await store.note_next_slot(job.id, 1, first, NOW)
    await store.note_next_slot(job.id, 0, first, NOW + timedelta(seconds=2))
    assert (await store.job("acme", job.id)).next_slot_at == second


async def test_a_suspended_job_has_no_next_slot_whenever_its_last_one_is_heard_of(store: Store, job: Job) -> None:
    await store.change_job("acme", job.id, lambda facts: jobs.suspend(facts, actor="alice", expected=None))
    for version in (1, 2):
        await store.note_next_slot(job.id, version, NOW, NOW)
    assert (await store.job("acme", job.id)).next_slot_at is None


# --- idempotency keys ---------------------------------------------------------------------------------------------


async def test_of_many_requests_with_one_key_at_once_one_is_done_and_all_are_answered(
    database: Database, store: Store, job: Job
) -> None:
    once = ("k", b"request")
    created = await asyncio.gather(*(create(store, once=once) for _ in range(8)))
    assert len({job.id for job in created}) == 1
    runs = await asyncio.gather(*(run_now(store, job, ("r", b"run")) for _ in range(8)))
    assert len(set(runs)) == 1
    told = await outbox_types(database)
    assert (told.count("cdds.JobCreated.v1"), told.count("cdds.RunNowRequested.v1")) == (2, 1)


async def test_a_key_stands_for_one_request(store: Store, job: Job) -> None:
    await run_now(store, job, ("k", b"this"))
    with pytest.raises(IdempotencyKeyReused):
        await run_now(store, job, ("k", b"that"))


async def test_what_was_refused_does_not_take_the_key(store: Store) -> None:
    await create(store)
    with pytest.raises(SettingsRefused):
        await create(store, source="nowhere", once=("k", b"this"))
    assert await create(store, once=("k", b"that"))


async def test_a_key_is_forgotten_after_seven_days(database: Database, store: Store, job: Job) -> None:
    first = await run_now(store, job, ("k", b"this"))
    assert await store.forget_keys(10) == 0
    assert await run_now(store, job, ("k", b"this")) == first
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL ROLE NONE")  # Whoever serves requests can't change keys.
        await connection.execute("UPDATE idempotency_keys SET taken_at = now() - interval '7 days 1 second'")
    assert await store.forget_keys(10) == 1
    assert await run_now(store, job, ("k", b"that")) != first


# --- who sees what ------------------------------------------------------------------------------------------------


async def test_a_job_is_seen_by_its_tenant_only(store: Store, job: Job) -> None:
    with pytest.raises(NotFound):
        await store.job("globex", job.id)
    with pytest.raises(NotFound):
        await store.change_job("globex", job.id, deleting)
    assert await store.list_jobs("globex", Order(), ANY, 10, None) == []
    assert [row.job.id for row, _ in await store.list_jobs("acme", Order(), ANY, 10, None)] == [job.id]


TABLES = ["jobs", "runs", "certificates", "backfills", "idempotency_keys", "audit", "outbox"]


@pytest.mark.parametrize("table", [table for table in TABLES if table != "outbox"])
async def test_another_tenant_sees_no_row_of_any_table(database: Database, store: Store, job: Job, table: str) -> None:
    run = await run_now(store, job, ("k", b"run"))
    command = new_event_id()
    await store.order_for_job(
        "acme", job.id, command,
        lambda facts: commands.backfill(
            facts, commands.Wanted(NOW - timedelta(days=1), NOW - timedelta(hours=4), "all", 1), command,
            settle=lambda _: timedelta(0), actor="alice", expected=None,
        ),
    )  # fmt: skip
    assert run
    async with database.tenant("acme") as connection:
        assert await connection.fetchval(f"SELECT count(*) FROM {table}")
    async with database.tenant("globex") as connection:
        assert not await connection.fetchval(f"SELECT count(*) FROM {table}")


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'nobody'", "TRUNCATE audit"])
async def test_nobody_changes_the_audit(database: Database, job: Job, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with database.tenant("acme") as connection:
            await connection.execute(statement)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with database.transaction() as connection:
            await connection.execute(statement)


# --- lists --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ORDERS)
async def test_every_order_is_the_order_of_an_index_and_pages_meet(
    database: Database, store: Store, job: Job, text: str
) -> None:
    order = Order.read(text)
    for number in range(6):
        await create(store, title=f"{'aB'[number % 2]}{number}", schedule={"kind": "daily", "at": f"0{number}:00"})
    whole = [row.job.id for row, _ in await store.list_jobs("acme", order, ANY, 100, None)]
    paged: list[UUID] = []
    place: Place | None = None
    while rows := await store.list_jobs("acme", order, ANY, 2, place):
        paged += [row.job.id for row, _ in rows]
        place = rows[-1][1]
        place = Place.read(order, place.written(), place.job_id)
    assert (len(whole), paged) == (7, whole)
    async with database.tenant("acme") as connection:
        await connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        value = rows[0][1].value if rows else place.value if place else ""
        for behind in (False, True):
            arguments = ["acme", None, None, None, None, None, None, 50, *([value, job.id] if behind else [])]
            plan = await connection.fetch(f"EXPLAIN {STATEMENTS[order, behind]}", *arguments)
            lines = "\n".join(line[0] for line in plan)
            index = "jobs_created" if "created_at" in text else f"jobs_by_{order.sort}"
            assert f"using {index} " in lines, lines
            assert "Sort" not in lines
            if behind:
                assert "ROW(" in lines.partition("Index Cond:")[2].partition("Filter:")[0], lines


# --- certificates -------------------------------------------------------------------------------------------------


async def test_certificates_change_one_after_another_by_the_clock_that_events_carry(
    database: Database, store: Store
) -> None:
    async def remove() -> None:
        await store.remove_certificate("acme", "alice", VALID.fingerprint)

    async def add() -> None:
        await store.add_certificate("acme", "alice", VALID)

    await asyncio.gather(*(step() for _ in range(10) for step in (add, remove)), return_exceptions=True)
    async with database.session() as connection:
        rows = await connection.fetch("SELECT type, occurred_at FROM outbox ORDER BY occurred_at")
        left = await connection.fetchval("SELECT count(*) FROM certificates")
    kinds = [row["type"] for row in rows]
    assert all(one != other for one, other in pairwise(kinds))
    assert (kinds[-1] == "cdds.CertificateAdded.v1") == bool(left)
    assert len({row["occurred_at"] for row in rows}) == len(rows)


async def test_a_certificate_that_is_not_there_cannot_be_removed(database: Database, store: Store) -> None:
    with pytest.raises(NotFound):
        await store.remove_certificate("acme", "alice", "0" * 64)
    other = Certificate("0" * 64, VALID.pem, VALID.subject, VALID.not_before, VALID.not_after)
    await store.add_certificate("globex", "bob", other)
    with pytest.raises(NotFound):
        await store.remove_certificate("acme", "alice", other.fingerprint)
    assert await outbox_types(database) == ["cdds.CertificateAdded.v1"]
