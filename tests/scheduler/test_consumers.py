"""What the scheduler does with each event, to the rows it keeps and the events it says; every event comes twice."""

import asyncio
from datetime import timedelta
from itertools import cycle, islice
from uuid import uuid4

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer

from services.scheduler import consumers
from services.scheduler.store import Store, Unknown
from shared.cluster import Cluster
from shared.database import Database, is_outage
from shared.events import JOBS, JobCreated, Missed, RunCancelled, RunEvent, RunFailed, RunSucceeded
from shared.inbox import Inbox
from shared.messaging import Record, ensure_topics, producer
from tests.scheduler.jobs import created, deleted, resumed, suspended, updated
from tests.scheduler.world import (
    HOUR,
    MINUTE,
    NOON,
    World,
    backfill,
    cancel,
    cancel_backfill,
    ended,
    only,
    published,
    retry,
    run_now,
    words,
)

ENDS = pytest.mark.parametrize("how", [RunSucceeded, RunFailed, RunCancelled], ids=lambda how: how.__name__)


async def known(world: World, **changes: object) -> JobCreated:
    """A job that was created half an hour ago and is due every hour."""
    event = created(NOON - HOUR / 2, **{"overlap": "buffer_all", **changes})
    assert await world.hear(event) == ["next 12:00"]
    return event


async def running(world: World, **changes: object) -> JobCreated:
    """Such a job, whose slot at noon has been requested."""
    event = await known(world, **changes)
    assert await world.wait_until(NOON) == ["run schedule 12:00", "next 13:00"]
    return event


def at(minutes: int) -> timedelta:
    return NOON + minutes * MINUTE


# --- runs by hand ---------------------------------------------------------------------------------------------------


async def test_a_run_asked_for_by_hand_is_requested(world: World) -> None:
    job = await known(world)
    assert await world.hear(run_now(job, at(-5))) == ["run manual 11:55"]
    [run] = await world.runs()
    assert (run.slot.key, run.job_version) == (f"manual:{world.heard[-1].event_id}", 1)
    assert await world.slots() == ["11:55 open"]


async def test_a_run_asked_for_by_hand_waits_for_the_one_that_is_open(world: World) -> None:
    job = await running(world)
    assert await world.hear(run_now(job, at(5)), run_now(job, at(6))) == ["wait manual 12:05", "wait manual 12:06"]
    assert await world.end(RunSucceeded, NOON) == ["run manual 12:05"]
    assert await world.end(RunFailed, at(5)) == ["run manual 12:06"]
    assert await world.slots() == ["12:00 succeeded", "12:05 failed", "12:06 open"]


async def test_a_run_asked_for_by_hand_runs_while_the_job_is_suspended(world: World) -> None:
    job = await known(world)
    await world.hear(suspended(job, NOON - 10 * MINUTE))
    assert await world.hear(run_now(job, at(-5))) == ["run manual 11:55"]


async def test_a_deleted_job_does_not_run(world: World) -> None:
    job = await known(world)
    await world.hear(deleted(job, NOON - 10 * MINUTE))
    assert await world.hear(run_now(job, at(-5)), backfill(job, NOON - HOUR, NOON, at(-5))) == []
    assert await world.slots() == []


@pytest.mark.parametrize("ask", [run_now, lambda job, at: backfill(job, NOON - HOUR, NOON, at)])
async def test_a_command_about_a_job_nobody_knows_is_refused(world: World, ask: object) -> None:
    with pytest.raises(Unknown):
        await world.hear(ask(uuid4(), NOON))
    assert await published(world.database) == []


# --- retries --------------------------------------------------------------------------------------------------------


@ENDS
async def test_a_retry_is_a_new_run_with_the_question_of_the_old_one(world: World, how: type[RunEvent]) -> None:
    job = await running(world)
    await world.end(how, NOON)
    await world.hear(updated(job, at(10), overlap="buffer_all", fields=["id"]))
    world.now = at(20)
    assert await world.hear(retry(job, await world.run_id_at(NOON), at(20))) == ["run retry 12:20"]
    first, again = await world.runs()
    assert again.retry_of == first.run_id != again.run_id
    assert again.question == first.question
    assert first.question.fields is None


