"""The end of files: when it comes, who brings it, and what a janitor's death changes about it."""

import asyncio
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from structlog.testing import capture_logs

from deploy.local.postgres import EmbeddedPostgres
from services.exporter.config import Settings
from services.exporter.domain import artifact_id
from services.exporter.loops import Janitor, janitor
from services.exporter.pipeline import ObjectStore
from services.exporter.store import Store
from shared import migration
from shared.database import Database, connect
from tests.conftest import fresh_database
from tests.exporter.runs import claimed, digest, names, outcome, published, requested, seal

NO_WAIT = timedelta(0)


@pytest.fixture
def keeper(store: Store, objects: ObjectStore) -> Janitor:
    """A janitor whose failures come again at once."""
    return Janitor(store, objects, timedelta(), lease=NO_WAIT)


async def exported(store: Store, objects: ObjectStore, parts: int = 2, tenant: str = "t1") -> UUID:
    """A finished run with its objects."""
    claim = await claimed(store, requested(tenant=tenant))
    left = outcome(claim, parts)
    for file in left.files:
        objects.write(file.object_key, [b"sealed"])
    await store.succeed(claim, left, seal)
    return claim.run_id


async def expire(database: Database, run_id: UUID | None = None) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            "UPDATE artifacts SET expires_at = now() - interval '1 s' WHERE $1::uuid IS NULL OR run_id = $1", run_id
        )


async def states(database: Database, run_id: UUID) -> list[str]:
    async with database.transaction() as connection:
        found = await connection.fetch("SELECT state FROM artifacts WHERE run_id = $1 ORDER BY number", run_id)
    return [row["state"] for row in found]


async def deletions(database: Database, run_id: UUID | None = None) -> list[Any]:
    return [event for event in await published(database, run_id) if type(event).__name__ == "ArtifactDeleted"]


# --- when ---------------------------------------------------------------------------------------------------------


async def test_a_tenants_own_time_counts_from_the_success_of_the_run(database: Database) -> None:
    by_tenant = {"acme": timedelta(days=90)}
    store = Store(database, timedelta(days=30), by_tenant)
    for tenant in ("acme", "t1"):
        claim = await claimed(store, requested(tenant=tenant))
        await store.succeed(claim, outcome(claim, 1), seal)
    before = await published(database)
    by_tenant["acme"] = timedelta(days=1)

    stored = [event for event in before if type(event).__name__ == "ArtifactStored"]
    assert {event.tenant: event.expires_at - event.occurred_at for event in stored} == {
        "acme": timedelta(days=90),
        "t1": timedelta(days=30),
    }
    async with database.transaction() as connection:
        kept = await connection.fetch("SELECT tenant, expires_at - stored_at AS time FROM artifacts")
    assert {row["tenant"]: row["time"] for row in kept} == {"acme": timedelta(days=90), "t1": timedelta(days=30)}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("RETENTION", "PT59M", "set RETENTION to an hour or more"),
        ("RETENTION", "P401D", "retention"),
        ("RETENTION", "-P1D", "retention"),
        ("RETENTION_BY_TENANT", '{"acme": "P401D"}', "retention_by_tenant.acme"),
        ("RETENTION_BY_TENANT", '{"acme": "soon"}', "retention_by_tenant.acme"),
        ("SWEEP", "PT1S", "sweep"),
    ],
)
def test_a_time_that_can_not_be_kept_stops_the_start_by_name(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str, text: str, told: str
) -> None:
    given = settings.model_dump(exclude={"retention", "retention_by_tenant", "sweep"})
    monkeypatch.setenv(f"CDDS_EXPORTER_{name}", text)

    with pytest.raises(ValueError, match="validation error") as refused:
        Settings(**given)
    (error,) = refused.value.errors()  # type: ignore[attr-defined]
    assert told in (".".join(error["loc"]), error["msg"].removeprefix("Value error, ").partition(",")[0])


