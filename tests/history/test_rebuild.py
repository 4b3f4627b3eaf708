"""Rebuilds from the outboxes, while everything goes on, whoever dies."""

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, cast
from uuid import UUID, uuid4

import orjson
import pytest
from aiokafka import AIOKafkaConsumer
from pydantic import SecretStr

from cli import history
from cli.console import Exit, Failure
from deploy.local.postgres import EmbeddedPostgres
from services.history.config import Settings
from services.history.loops import rebuild as loop
from services.history.store import SHADOW, Store, requests
from shared.cluster import Cluster
from shared.database import Database, connect
from shared.events import EVENT_TYPES, TOPICS, Event, JobDeleted, JobState
from shared.messaging import ensure_topics
from shared.migration import migrate
from tests.conftest import fresh_database
from tests.history.events import Run, batch, everything, finished_run, job_event, project, streams
from tests.history.world import OWNERS, World, connected, remembering, running, world

LEFT_OVER = "SELECT count(*) FROM pg_namespace WHERE nspname IN ('history_shadow', 'history_replaced')"


@pytest.fixture
async def lived(postgres: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[World]:
    """A world in which nothing has happened yet."""
    async with fresh_database(postgres) as dsn, world(dsn, tmp_path) as made:
        yield made


def lives(seed: int, count: int = 5) -> list[Event]:
    """What happens to a few jobs and runs, in an order that the owners may commit it in."""
    random = Random(seed)
    return [event for _ in range(count) for stream in streams(random) for event in stream]


async def rows(world: World) -> dict[str, list[dict[str, Any]]]:
    async with connect(world.dsn, "history") as pool:
        return await everything(pool, progress=False)


async def projected(world: World) -> dict[str, list[dict[str, Any]]]:
    """What a history tells that was never rebuilt and heard all at once; in place of the one of `world`."""
    async with connected(world.dsn) as connection:
        await connection.execute("DROP SCHEMA history CASCADE")
        told = [
            EVENT_TYPES[row["type"]].model_validate_json(row["value"], extra="ignore")
            for owner in OWNERS
            for row in await connection.fetch(f"SELECT type, value FROM {owner}.outbox ORDER BY id")
        ]
    async with connect(world.dsn, "history") as pool:
        store = Store(pool)
        await store.keep_partitions()
        await project(store, told)
        return await everything(pool, progress=False)


async def positions(world: World) -> dict[Any, int]:
    async with connected(world.dsn) as connection:
        return {row["event_id"]: row["position"] for row in await connection.fetch("TABLE history.events")}


def everyone(dsn: str) -> dict[str, str]:
    """Whose DSN is what, with one login for all."""
    return dict.fromkeys(("history", *OWNERS), dsn)


async def rebuilt(world: World, *, checking: bool = False) -> dict[str, Any]:
    """The report of a rebuild, which leaves nothing else behind."""
    ended = await history._rebuild(everyone(world.dsn), checking=checking)
    assert ended.state == "finished", ended.reason
    assert ended.report is not None
    await cleared(world)
    return dict(ended.report)


async def cleared(world: World) -> None:
    async with asyncio.timeout(20):
        while await world.ask(LEFT_OVER):
            pass


def differing(report: dict[str, Any]) -> set[str]:
    return {table["table"] for table in report["tables"] if not table["equal"]}


async def test_a_rebuild_equals_the_live_tables_while_events_keep_arriving(lived: World) -> None:
    await lived.happen(lives(1))
    async with remembering(lived.dsn, lived.bootstrap):
        await lived.until_projected()
        before = await positions(lived)

        async def go_on() -> None:
            for seed in itertools.count(2):
                await lived.happen(lives(seed, 1))

        async with running(go_on()):
            report = await rebuilt(lived)
        await lived.until_projected()

    assert differing(report) == set()
    assert {table["table"] for table in report["tables"]} == {
        "artifacts", "events", "executions", "job_versions", "slots_not_run", "slots_waiting", "statistics",
    }  # fmt: skip
    after = await positions(lived)
    assert before.items() <= after.items()
    assert len(after) > report["events"] >= len(before)
    assert len(set(after.values())) == len(after)
    assert None not in after.values()
    assert await rows(lived) == await projected(lived)


def job_at(job_id: UUID, version: int, at: datetime, *, deleted: bool = False) -> Event:
    told = job_event("t1", job_id, version).model_copy(update={"occurred_at": at})
    if not deleted:
        return told
    gone = told.job.model_copy(update={"state": JobState.DELETED})
    return JobDeleted(occurred_at=at, tenant="t1", job_id=job_id, actor="a", job=gone)


async def test_a_purge_of_the_outboxes_takes_nothing_from_a_rebuild(lived: World) -> None:
    """Of a job that lives, the version in force at the beginning of history was written long before."""
    now = datetime.now(UTC)
    recent, ancient, idle, gone = now - timedelta(days=1), now - timedelta(days=500), uuid4(), uuid4()
    old_run, new_run = Run("t1", idle, ancient), Run("t1", idle, recent)
    await lived.happen(
        [
            *(job_at(idle, version, ancient + timedelta(hours=version)) for version in (1, 2)),
            job_at(gone, 1, ancient), job_at(gone, 2, ancient, deleted=True),
            old_run.requested(), new_run.requested().model_copy(update={"job_version": 2}),
            *(event for run in (old_run, new_run) for event in (run.queued(), run.started(), *run.succeeded())),
        ]
    )  # fmt: skip
    async with remembering(lived.dsn, lived.bootstrap) as store:
        await lived.until_published()
        report = await rebuilt(lived)
        assert differing(report) == set()
        await store.tidy()
        before = await rows(lived)

        assert await lived.purge() == {"job_api": 3, "scheduler": 1, "exporter": 5}
        after = await rebuilt(lived)

    assert differing(after) == set()
    assert await rows(lived) == before
    assert [(row["job_id"], row["version"]) for row in before["job_versions"]] == [(idle, 2)]
    assert [row["run_id"] for row in before["executions"]] == [new_run.run_id]


async def test_that_live_has_caught_up_is_seen_at_once(bootstrap: str) -> None:
    cluster, group = Cluster(bootstrap), uuid4().hex
    await ensure_topics(cluster, 2, 1)
    # Other tests have published here, too.
    async with AIOKafkaConsumer(**cluster.client(), group_id=group, enable_auto_commit=False) as live:
        partitions = await loop._partitions_of(cluster.client(), [topic.name for topic in TOPICS])
        live.assign(partitions)
        await live.commit(await live.end_offsets(partitions))
    settings = Settings(
        http_port=1, postgres=SecretStr("postgresql://127.0.0.1:1/none"), kafka=bootstrap, auth_issuer="test",
        auth_public_key=Path("unused"),
    )  # fmt: skip
    async with asyncio.timeout(60):
        await loop.Rebuilder(group, settings, cast(Store, None))._until_live_has_caught_up()


async def damage(world: World) -> None:
    async with connected(world.dsn) as connection:
        await connection.execute("SET search_path = history")
        await connection.execute("DELETE FROM events WHERE type = 'RunStarted'")
        await connection.execute("UPDATE executions SET title = 'wrong'")
        await connection.execute("DELETE FROM artifacts")
        await connection.execute("UPDATE statistics SET succeeded = succeeded + 1")
        await connection.execute(
            "INSERT INTO slots_waiting VALUES (gen_random_uuid(), 'x', 't1', 1, now(), 'x', now())"
        )


async def test_a_check_names_the_tables_that_differ_and_changes_nothing(lived: World) -> None:
    await lived.happen([*lives(1), *finished_run()[1]])
    async with remembering(lived.dsn, lived.bootstrap):
        await lived.until_projected()
        code, answer, complaint = await lived.command("--postgres", lived.dsn, "--check")
        assert (code, complaint) == (0, "")
        assert answer.endswith("Nothing was changed.\n")
        await damage(lived)
        wrong = await rows(lived)

        code, answer, _ = await lived.command("--postgres", lived.dsn, "--check", "--output", "json")
        await cleared(lived)

    assert code == Exit.VERIFICATION
    report = orjson.loads(answer)
    assert differing(report) == {"events", "executions", "artifacts", "statistics", "slots_waiting"}
    assert (report["equal"], report["swapped"]) == (False, False)
    assert await rows(lived) == wrong


async def test_a_rebuild_repairs_what_was_damaged_and_keeps_all_positions(lived: World) -> None:
    await lived.happen([*lives(1), *finished_run()[1]])
    async with remembering(lived.dsn, lived.bootstrap):
        await lived.until_projected()
        right, before = await rows(lived), await positions(lived)
        await damage(lived)
        kept = await positions(lived)

        report = await rebuilt(lived)
        after = await positions(lived)
        assert differing(await rebuilt(lived, checking=True)) == set()

    assert differing(report) == {"events", "executions", "artifacts", "statistics", "slots_waiting"}
    assert await rows(lived) == right
    assert kept.items() <= after.items()
    # Who follows the timeline has not seen them yet, or has forgotten them.
    returned = before.keys() - kept.keys()
    assert returned
    assert min(after[event_id] for event_id in returned) > max(kept.values())


async def test_a_lost_history_comes_back(lived: World) -> None:
    await lived.happen(lives(1))
    async with remembering(lived.dsn, lived.bootstrap):
        await lived.until_projected()
        right = await rows(lived)
    async with connected(lived.dsn) as connection:
        await connection.execute("DROP SCHEMA history CASCADE")

    async with remembering(lived.dsn, lived.bootstrap):
        report = await rebuilt(lived)

    assert {table["table"]: table["live"] for table in report["tables"]} == dict.fromkeys(
        (table["table"] for table in report["tables"]), 0
    )
    assert await rows(lived) == right


async def test_runs_are_found_whose_exporter_did_not_tell_when_they_were_requested(lived: World) -> None:
    _, events = finished_run()
    old = [
        event.model_copy(update={"requested_at": None}) if hasattr(event, "requested_at") else event for event in events
    ]
    await lived.happen(old)
    async with remembering(lived.dsn, lived.bootstrap):
        report = await rebuilt(lived)
        await lived.until_projected()

        assert report["unreadable"] == 0
        [run] = (await rows(lived))["executions"]
        assert (run["state"], run["title"]) == ("succeeded", "Interactions")


async def test_what_cannot_be_read_is_counted(lived: World) -> None:
    run, events = finished_run()
    far = run.deleted(1).model_copy(update={"occurred_at": run.now + timedelta(days=3000)})
    await lived.happen([*events, far])
    await lived.ask("""INSERT INTO job_api.outbox (event_id, topic, key, type, tenant, occurred_at, value)
                       VALUES (gen_random_uuid(), 'job_api.jobs.v1', 'k', 'cdds.JobRenamed.v1', 't1', now(), '{}')""")
    async with remembering(lived.dsn, lived.bootstrap):
        report = await rebuilt(lived)

    assert report["unreadable"] == 2
    assert differing(report) == set()


@pytest.mark.parametrize("point", ["rebuild.projected", "rebuild.copied", "rebuild.concluded"])
async def test_a_rebuild_whose_process_dies_is_taken_up_again(lived: World, tmp_path: Path, point: str) -> None:
    await lived.happen(lives(1))
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.history.world", lived.dsn, lived.bootstrap,
        env={**os.environ, "CDDS_FAILPOINT": point},
    )  # fmt: skip
    await lived.until_projected()
    before = await positions(lived)
    asked = asyncio.create_task(rebuilt(lived))
    assert await killed.wait() == -signal.SIGKILL
    await lived.happen(lives(2))

    async with remembering(lived.dsn, lived.bootstrap):
        report = await asked
        await lived.until_projected()
        await cleared(lived)

    assert differing(report) == set()
    after = await positions(lived)
    assert before.items() <= after.items()
    assert None not in after.values()
    assert await rows(lived) == await projected(lived)