async def test_a_retry_that_waits_keeps_its_question_whatever_happens_to_the_job(world: World) -> None:
    job = await running(world)
    await world.end(RunFailed, NOON)
    assert await world.wait_until(NOON + HOUR) == ["run schedule 13:00", "next 14:00"]
    assert await world.hear(retry(job, await world.run_id_at(NOON), at(65))) == ["wait retry 13:05"]
    await world.hear(updated(job, at(70), overlap="buffer_all", timeframe={"kind": "all"}))
    assert await world.end(RunSucceeded, NOON + HOUR) == ["run retry 13:05"]
    first, _, again = await world.runs()
    assert (again.question, again.retry_of) == (first.question, first.run_id)


async def test_a_retry_can_be_retried(world: World) -> None:
    job = await running(world)
    await world.end(RunFailed, NOON)
    await world.hear(retry(job, await world.run_id_at(NOON), at(5)))
    await world.end(RunFailed, at(5))
    await world.hear(retry(job, await world.run_id_at(at(5)), at(6)))
    first, second, third = await world.runs()
    assert first.question == second.question == third.question
    assert third.retry_of == second.run_id


async def test_a_retry_of_a_run_nobody_knows_or_of_another_jobs_run_is_refused(world: World) -> None:
    job = await running(world)
    other = created(NOON)
    await world.hear(other)
    before = await world.everything()
    for command in (retry(job, uuid4(), NOON), retry(other, await world.run_id_at(NOON), NOON)):
        with pytest.raises(Unknown):
            await world.handlers.hear(command)
    assert await world.everything() == before


# --- cancelling -----------------------------------------------------------------------------------------------------


async def test_a_slot_that_waits_is_skipped_when_it_is_cancelled(world: World) -> None:
    job = await running(world)
    await world.wait_until(NOON + HOUR)
    assert await world.hear(cancel(job, await world.run_id_at(NOON + HOUR), at(61))) == ["skip 13:00 cancelled"]
    assert await world.end(RunSucceeded, NOON) == []
    assert await world.slots() == ["12:00 succeeded", "13:00 cancelled"]


async def test_an_open_run_is_ordered_to_end_once_however_often_it_is_cancelled(world: World) -> None:
    job = await running(world)
    run_id = await world.run_id_at(NOON)
    assert await world.hear(cancel(job, run_id, at(1)), cancel(job, run_id, at(2))) == ["cancel by bob"]
    assert await world.slots() == ["12:00 open by bob"]
    await world.wait_until(NOON + HOUR)
    assert await world.end(RunCancelled, NOON) == ["run schedule 13:00"]
    assert await world.slots() == ["12:00 cancelled by bob", "13:00 open"]


@ENDS
async def test_a_run_that_has_ended_stays_as_it_ended(world: World, how: type[RunEvent]) -> None:
    job = await running(world)
    await world.end(how, NOON)
    ledger = await world.slots()
    assert await world.hear(cancel(job, await world.run_id_at(NOON), at(1))) == []
    for other in (RunSucceeded, RunFailed, RunCancelled):
        assert await world.end(other, NOON) == []
    assert await world.slots() == ledger


async def test_the_cancellation_of_a_run_nobody_knows_or_of_another_jobs_run_is_refused(world: World) -> None:
    job = await running(world)
    other = created(NOON)
    await world.hear(other)
    before = await world.everything()
    for command in (
        cancel(job, uuid4(), NOON),
        cancel(other, await world.run_id_at(NOON), NOON),
        cancel(uuid4(), uuid4(), NOON),
    ):
        with pytest.raises(Unknown):
            await world.handlers.hear(command)
    assert await world.everything() == before


async def test_the_end_of_a_run_that_is_not_in_the_ledger_changes_nothing(world: World) -> None:
    job = await running(world)
    before = await world.everything()
    assert await world.hear(
        ended(RunSucceeded, job.job_id, uuid4(), NOON),
        ended(RunFailed, uuid4(), await world.run_id_at(NOON), NOON),
        ended(RunCancelled, uuid4(), uuid4(), NOON),
    ) == []  # fmt: skip
    assert await world.everything() == before


