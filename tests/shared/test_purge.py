"""The purge: old rows go, in small steps, by one replica at a time, and whoever dies in between does no harm."""

import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from deploy.local.postgres import EmbeddedPostgres
from services.scheduler.config import Settings
from shared import database as databases
from shared import outbox
from shared.database import Database
from shared.events import ScheduleComputed
from shared.purge import kept_for
from tests.conftest import DatabaseOf, fresh_database
from tests.shared.metrics import measured
from tests.shared.purger import COUNT, purge_of, settings

DAY = timedelta(days=1)


async def commit(database: Database, *ages: timedelta, published: bool = True) -> None:
    """Events of that age, in this order."""
    now = datetime.now(UTC)
    events = [
        ScheduleComputed(occurred_at=now - age, tenant="acme", job_id=JOB, job_version=1, next_slot_at=None)
        for age in ages
    ]
    async with database.transaction() as connection:
        await outbox.append(connection, events)
        if published:
            await connection.execute("UPDATE outbox SET published_at = now() WHERE published_at IS NULL")


JOB = "00000000-0000-0000-0000-000000000001"


async def ages(database: Database) -> list[int]:
    """How many days old the events are that are left."""
    async with database.session() as connection:
        rows = await connection.fetch("SELECT occurred_at FROM outbox ORDER BY id")
    return [(datetime.now(UTC) - row["occurred_at"]).days for row in rows]


async def test_published_events_go_when_they_are_too_old(database_of: DatabaseOf) -> None:
    database = await database_of("scheduler")
    await commit(database, 500 * DAY, 431 * DAY, 433 * DAY, 0 * DAY, 600 * DAY)
    await commit(database, 500 * DAY, published=False)
    before = measured("cdds_rows_purged_total", table="outbox")
    purge = purge_of(database)

    while await purge.purge():
        pass

    assert await ages(database) == [431, 0, 500]  # the last one is still to be sent
    assert measured("cdds_rows_purged_total", table="outbox") - before == 3
    assert measured("cdds_purge_clean_timestamp_seconds") > 0


async def test_a_look_ends_where_nothing_is_too_old(database_of: DatabaseOf) -> None:
    database = await database_of("scheduler")
    await commit(database, 500 * DAY, 500 * DAY, 1 * DAY, 1 * DAY, 500 * DAY)
    retention = outbox.Retention(database, 432 * DAY)
    assert [await retention.forget(2) for _ in range(2)] == [2, 0]
    assert await ages(database) == [1, 1, 500]  # events are in order of their time, as good as


async def test_events_that_are_needed_stay_and_are_passed_over(database_of: DatabaseOf) -> None:
    database = await database_of("scheduler")
    await commit(database, *[500 * DAY] * 5)
    needed = "id <= (SELECT min(id) + 2 FROM outbox)"
    retention = outbox.Retention(database, 432 * DAY, needed)
    assert await retention.forget(1) == 1
    assert [await retention.forget(1) for _ in range(2)] == [1, 0]
    assert len(await ages(database)) == 3


async def test_two_replicas_delete_each_row_once(database_of: DatabaseOf) -> None:
    database = await database_of("scheduler")
    await commit(database, *[500 * DAY] * 100, 1 * DAY)

    async def purged() -> int:
        purge, total = purge_of(database, most=7), 0
        while await ages(database) != [1]:
            total += await purge.purge()
        return total

    async with asyncio.timeout(30):
        assert sum(await asyncio.gather(purged(), purged())) == 100


async def test_a_replica_that_waits_does_nothing(database_of: DatabaseOf) -> None:
    database = await database_of("scheduler")
    await commit(database, 500 * DAY)
    async with database.session() as connection:
        await connection.execute("SELECT pg_advisory_lock(hashtext('cdds.purge.scheduler'))")
        assert await purge_of(database).purge() == 0
        assert await ages(database) == [500]
        await connection.execute("SELECT pg_advisory_unlock_all()")
    assert await purge_of(database).purge() == 1


@pytest.mark.parametrize("point", ["outbox.forgotten", "purge.stepped"])
async def test_what_a_dead_replica_left_is_deleted_by_the_next(
    postgres: EmbeddedPostgres, templates: dict[str, str], tmp_path: Path, point: str
) -> None:
    async with (
        fresh_database(postgres, templates["scheduler"]) as dsn,
        databases.connect(dsn, "scheduler", outbox=True) as database,
    ):
        await commit(database, *[500 * DAY] * COUNT, 1 * DAY)
        died = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.shared.purger", dsn,
            env={**os.environ, "CDDS_FAILPOINT": point, "CDDS_FAILPOINT_MARKER": str(tmp_path / "died")},
        )  # fmt: skip
        assert await died.wait() == -9
        assert (await ages(database)).count(500) == COUNT  # what was deleted was not committed

        ended = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.shared.purger", dsn)
        assert await ended.wait() == 0
        assert await ages(database) == [1]


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"event_retention": 20 * DAY}, "set EVENT_RETENTION to 31 days or more"),
        ({"event_retention": 450 * DAY}, "set RECORD_RETENTION to EVENT_RETENTION and 30 days or more"),
        ({"record_retention": 10 * DAY, "event_retention": 20 * DAY, "short_retentions": True}, "RECORD_RETENTION"),
    ],
)
def test_retentions_that_forget_what_may_come_back_are_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        settings(**changes)


def test_for_a_trial_retentions_may_be_short() -> None:
    short = timedelta(minutes=5)
    assert settings(event_retention=short, record_retention=short, short_retentions=True).event_retention == short


def test_what_events_did_is_kept_longer_than_they_are_followed() -> None:
    read: Settings = settings()
    assert kept_for(read) - read.record_retention > 4 * DAY