def test_times_per_tenant_are_read_from_the_environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDDS_EXPORTER_RETENTION_BY_TENANT", '{"acme":"P90D"}')

    read = Settings(**settings.model_dump(exclude={"retention_by_tenant"}))

    assert (read.retention, read.retention_by_tenant) == (timedelta(days=30), {"acme": timedelta(days=90)})


# --- how ----------------------------------------------------------------------------------------------------------


async def test_expired_files_lose_their_bytes_and_everybody_is_told_once(
    store: Store, objects: ObjectStore, database: Database, keeper: Janitor
) -> None:
    old, young = await exported(store, objects), await exported(store, objects)
    await expire(database, old)

    assert await keeper.step() == 2
    assert await keeper.step() == 0

    assert (await states(database, old), await states(database, young)) == (["deleted"] * 2, ["available"] * 2)
    assert [objects.exists(f"{run}/1/{number:04}") for run in (old, young) for number in (1, 2)] == [
        False, False, True, True,
    ]  # fmt: skip
    events = await deletions(database)
    assert {(event.run_id, event.artifact_id) for event in events} == {(old, artifact_id(old, 1, n)) for n in (1, 2)}
    assert {(event.tenant, event.reason, event.actor) for event in events} == {("t1", "expired", "retention")}
    assert len(events) == 2


async def test_janitors_share_the_work_and_tell_of_each_file_once(
    store: Store, objects: ObjectStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "BATCH", 3)
    runs = [await exported(store, objects, parts=4) for _ in range(5)]
    await expire(database)
    janitors = [Janitor(store, objects, timedelta()) for _ in range(4)]

    async def work(one: Janitor) -> int:
        done = 0
        while (some := await one.step()) > 0:
            assert some <= 3
            done += some
        return done

    done = await asyncio.gather(*(work(one) for one in janitors))

    # Rows that somebody else has locked in that very moment are left for the next look.
    done.append(await work(janitors[0]))
    assert sum(done) == 20
    assert sorted(event.artifact_id for event in await deletions(database)) == sorted(
        artifact_id(run, 1, number) for run in runs for number in range(1, 5)
    )
    assert not any(objects.exists(f"{run}/1/{number:04}") for run in runs for number in range(1, 5))


async def test_two_janitors_with_the_same_files_are_one_deletion(
    store: Store, objects: ObjectStore, database: Database
) -> None:
    run_id = await exported(store, objects)
    await expire(database)

    first = await store.take_deletions(10, NO_WAIT)
    second = await store.take_deletions(10, timedelta(minutes=1))
    assert {each.artifact_id for each in first} == {each.artifact_id for each in second}
    assert await store.take_deletions(10, NO_WAIT) == []  # the second one's time is not over

    ids = [each.artifact_id for each in first]
    told = await asyncio.gather(*(store.finish_deletions(ids) for _ in range(4)))

    assert sorted(told) == [0, 0, 0, 2]
    assert len(await deletions(database, run_id)) == 2


async def test_an_object_that_can_not_be_deleted_holds_no_other_up_and_comes_again(
    store: Store, objects: ObjectStore, database: Database, tmp_path: Path
) -> None:
    keeper = Janitor(store, objects, timedelta())
    stuck, other = await exported(store, objects, parts=1), await exported(store, objects, parts=3)
    await expire(database)
    path = tmp_path / "objects" / str(stuck) / "1" / "0001"
    path.unlink()
    path.mkdir()  # what is a folder can't be deleted as an object
    (path / "in the way").touch()

    with capture_logs() as logs:
        await keeper.step()

    assert (await states(database, stuck), await states(database, other)) == (["deleting"], ["deleted"] * 3)
    (line,) = [line for line in logs if line["log_level"] == "warning"]
    assert (line["objects"], str(stuck) in line["error"]) == (1, True)
    assert len(await deletions(database)) == 3

    (path / "in the way").unlink()
    path.rmdir()
    assert await keeper.step() == 0  # not at once
    async with database.transaction() as connection:
        await connection.execute("UPDATE artifacts SET deletion_due_at = now()")
    await keeper.step()
    assert await states(database, stuck) == ["deleted"]
    assert len(await deletions(database)) == 4