# --- overlap --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overlap", "said", "ledger", "next_run"),
    [
        ("allow_all", ["run schedule 13:00", "run schedule 14:00"], ["12:00 open", "13:00 open", "14:00 open"], []),
        (
            "skip",
            ["skip 13:00 overlap", "skip 14:00 overlap"],
            ["12:00 open", "13:00 overlap", "14:00 overlap"],
            [],
        ),
        (
            "buffer_one",
            ["wait schedule 13:00", "skip 14:00 buffer_full"],
            ["12:00 open", "13:00 waiting", "14:00 buffer_full"],
            ["run schedule 13:00"],
        ),
        (
            "buffer_all",
            ["wait schedule 13:00", "wait schedule 14:00"],
            ["12:00 open", "13:00 waiting", "14:00 waiting"],
            ["run schedule 13:00"],
        ),
        (
            "cancel_other",
            ["cancel by scheduler", "wait schedule 13:00", "skip 13:00 overlap", "wait schedule 14:00"],
            ["12:00 open by scheduler", "13:00 overlap", "14:00 waiting"],
            ["run schedule 14:00"],
        ),
    ],
)
async def test_slots_that_are_due_while_a_run_is_open(
    world: World, overlap: str, said: list[str], ledger: list[str], next_run: list[str]
) -> None:
    await running(world, overlap=overlap)
    heard = await world.wait_until(NOON + HOUR) + await world.wait_until(NOON + 2 * HOUR)
    assert only(heard, "run", "skip", "wait", "cancel") == said
    assert await world.slots() == ledger
    assert await world.end(RunCancelled, NOON) == next_run


# --- deleting -------------------------------------------------------------------------------------------------------


async def test_a_deleted_job_ends_with_all_that_waits_and_runs(world: World) -> None:
    job = await running(world)
    begin = NOON - 10 * HOUR
    await world.hear(backfill(job, begin, begin + 3 * HOUR, at(1), reprocess="all", max_parallel=1))
    await world.wait_until(NOON + HOUR)
    await world.hear(run_now(job, at(65)))
    said = await world.hear(deleted(job, at(70)))
    assert sorted(said) == [
        "cancel by alice", "cancel by alice", "skip 04:00 cancelled", "skip 05:00 cancelled", "skip 13:00 cancelled",
        "skip 13:05 cancelled",
    ]  # fmt: skip
    assert await world.end(RunCancelled, begin + HOUR) == []
    assert await world.end(RunSucceeded, NOON) == []
    assert await world.wait_until(NOON + 5 * HOUR) == []
    assert await world.slots() == [
        "03:00 cancelled by alice", "04:00 cancelled", "05:00 cancelled", "12:00 succeeded by alice",
        "13:00 cancelled", "13:05 cancelled",
    ]  # fmt: skip


async def test_a_deleted_job_stays_deleted_whatever_comes_late(world: World) -> None:
    job = await known(world)
    end = deleted(updated(job, at(-20)), at(-10))
    assert await world.hear(end, updated(job, at(-20)), resumed(end, at(-5))) == []
    assert await world.wait_until(NOON + HOUR) == []


# --- pausing and resuming -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missed", "said"),
    [
        ("none", ["miss 14:00 suspended x3", "next 17:00"]),
        ("latest", ["miss 14:00 suspended x2", "run schedule 16:00", "next 17:00"]),
        ("all", ["run schedule 14:00", "wait schedule 15:00", "wait schedule 16:00", "next 17:00"]),
    ],
)
async def test_a_schedule_that_fails_again_and_again_is_paused_and_resumed(
    world: World, missed: Missed, said: list[str]
) -> None:
    job = await running(world, pause_after_failures=2)
    assert await world.end(RunFailed, NOON) == []
    await world.wait_until(NOON + HOUR)
    assert await world.end(RunFailed, NOON + HOUR) == ["SchedulePaused"]
    assert await world.wait_until(NOON + 2 * HOUR) == []
    stop = suspended(job, NOON + 2 * HOUR)  # job_api hears of the pause an hour later
    assert await world.hear(stop) == []
    assert await world.wait_until(NOON + 4.5 * HOUR) == []
    assert await world.hear(resumed(stop, world.now, missed)) == said
    # Every slot is written down, and none twice.
    assert await world.wait_until(NOON + 4.9 * HOUR) == []
    counted = [line for line in await world.slots() if "failed" not in line]
    assert sum(int(line.partition(" x")[2] or 1) for line in counted) == 3


async def test_a_success_between_failures_keeps_a_schedule_going(world: World) -> None:
    await running(world, pause_after_failures=2)
    assert await world.end(RunFailed, NOON) == []
    for hour, how in enumerate((RunSucceeded, RunFailed, RunCancelled, RunFailed), 1):
        await world.wait_until(NOON + hour * HOUR)
        said = await world.end(how, NOON + hour * HOUR)
    assert said == ["SchedulePaused"]


