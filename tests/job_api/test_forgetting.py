"""What job_api forgets, and which events stay because jobs and certificates do."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.job_api.domain import commands, jobs
from services.job_api.domain.runs import RunStatus, Sighting
from services.job_api.store import NEEDED_EVENTS, Store
from shared import outbox
from shared.database import Database
from shared.events import Job, new_event_id
from tests.job_api.jobs import VALID, create, sources

AGE = timedelta(days=462)
EVENTS = timedelta(days=432)


async def grow_old(database: Database, table: str, *columns: str, where: str = "true") -> None:
    changes = ", ".join(f"{column} = {column} - interval '463 days'" for column in columns)
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL ROLE NONE")  # the login role owns the tables
        await connection.execute(f"UPDATE {table} SET {changes} WHERE {where}")


async def forget(store: Store) -> dict[str, int]:
    return {table: await step(100) for table, step in store.forgetting(AGE).items()}


async def edit(store: Store, job: Job, title: str) -> Job:
    changed = await store.change_job(
        "acme", job.id,
        lambda facts: jobs.edit(
            facts, facts.job.settings.model_copy(update={"title": title}), actor="alice", expected=None,
            sources=sources(),
        ),
    )  # fmt: skip
    return changed.job


async def delete(store: Store, job: Job) -> None:
    await store.change_job("acme", job.id, lambda facts: jobs.delete(facts, actor="alice", expected=None))


async def told(database: Database) -> list[tuple[str, str]]:
    """The events that are left: whose, and what; certificates aside."""
    async with database.session() as connection:
        rows = await connection.fetch("SELECT key, type FROM outbox WHERE type LIKE 'cdds.Job%' ORDER BY id")
    return [(row["key"], row["type"].split(".")[1]) for row in rows]


async def purge_events(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("UPDATE outbox SET published_at = now()")
    retention = outbox.Retention(database, EVENTS, NEEDED_EVENTS)
    while await retention.forget(3):
        pass


async def test_of_a_living_job_the_version_stays_that_was_in_force(database: Database, store: Store) -> None:
    idle, edited, gone = [await create(store) for _ in range(3)]
    for title in ("second", "third"):
        await edit(store, edited, title)
    await delete(store, gone)
    await grow_old(database, "outbox", "occurred_at")
    await edit(store, edited, "lately")

    await purge_events(database)

    assert await told(database) == [
        (str(idle.id), "JobCreated"), (str(edited.id), "JobUpdated"), (str(edited.id), "JobUpdated")
    ]  # fmt: skip


async def test_a_job_that_was_deleted_lately_is_still_told_of(database: Database, store: Store) -> None:
    """Or history would not know, within its months, what was deleted."""
    job = await create(store)
    await edit(store, job, "second")
    await grow_old(database, "outbox", "occurred_at")
    await delete(store, job)

    await purge_events(database)

    assert [what for _, what in await told(database)] == ["JobUpdated", "JobDeleted"]


async def test_certificates_are_told_of_until_they_are_removed(database: Database, store: Store) -> None:
    await store.add_certificate("acme", "alice", VALID)
    await store.add_certificate("globex", "bob", VALID)
    await store.remove_certificate("globex", "bob", VALID.fingerprint)
    await grow_old(database, "outbox", "occurred_at")

    await purge_events(database)

    async with database.session() as connection:
        rows = await connection.fetch("SELECT tenant, type FROM outbox")
    assert [(row["tenant"], row["type"]) for row in rows] == [("acme", "cdds.CertificateAdded.v1")]


def sighting(job_id: UUID, status: RunStatus, backfill_id: UUID | None = None) -> Sighting:
    return Sighting("acme", job_id, uuid4(), status, 5, datetime.now(UTC), backfill_id=backfill_id)


async def test_runs_go_when_they_have_ended(database: Database, store: Store) -> None:
    job = await create(store)
    for status in RunStatus:
        await store.note_run(sighting(job.id, status))
    assert (await forget(store))["runs"] == 0
    await grow_old(database, "runs", "seen_at")

    assert (await forget(store))["runs"] == 4

    async with database.session() as connection:
        rows = await connection.fetch("SELECT state FROM runs")
    assert {row["state"] for row in rows} == {"waiting", "requested", "queued", "running"}


async def test_a_deleted_job_goes_when_nothing_is_in_progress(database: Database, store: Store) -> None:
    job, living = await create(store), await create(store)
    command, now = new_event_id(), datetime.now(UTC)
    wanted = commands.Wanted(now - timedelta(days=1), now - timedelta(hours=4), "all", 1)
    await store.order_for_job(
        "acme", job.id, command,
        lambda facts: commands.backfill(
            facts, wanted, command, settle=lambda _: timedelta(0), actor="alice", expected=None
        ),
    )  # fmt: skip
    await store.note_backfill(command, 1)
    last = sighting(job.id, RunStatus.RUNNING, command)
    await store.note_run(last)
    await store.note_run(replace(last, status=RunStatus.SUCCEEDED, version=6))
    await delete(store, job)
    still = sighting(job.id, RunStatus.RUNNING)
    await store.note_run(still)
    await grow_old(database, "backfills", "requested_at")
    await grow_old(database, "jobs", "updated_at")
    assert await forget(store) == {"idempotency_keys": 0, "audit": 0, "runs": 0, "backfills": 1, "jobs": 0}
    await store.note_run(replace(still, status=RunStatus.FAILED, version=6))

    assert (await forget(store))["jobs"] == 1
    async with database.session() as connection:
        assert [row["id"] for row in await connection.fetch("SELECT id FROM jobs")] == [living.id]


async def test_the_database_keeps_what_is_not_over_whoever_deletes(database: Database, store: Store) -> None:
    job = await create(store)
    for status in RunStatus:
        await store.note_run(sighting(job.id, status))
    async with database.transaction() as connection:
        assert await connection.execute("DELETE FROM runs") == "DELETE 4"
        assert await connection.fetchval("SELECT count(*) FROM runs") == 4
        for table in ("jobs", "outbox"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") > 0
            assert await connection.execute(f"DELETE FROM {table}") == "DELETE 0", table


async def test_the_database_keeps_the_audit_of_400_days_whoever_deletes(database: Database, store: Store) -> None:
    await create(store)
    await grow_old(database, "audit", "at", where="action = 'certificate.add'")
    async with database.transaction() as connection:
        assert await connection.execute("DELETE FROM audit") == "DELETE 1"
        assert await connection.fetchval("SELECT action FROM audit") == "job.create"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with database.tenant("acme") as connection:
            await connection.execute("DELETE FROM audit")
    assert (await forget(store))["audit"] == 0
    await grow_old(database, "audit", "at")
    assert (await forget(store))["audit"] == 1