async def test_bytes_that_are_gone_already_are_as_good_as_deleted(
    store: Store, objects: ObjectStore, database: Database, keeper: Janitor
) -> None:
    run_id = await exported(store, objects)
    objects.delete_prefix(str(run_id))
    await expire(database)

    await keeper.step()

    assert await states(database, run_id) == ["deleted"] * 2


async def test_a_file_that_expired_after_it_was_asked_to_go_was_asked_to_go(
    store: Store, objects: ObjectStore, database: Database, keeper: Janitor
) -> None:
    run_id = await exported(store, objects, parts=1)
    await store.order_deletion("t1", artifact_id(run_id, 1, 1), "ada")
    await expire(database)

    await keeper.step()

    (event,) = await deletions(database)
    assert (event.reason, event.actor) == ("requested", "ada")


async def test_whoever_comes_while_a_file_is_being_withdrawn_learns_that_it_is_gone(
    store: Store, objects: ObjectStore, database: Database
) -> None:
    run_id = await exported(store, objects, parts=1)
    part = artifact_id(run_id, 1, 1)

    async def waiting(comers: int) -> None:
        async with database.transaction() as connection, asyncio.timeout(20):
            while comers > await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.01)

    async with database.transaction() as connection:
        await connection.execute(
            """UPDATE artifacts SET state = 'deleting', deletion_reason = 'requested', deletion_actor = 'ada',
                                    deletion_due_at = now()"""
        )
        comers = [
            asyncio.create_task(store.order_deletion("t1", part, "bob")),
            asyncio.create_task(store.start_download("t1", part, "bob")),
        ]
        await waiting(2)
    found = await asyncio.gather(*comers)

    assert [each.gone for each in found if each is not None] == ["requested"] * 2
    assert "ArtifactDownloaded" not in names(await published(database))
    await Janitor(store, objects, timedelta()).step()
    assert [event.actor for event in await deletions(database)] == ["ada"]