async def test_a_suspension_leaves_what_waits_and_runs_alone(world: World) -> None:
    job = await running(world)
    await world.wait_until(NOON + HOUR)
    assert await world.hear(suspended(job, at(70))) == []
    assert await world.end(RunSucceeded, NOON) == ["run schedule 13:00"]


async def test_a_change_heard_late_asks_again_for_nothing_even_if_its_jitter_hides_an_earlier_slot(
    world: World,
) -> None:
    every_two_hours, every_hour = ({"kind": "hourly", "every": every} for every in (2, 1))
    job = created(NOON - 90 * MINUTE, overlap="buffer_all", schedule=every_two_hours)
    await world.hear(job)
    assert only(await world.wait_until(NOON), "run") == ["run schedule 12:00"]
    # Written before 11:00, which is a slot from now on and not due for hours; the one after it has run already.
    await world.hear(updated(job, NOON - 75 * MINUTE, overlap="allow_all", schedule=every_hour, jitter="PT20H"))
    await world.wait_until(NOON + 48 * HOUR)
    runs = [run.slot.key for run in await world.runs()]
    assert len(runs) == len(set(runs))


# --- where the newest data ends -------------------------------------------------------------------------------------

SINCE: dict[str, object] = {
    "timeframe": {"kind": "since_last_run", "from": "2026-05-01T00:00:00Z"},
    "overlap": "buffer_one",
    "catchup": {"mode": "all"},
}


async def intervals(world: World) -> list[str]:
    """The data intervals asked for, in order."""
    return [f"{run.question.interval_from:%d %H:%M}-{run.question.interval_to:%H:%M}" for run in await world.runs()]


async def test_a_run_since_the_last_one_begins_where_the_last_success_ended(world: World) -> None:
    job = await running(world, **SINCE)
    await world.end(RunSucceeded, NOON)
    await world.wait_until(NOON + HOUR)
    await world.end(RunFailed, NOON + HOUR)
    await world.wait_until(NOON + 2 * HOUR)
    await world.hear(run_now(job, at(125)))
    await world.end(RunSucceeded, NOON + 2 * HOUR)
    assert await intervals(world) == ["01 00:00-12:00", "04 12:00-13:00", "04 12:00-14:00", "04 14:00-14:05"]


async def test_what_waits_is_asked_from_where_its_forerunner_ended(world: World) -> None:
    job = await running(world, **SINCE)
    await world.hear(run_now(job, at(90)))
    assert await world.wait_until(NOON + HOUR) == ["wait schedule 13:00", "next 14:00"]
    assert await world.end(RunSucceeded, NOON) == ["run schedule 13:00"]
    assert await world.end(RunCancelled, NOON + HOUR) == ["run manual 13:30"]
    assert await intervals(world) == ["01 00:00-12:00", "04 12:00-13:00", "04 12:00-13:30"]


async def test_a_slot_whose_data_a_later_run_has_exported_is_coalesced_into_it(world: World) -> None:
    job = await running(world, **SINCE)
    await world.hear(run_now(job, at(30)))
    await world.end(RunSucceeded, NOON)
    late = at(59)
    await world.wait_until(late)
    await world.hear(retry(job, await world.run_id_at(at(30)), late))
    assert await world.wait_until(NOON + HOUR) == ["wait schedule 13:00", "next 14:00"]
    await world.hear(updated(job, at(61), **SINCE))
    assert await world.end(RunSucceeded, at(30)) == ["run retry 12:59"]
    assert await world.end(RunSucceeded, at(59)) == ["run schedule 13:00"]
    assert (await intervals(world))[-1] == "04 12:30-13:00"


async def test_a_backfill_never_moves_where_the_newest_data_ends(world: World) -> None:
    job = await running(world, **SINCE)
    await world.end(RunSucceeded, NOON)
    world.now = at(10)
    await world.hear(backfill(job, NOON - HOUR, NOON + HOUR / 6, at(10), reprocess="all", max_parallel=2))
    for slot in (NOON, at(10)):
        async with world.database.session() as connection:
            run_id = await connection.fetchval(
                "SELECT run_id FROM slots WHERE slot_at = $1 AND trigger = 'backfill'", slot
            )
        await world.hear(ended(RunSucceeded, job.job_id, run_id, at(11)))
    await world.wait_until(NOON + HOUR)
    assert (await intervals(world))[-1] == "04 12:00-13:00"