async def test_a_rebuild_of_which_nothing_is_heard_is_given_up(lived: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SILENT_FOR", timedelta(0))
    async with remembering(lived.dsn, lived.bootstrap), connected(lived.dsn) as connection:
        asked, _ = await requests.ask(connection, checking=False)  # as by a command that is stopped at once
        async with asyncio.timeout(30):
            while not (found := await requests.look(connection, asked.rebuild_id)) or not found.over:
                pass
        await cleared(lived)
    assert (found.state, found.reason) == ("failed", "Silence('job_api.jobs.v1.replay')")
    assert await lived.ask("SELECT to_regclass('history.events') IS NOT NULL")


async def test_who_asks_while_a_rebuild_is_under_way_joins_it(lived: World) -> None:
    await lived.happen(lives(1))
    async with remembering(lived.dsn, lived.bootstrap):
        await lived.until_projected()
        first, second = await asyncio.gather(rebuilt(lived), rebuilt(lived))

    assert first == second
    assert await lived.ask("SELECT count(*) FROM history.rebuilds") == 1


async def test_readers_see_no_error_and_no_gap_while_the_tables_are_swapped(lived: World) -> None:
    await lived.happen(lives(1))
    async with remembering(lived.dsn, lived.bootstrap) as store:
        await lived.until_projected()
        count = await lived.ask("SELECT count(*) FROM history.events WHERE tenant = 't1'")
        seen: list[int] = []

        async def read() -> None:
            while True:
                async with store._database.tenant("t1") as connection:
                    rows = await connection.fetch("SELECT * FROM events WHERE tenant = $1 ORDER BY position", "t1")
                    await connection.fetch("SELECT run_id, state FROM executions WHERE tenant = $1", "t1")
                    seen.append(len(rows))

        async with running(read()), running(read()), running(read()):
            for _ in range(2):
                assert differing(await rebuilt(lived)) == set()
            await cleared(lived)
    assert set(seen) == {count}


async def test_a_reader_in_the_middle_of_its_transaction_is_not_disturbed_either(lived: World) -> None:
    await lived.happen(lives(1))
    async with remembering(lived.dsn, lived.bootstrap) as store:
        await lived.until_projected()
        async with store._database.transaction() as connection:
            await connection.execute("TABLE slots_waiting")
            await history._rebuild(everyone(lived.dsn), checking=False)
            async with asyncio.timeout(30):
                while not await lived.ask(
                    "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'relation')"
                ):
                    pass
            # By now the old table of this name is locked by who waits for the other one.
            versions = await connection.fetchval("SELECT count(*) FROM job_versions")
            assert versions == await lived.ask("SELECT count(*) FROM history.job_versions")
        await cleared(lived)


async def test_a_rebuild_that_cannot_take_a_live_event_ends_and_live_goes_on(store: Store, database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL ROLE NONE")
        await connection.execute("INSERT INTO rebuilds VALUES (gen_random_uuid(), now(), true, 'copying')")

    _, events = finished_run()
    await project(store, events)

    assert len((await everything(database))["artifacts"]) == 2
    async with database.transaction() as connection:
        rebuild = await connection.fetchrow("SELECT state, reason FROM rebuilds")
    assert rebuild is not None
    assert rebuild["state"] == "failed"
    assert "does not exist" in rebuild["reason"]


async def test_an_end_that_is_heard_before_the_copied_start_is_counted_with_its_duration(
    postgres: EmbeddedPostgres,
) -> None:
    _, (request, queued, start, _, *ends) = finished_run()
    async with fresh_database(postgres) as dsn, connect(dsn, "history") as pool, connected(dsn) as connection:
        store = Store(pool)
        await store.keep_partitions()
        await project(store, [request, queued, start])
        rebuild, _ = await requests.ask(connection, checking=False)
        await migrate(dsn, "history", outbox=False, schema=SHADOW)
        await store.make_shadow(rebuild)
        await project(store, ends)
        await store.project_into_shadow(batch([request, queued, start]))

        await store.recount_shadow()

        assert all(table.equal for table in await store.compare())
        await store.conclude(rebuild, {})
        [statistics] = (await everything(pool))["statistics"]
        assert statistics["duration_seconds"] == (ends[-1].occurred_at - start.occurred_at).total_seconds()


async def test_a_login_that_is_no_superuser_can_rebuild(postgres: EmbeddedPostgres, templates: dict[str, str]) -> None:
    async with fresh_database(postgres) as dsn:
        async with connected(dsn) as connection:
            await connection.execute(f"""
                CREATE ROLE plain LOGIN CREATEROLE;
                GRANT history_worker, history_tenant TO plain WITH ADMIN OPTION;
                GRANT CREATE ON DATABASE {dsn.rpartition("/")[2]} TO plain""")
        plain = dsn.replace("postgres@", "plain@")
        async with connect(plain, "history") as pool, connected(plain) as connection:
            store = Store(pool)
            await store.keep_partitions()
            going, (_, events), (_, lost) = Run(), finished_run(), finished_run()
            await project(store, [*events, going.queued(), going.started(), going.progressed()])

            rebuild, new = await requests.ask(connection, checking=False)
            await migrate(plain, "history", outbox=False, schema=SHADOW)
            await store.make_shadow(rebuild)
            await store.project_into_shadow(batch([*events, *lost]))
            await store.recount_shadow()
            tables = {table.table: (table.live, table.rebuilt) for table in await store.compare()}
            await store.conclude(rebuild, {})
            await store.clear()

            assert new
            assert tables["artifacts"] == (2, 4)
            assert await connection.fetchval("SELECT count(*) FROM history.events WHERE position IS NULL") == 0
            assert await connection.fetchval("SELECT count(*) FROM history.progress") == 1
            assert await connection.fetchval("SELECT state FROM history.rebuilds") == "finished"
            await project(store, [*events, *finished_run()[1]])
            assert len((await everything(pool))["executions"]) == 3
        async with connected(dsn) as connection:
            await connection.execute("DROP OWNED BY plain CASCADE")
            await connection.execute("DROP ROLE plain")


async def test_nobody_answers_is_told_by_the_exit_code(tmp_path: Path) -> None:
    for where in (("--postgres", "postgresql://127.0.0.1:1/none"), ("--data", str(tmp_path))):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cli", "history", "rebuild", *where, stderr=asyncio.subprocess.DEVNULL
        )
        assert await process.wait() == Exit.UNREACHABLE


async def test_a_rebuild_that_nobody_takes_up_is_withdrawn(lived: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "TAKEN_UP_WITHIN_SECONDS", 0)
    with pytest.raises(Failure, match="history does not take it up") as failure:
        await history._rebuild(everyone(lived.dsn), checking=True)
    assert failure.value.code == Exit.UNREACHABLE
    assert await lived.ask("SELECT count(*) FROM history.rebuilds") == 0