JANITOR = """
import asyncio, sys
from datetime import timedelta
from pathlib import Path
from services.exporter.loops import Janitor
from services.exporter.pipeline import ObjectStore
from services.exporter.store import Store
from shared.database import connect

async def main(dsn, folder):
    async with connect(dsn, "exporter", outbox=True) as database:
        store = Store(database, timedelta(days=30))
        await Janitor(store, ObjectStore(Path(folder)), timedelta(), lease=timedelta(0)).step()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("point", "bytes_left"),
    [("exporter.deletion_marked", 2), ("exporter.objects_deleted", 0), ("exporter.deletion_told", 0)],
)
async def test_a_janitor_killed_at_any_point_is_followed_by_one_that_goes_on(
    postgres: EmbeddedPostgres, templates: dict[str, str], tmp_path: Path, point: str, bytes_left: int
) -> None:
    objects = ObjectStore(tmp_path)

    async def a_janitor_runs(**environment: str) -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", JANITOR, dsn, str(tmp_path), env=os.environ | environment,
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        return await process.wait()

    async with (
        fresh_database(postgres, templates["exporter"]) as dsn,
        connect(dsn, "exporter", outbox=True) as database,
    ):
        run_id = await exported(Store(database, timedelta(days=30)), objects)
        await expire(database)

        assert await a_janitor_runs(CDDS_FAILPOINT=point) == -9

        # It was promised that they are gone as soon as they were marked, and nobody was told of more than is true.
        assert await states(database, run_id) == ["deleting"] * 2
        assert await deletions(database) == []
        assert sum(objects.exists(f"{run_id}/1/{number:04}") for number in (1, 2)) == bytes_left

        assert await a_janitor_runs() == 0

        assert await states(database, run_id) == ["deleted"] * 2
        assert sorted(event.artifact_id for event in await deletions(database)) == sorted(
            artifact_id(run_id, 1, number) for number in (1, 2)
        )
        assert not any(objects.exists(f"{run_id}/1/{number:04}") for number in (1, 2))
        assert await a_janitor_runs() == 0
        assert len(await deletions(database)) == 2


async def test_the_look_for_work_reads_no_more_than_the_work(
    store: Store, objects: ObjectStore, database: Database
) -> None:
    await exported(store, objects)
    async with database.transaction() as connection:
        await connection.execute(
            """INSERT INTO artifacts (artifact_id, run_id, tenant, number, object_key, file_name, size_bytes, rows,
                 sha256, expires_at, state, deletion_reason, deletion_actor, deletion_due_at, deleted_at)
               SELECT gen_random_uuid(), run_id, tenant, number + 10 * n, object_key, file_name, size_bytes, rows,
                 sha256, now(), 'deleted', 'expired', 'x', now(), now()
               FROM artifacts, generate_series(1, 3000) n"""
        )
        await connection.execute("SET LOCAL ROLE NONE; ANALYZE artifacts; SET LOCAL ROLE exporter_worker")
        for condition, order, index in (
            ("state = 'available' AND expires_at <= now()", "expires_at", "artifacts_expiring"),
            ("state = 'deleting' AND deletion_due_at <= now()", "deletion_due_at", "artifacts_deleting"),
        ):
            plan = await connection.fetch(
                f"EXPLAIN SELECT artifact_id FROM artifacts WHERE {condition} ORDER BY {order} LIMIT 500 "
                "FOR UPDATE SKIP LOCKED"
            )
            assert any(index in row[0] for row in plan), plan


# --- rows of before -----------------------------------------------------------------------------------------------


async def test_manifests_and_files_of_the_release_before_are_kept(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, objects: ObjectStore
) -> None:
    before = [file for file in migration.of_service("exporter", outbox=True) if file.name < "0003"]
    async with fresh_database(postgres) as dsn:
        with monkeypatch.context() as patched:
            patched.setattr(migration, "of_service", lambda *_, **__: before)
            await migration.migrate(dsn, "exporter", outbox=True)
        request = requested()
        run, manifest, artifact = request.run_id, UUID(int=1), UUID(int=2)
        connection = await asyncpg.connect(dsn, server_settings={"search_path": "exporter"})
        await connection.execute(
            """INSERT INTO runs (run_id, job_id, tenant, request, state, attempts_allowed, attempt, finished_at)
               VALUES ($1, $2, 't1', $3, 'succeeded', 1, 1, now())""",
            run, request.job_id, request.model_dump_json(),
        )  # fmt: skip
        await connection.execute(
            """INSERT INTO manifests (manifest_id, run_id, tenant, file_name, body, sha256)
               VALUES ($1, $2, 't1', 'm.json', 'signed', $3)""",
            manifest, run, digest(b"signed"),
        )  # fmt: skip
        await connection.execute(
            """INSERT INTO artifacts (artifact_id, run_id, tenant, number, object_key, file_name, size_bytes, rows,
                                      sha256, expires_at)
               VALUES ($1, $2, 't1', 1, $3, 'p', 6, 1, 'x', now() - interval '1 s')""",
            artifact, run, f"{run}/1/0001",
        )  # fmt: skip
        await connection.close()

        async with connect(dsn, "exporter", outbox=True) as database:
            store = Store(database, timedelta(days=30))
            kept = await store.file("t1", manifest)
            assert kept is not None
            assert (kept.body, kept.file_name, kept.gone) == (b"signed", "m.json", None)
            assert await Janitor(store, objects, timedelta()).step() == 1
            assert names(await published(database)) == ["ArtifactDeleted"]
            async with database.transaction() as worker:
                row: Mapping[str, Any] | None = await worker.fetchrow("SELECT kind FROM documents")
            assert row is not None
            assert row["kind"] == "manifest"