# --- backfills ------------------------------------------------------------------------------------------------------


async def open_runs(world: World) -> list[tuple[object, object]]:
    async with world.database.session() as connection:
        rows = await connection.fetch(
            "SELECT job_id, run_id FROM slots WHERE trigger = 'backfill' AND run_state = 'open' ORDER BY slot_at"
        )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("parallel", [1, 3, 20])
async def test_a_backfill_runs_so_many_at_a_time_until_all_of_it_has_run(world: World, parallel: int) -> None:
    job = await known(world)
    pieces = 10
    command = backfill(job, NOON - pieces * HOUR, NOON, NOON, max_parallel=parallel)
    said = await world.hear(command)
    assert said[0] == "BackfillStarted"
    assert len(only(said, "wait")) == pieces
    runs = only(said, "run")
    for ending, how in enumerate(islice(cycle([RunSucceeded, RunFailed, RunCancelled]), pieces)):
        unended = await open_runs(world)
        assert len(unended) == min(parallel, pieces - ending)
        # Now the first one ends, now the last one.
        job_id, run_id = unended[0 if ending % 2 else -1]
        runs += await world.hear(ended(how, job_id, run_id, NOON))
    assert runs == [f"run backfill {hour + 1:02}:00" for hour in range(NOON.hour - pieces, NOON.hour)]
    assert await open_runs(world) == []
    questions = [(run.question.interval_from, run.question.interval_to) for run in await world.runs()]
    assert questions == [(NOON - n * HOUR, NOON - (n - 1) * HOUR) for n in range(pieces, 0, -1)]


async def test_a_backfill_and_the_schedule_do_not_wait_for_each_other(world: World) -> None:
    job = await running(world)
    begin = NOON - 9 * HOUR
    said = await world.hear(backfill(job, begin, begin + 2 * HOUR, at(1)))
    assert only(said, "run") == ["run backfill 04:00"]
    assert await world.end(RunFailed, begin + HOUR) == ["run backfill 05:00"]
    await world.wait_until(NOON + HOUR)
    assert await world.end(RunSucceeded, NOON) == ["run schedule 13:00"]


async def test_two_backfills_of_a_job_have_a_limit_each(world: World) -> None:
    job = await running(world)
    for hours in (10, 6):
        begin = NOON - hours * HOUR
        said = await world.hear(backfill(job, begin, begin + 3 * HOUR, at(1), max_parallel=2))
        assert len(only(said, "run")) == 2
    assert await world.end(RunSucceeded, NOON - 5 * HOUR) == ["run backfill 09:00"]


async def test_a_backfill_asks_for_what_is_missing_or_also_for_what_has_failed_or_for_everything(world: World) -> None:
    job = await running(world)
    await world.end(RunSucceeded, NOON)
    for hour, how in enumerate((RunFailed, RunCancelled, RunSucceeded), 1):
        await world.wait_until(NOON + hour * HOUR)
        await world.end(how, NOON + hour * HOUR)
    await world.wait_until(NOON + 4 * HOUR)  # one is open, and one waits
    await world.wait_until(NOON + 5 * HOUR)
    wanted = {
        "missing": ["11:00"],
        "missing_and_failed": ["11:00", "13:00", "14:00"],
        "all": ["11:00", "12:00", "13:00", "14:00", "15:00", "16:00", "17:00"],
    }
    for reprocess, slots in wanted.items():
        command = backfill(job, NOON - 2 * HOUR, NOON + 5 * HOUR, world.now, reprocess=reprocess, max_parallel=9)
        said = await world.hear(command)
        assert only(said, "run") == [f"run backfill {slot}" for slot in slots], reprocess
        # Taken back, so that the next one finds what this one found.
        await world.hear(cancel_backfill(command, world.now))
        for job_id, run_id in await open_runs(world):
            await world.hear(ended(RunCancelled, job_id, run_id, world.now))
        if reprocess == "missing":
            # It was asked for, so it is no longer missing; nothing came of it, so it counts as failed.
            again = backfill(job, NOON - 2 * HOUR, NOON + 5 * HOUR, world.now, max_parallel=9)
            assert await world.hear(again) == ["BackfillStarted"]


async def test_a_cancelled_backfill_ends_its_open_runs_and_goes_no_further(world: World) -> None:
    job = await running(world)
    begin = NOON - 10 * HOUR
    command = backfill(job, begin, begin + 4 * HOUR, at(1), max_parallel=2)
    other = backfill(job, begin + 4 * HOUR, begin + 6 * HOUR, at(1))
    await world.hear(command, other)
    said = await world.hear(cancel_backfill(command, at(2)))
    assert sorted(said) == ["cancel by bob", "cancel by bob", "skip 05:00 cancelled", "skip 06:00 cancelled"]
    assert await world.end(RunCancelled, begin + HOUR) == []
    assert await world.end(RunSucceeded, begin + 2 * HOUR) == []
    assert await world.slots(trigger="backfill") == [
        "03:00 cancelled by bob", "04:00 succeeded by bob", "05:00 cancelled", "06:00 cancelled", "07:00 open",
        "08:00 waiting",
    ]  # fmt: skip
    assert await world.hear(cancel_backfill(command, at(3), uuid4())) == []
    assert await world.slots(trigger="schedule") == ["12:00 open"]


async def test_single_slots_of_a_backfill_can_be_cancelled(world: World) -> None:
    job = await running(world)
    begin = NOON - 10 * HOUR
    await world.hear(backfill(job, begin, begin + 4 * HOUR, at(1)))
    assert await world.hear(cancel(job, await world.run_id_at(begin + 2 * HOUR), at(2))) == ["skip 04:00 cancelled"]
    assert await world.hear(cancel(job, await world.run_id_at(begin + HOUR), at(2))) == ["cancel by bob"]
    assert await world.end(RunCancelled, begin + HOUR) == ["run backfill 05:00"]
    assert await world.end(RunSucceeded, begin + 3 * HOUR) == ["run backfill 06:00"]


async def test_a_backfill_goes_on_with_its_questions_whatever_happens_to_the_job(world: World) -> None:
    job = await running(world)
    begin = NOON - 10 * HOUR
    await world.hear(backfill(job, begin, begin + 2 * HOUR, at(1)))
    edited = updated(job, at(2), overlap="buffer_all", fields=["id"], timeframe={"kind": "all"})
    await world.hear(edited, suspended(edited, at(3)))
    assert await world.end(RunSucceeded, begin + HOUR) == ["run backfill 04:00"]
    assert (await world.runs())[-1].question.interval_to == begin + 2 * HOUR
    assert (await world.runs())[-1].question.fields is None


async def test_a_backfill_that_allows_no_run_at_all_is_the_records_own_fault(world: World) -> None:
    job = await running(world)
    before = await world.everything()
    with pytest.raises(asyncpg.CheckViolationError) as refusal:
        await world.handlers.hear(backfill(job, NOON - 3 * HOUR, NOON, at(1), max_parallel=0))
    assert not is_outage(refusal.value)
    assert await world.everything() == before


# --- over Kafka -----------------------------------------------------------------------------------------------------


async def test_over_kafka_a_job_is_followed_and_what_nobody_knows_is_dead_lettered(
    embedded: str, database: Database
) -> None:
    patience = timedelta(seconds=20)
    job = created(NOON, start="immediately")
    stray = cancel(job, uuid4(), NOON)
    await ensure_topics(Cluster(embedded), partitions=1, replication=1)
    async with producer(Cluster(embedded), "test", patience) as kafka, asyncio.timeout(60):
        await kafka.publish(Record.of(event) for event in (job, stray, job, run_now(job, at(1))))
        inbox = Inbox("scheduler", kafka, patience)
        consumers.register(inbox, Store(database, lambda _: timedelta(0)))
        consuming = asyncio.create_task(inbox.run(Cluster(embedded)))
        try:
            async with AIOKafkaConsumer(
                JOBS.dead, bootstrap_servers=embedded, auto_offset_reset="earliest", group_id=None
            ) as dead:
                buried = await dead.getone()
            while len(events := await published(database)) < 3:
                await database.committed.wait()
                database.committed.clear()
        finally:
            consuming.cancel()
            await asyncio.gather(consuming, return_exceptions=True)
    assert sorted(map(words, events))[1:] == ["run immediate 12:00", "run manual 12:01"]
    assert str(stray.event_id).encode() == dict(buried.headers)["ce_id"]
    assert b"Unknown" in dict(buried.headers)["dead_reason"]
