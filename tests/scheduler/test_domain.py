"""What the scheduler decides, by tables: overlap, catch-up, edits, suspensions, pauses, retries and backfills."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.scheduler import domain
from services.scheduler.domain import Decision, Entry, Outcome, Plan, RunState
from shared import slots
from shared.events import (
    BackfillRequested,
    BackfillStarted,
    JobCreated,
    RunCancelOrdered,
    RunNowRequested,
    RunRequested,
    RunRetryRequested,
    ScheduleCompleted,
    ScheduleComputed,
    ScheduleEvent,
    SchedulePaused,
    SlotMissed,
    SlotSkipped,
    SlotWaiting,
)
from tests.scheduler.jobs import created, deleted, resumed, settings, suspended, updated

JOB = UUID("0b9c5a52-8f0e-4d7b-9a53-6f1f2f6f4a01")
HOUR = timedelta(hours=1)
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
SOON = timedelta(seconds=2)
"""The lag of a scheduler in good health."""


def no_settling(_: str) -> timedelta:
    return timedelta(0)


def plan(*held: Entry, next_slot_at: datetime | None = NOON, **changes: Any) -> Plan:
    return Plan(JOB, "acme", 3, settings(**changes), next_slot_at=next_slot_at, held=tuple(held))


def entry(at: datetime, *, open_: bool, trigger: str = "schedule", **changes: Any) -> Entry:
    slot = slots.scheduled_slot(at)
    if trigger != "schedule":
        slot = slot.model_copy(update={"key": f"{trigger}:{uuid4()}", "trigger": trigger})
    asked = slots.question(settings(), at - HOUR, at)
    return replace(
        Entry(slot, slots.run_id(JOB, slot.key), Outcome.WAITING, 3),
        **({"outcome": Outcome.REQUESTED, "run_state": RunState.OPEN, "question": asked} if open_ else {}),
        **changes,
    )


RUNNING = entry(NOON - HOUR, open_=True)
WAITING = entry(NOON - HOUR / 2, open_=False)
BY_HAND = entry(NOON - HOUR / 3, open_=False, trigger="manual")


def told(decision: Decision) -> list[str]:
    """The events, each as a few words."""
    return [_words(event) for event in decision.events]


def _words(event: ScheduleEvent) -> str:
    match event:
        case RunRequested() | SlotWaiting():
            return f"{type(event).__name__} {event.slot.at:%H:%M}"
        case SlotSkipped() | SlotMissed():
            count = f" {event.count}" if isinstance(event, SlotMissed) and event.count > 1 else ""
            return f"{type(event).__name__} {event.slot.at:%H:%M} {event.reason}{count}"
        case RunCancelOrdered():
            return f"RunCancelOrdered {event.actor}"
        case ScheduleComputed():
            return f"ScheduleComputed {event.next_slot_at:%H:%M}" if event.next_slot_at else "ScheduleComputed"
        case _:
            return type(event).__name__


def due(known: Plan, late: timedelta = SOON, **options: Any) -> Decision:
    return domain.due(known, NOON + late, no_settling, **options)


# --- overlap ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "held", "said"),
    [
        ("skip", [], ["RunRequested 12:00"]),
        ("skip", [RUNNING], ["SlotSkipped 12:00 overlap"]),
        ("skip", [RUNNING, WAITING], ["SlotSkipped 12:00 overlap"]),
        ("buffer_one", [], ["RunRequested 12:00"]),
        ("buffer_one", [RUNNING], ["SlotWaiting 12:00"]),
        ("buffer_one", [RUNNING, WAITING], ["SlotSkipped 12:00 buffer_full"]),
        ("buffer_one", [RUNNING, BY_HAND], ["SlotWaiting 12:00"]),
        ("buffer_all", [], ["RunRequested 12:00"]),
        ("buffer_all", [RUNNING], ["SlotWaiting 12:00"]),
        ("buffer_all", [RUNNING, WAITING], ["SlotWaiting 12:00"]),
        ("cancel_other", [], ["RunRequested 12:00"]),
        ("cancel_other", [RUNNING], ["RunCancelOrdered scheduler", "SlotWaiting 12:00"]),
        (
            "cancel_other", [RUNNING, WAITING],
            ["SlotSkipped 11:30 overlap", "RunCancelOrdered scheduler", "SlotWaiting 12:00"],
        ),
        ("cancel_other", [RUNNING, BY_HAND], ["RunCancelOrdered scheduler", "SlotWaiting 12:00"]),
        ("cancel_other", [replace(RUNNING, cancelled_by="bob")], ["SlotWaiting 12:00"]),
        ("allow_all", [RUNNING, WAITING], ["RunRequested 12:00"]),
    ],
)  # fmt: skip
def test_a_slot_that_is_due_while_others_wait_or_run(policy: str, held: list[Entry], said: list[str]) -> None:
    decision = due(plan(*held, overlap=policy))
    assert told(decision) == [*said, "ScheduleComputed 13:00"]
    assert decision.plan.next_slot_at == NOON + HOUR


@pytest.mark.parametrize("policy", ["skip", "buffer_one", "buffer_all", "cancel_other"])
@pytest.mark.parametrize("held", [[RUNNING], [RUNNING, WAITING], [RUNNING, BY_HAND]], ids=len)
def test_what_people_ask_for_waits_its_turn_and_never_skips_or_cancels(policy: str, held: list[Entry]) -> None:
    command = RunNowRequested(occurred_at=NOON, tenant="acme", job_id=JOB, actor="bob")
    decision = domain.run_now(plan(*held, overlap=policy), command, NOON, no_settling)
    assert told(decision) == ["SlotWaiting 12:00"]
    assert told(domain.run_now(plan(overlap=policy), command, NOON, no_settling)) == ["RunRequested 12:00"]
    assert told(domain.run_now(plan(*held, overlap="allow_all"), command, NOON, no_settling)) == ["RunRequested 12:00"]


def test_what_waits_is_requested_one_after_the_other_in_the_order_of_the_slots() -> None:
    known = plan(RUNNING, WAITING, BY_HAND, overlap="buffer_all")
    first = domain.end_run(known, RUNNING, RunState.SUCCEEDED, NOON, no_settling)
    assert told(first) == ["RunRequested 11:30"]
    [running] = [held for held in first.plan.held if held.open]
    second = domain.end_run(first.plan, running, RunState.FAILED, NOON, no_settling)
    assert told(second) == ["RunRequested 11:40"]


def test_the_end_of_a_run_that_has_ended_changes_nothing() -> None:
    ended = replace(RUNNING, run_state=RunState.FAILED)
    known = plan(WAITING, pause_after_failures=1)
    assert domain.end_run(known, ended, RunState.SUCCEEDED, NOON, no_settling) == Decision(known)


def test_a_policy_that_allows_more_lets_go_of_what_waits() -> None:
    event = updated(created(NOON - HOUR, job_id=JOB, overlap="buffer_all"), NOON, overlap="allow_all")
    known = replace(plan(RUNNING, WAITING, BY_HAND, overlap="buffer_all", next_slot_at=NOON + HOUR), job_version=1)
    assert told(domain.keep(known, event, (), NOON, no_settling)) == [
        "ScheduleComputed 13:00", "RunRequested 11:30", "RunRequested 11:40",
    ]  # fmt: skip


# --- catch-up -----------------------------------------------------------------------------------------------------

OUTAGE = 3 * HOUR + 10 * timedelta(minutes=1)  # 12:00, 13:00, 14:00 and 15:00 have passed


@pytest.mark.parametrize(
    ("catchup", "said"),
    [
        pytest.param(
            {"mode": "all"},
            ["RunRequested 12:00", "RunRequested 13:00", "RunRequested 14:00", "RunRequested 15:00"],
            id="all",
        ),
        pytest.param(
            {"mode": "latest"},
            [
                "SlotMissed 12:00 coalesced", "SlotMissed 13:00 coalesced", "SlotMissed 14:00 coalesced",
                "RunRequested 15:00",
            ],
            id="latest",
        ),
        pytest.param(
            {"mode": "none"}, [f"SlotMissed {hour}:00 catchup_window" for hour in (12, 13, 14, 15)], id="none"
        ),
        pytest.param(
            {"mode": "all", "window": "PT2H"},
            [
                "SlotMissed 12:00 catchup_window", "SlotMissed 13:00 catchup_window",
                "RunRequested 14:00", "RunRequested 15:00",
            ],
            id="all within two hours",
        ),
        pytest.param(
            {"mode": "latest", "window": "PT5M"},
            [f"SlotMissed {hour}:00 catchup_window" for hour in (12, 13, 14, 15)],
            id="nothing in the window",
        ),
    ],
)  # fmt: skip
def test_slots_that_passed_in_an_outage(catchup: dict[str, str], said: list[str]) -> None:
    assert told(due(plan(catchup=catchup), OUTAGE)) == [*said, "ScheduleComputed 16:00"]


@pytest.mark.parametrize("mode", ["all", "latest", "none"])
def test_a_slot_acted_on_within_a_minute_is_on_time_in_every_mode(mode: str) -> None:
    known = plan(catchup={"mode": mode, "window": "PT0S"})
    assert told(due(known, domain.ON_TIME))[0] == "RunRequested 12:00"
    late = told(due(known, domain.ON_TIME + slots.TICK))[0]
    assert late == "SlotMissed 12:00 catchup_window"


def test_many_missed_slots_are_decided_a_bounded_number_at_a_time() -> None:
    first = due(plan(), 250 * HOUR, limit=100)
    assert len(first.entries) == 100
    assert first.plan.next_slot_at == NOON + 100 * HOUR
    second = domain.due(first.plan, NOON + 250 * HOUR, no_settling)
    assert not set(first.entries) & set(second.entries)


def test_the_coalesced_slots_of_an_outage_are_the_same_however_they_are_divided() -> None:
    known = plan(catchup={"mode": "latest"})
    at_once = told(due(known, OUTAGE))[:-1]
    divided: list[str] = []
    while known.next_slot_at and known.next_slot_at <= NOON + OUTAGE:
        decision = due(known, OUTAGE, limit=1)
        divided += told(decision)[:-1]
        known = decision.plan
    assert divided == at_once


# --- jitter -------------------------------------------------------------------------------------------------------


def test_jitter_delays_a_slot_and_changes_neither_its_name_nor_its_interval() -> None:
    calm, jittery = plan(), plan(jitter="PT30M")
    due_at = slots.due_at(JOB, jittery.settings, NOON)
    assert NOON < due_at < NOON + timedelta(minutes=30)
    assert told(due(jittery, due_at - NOON - slots.TICK)) == ["ScheduleComputed 12:00"]
    late, punctual = due(jittery, due_at - NOON), due(calm, due_at - NOON)
    assert list(late.entries.values()) == list(punctual.entries.values())


# --- one-time jobs and ends ---------------------------------------------------------------------------------------


def test_a_one_time_job_is_completed_by_its_only_slot() -> None:
    once = plan(schedule={"kind": "once"}, start=NOON)
    assert told(due(once)) == ["RunRequested 12:00", "ScheduleCompleted"]


def test_the_last_slot_before_the_end_of_a_schedule_is_followed_by_none() -> None:
    assert told(due(plan(ends_at=NOON + HOUR))) == ["RunRequested 12:00", "ScheduleComputed"]


# --- following jobs -----------------------------------------------------------------------------------------------


def keep(known: Plan | None, event: Any, now: datetime, decided: Iterable[str] = ()) -> Decision:
    return domain.keep(known, event, set(decided), now, no_settling)


def test_a_job_is_followed_from_when_it_was_written() -> None:
    heard = NOON + 3 * HOUR
    decision = keep(None, created(NOON + SOON), heard)
    assert told(decision) == ["ScheduleComputed 13:00"]
    assert told(domain.due(decision.plan, heard, no_settling)) == [
        "RunRequested 13:00", "RunRequested 14:00", "RunRequested 15:00", "ScheduleComputed 16:00",
    ]  # fmt: skip


def test_a_version_that_is_not_newer_changes_nothing() -> None:
    event = created(NOON, job_id=JOB)
    known = replace(plan(), job_version=1)
    for version in (1, 2):
        assert keep(replace(known, job_version=version), event, NOON).events == ()


def test_a_job_submitted_to_run_at_once_runs_once() -> None:
    event = created(NOON, schedule={"kind": "once"}, start="immediately")
    first = keep(None, event, NOON)
    assert "RunRequested 12:00" in told(first)
    [key] = first.entries
    assert key == f"immediate:{event.event_id}"
    assert keep(first.plan, event, NOON, [key]).events == ()
    # Its creation was dead-lettered, say, and comes after an edit: the run was asked for all the same.
    later = replace(first.plan, job_version=5, held=())
    assert told(keep(later, event, NOON)) == ["RunRequested 12:00"]


def test_what_was_due_before_an_edit_runs_as_the_job_then_was_and_the_new_schedule_counts_from_the_edit() -> None:
    before = created(NOON - HOUR, job_id=JOB)
    edit = updated(before, NOON + timedelta(minutes=10), schedule={"kind": "cron", "expression": "*/15 * * * *"})
    decision = keep(replace(plan(), job_version=1), edit, NOON + timedelta(minutes=40))
    assert told(decision) == ["RunRequested 12:00", "ScheduleComputed 12:15"]
    assert told(domain.due(decision.plan, NOON + timedelta(minutes=40), no_settling)) == [
        "RunRequested 12:15", "RunRequested 12:30", "ScheduleComputed 12:45",
    ]  # fmt: skip


def test_an_edit_heard_of_late_repeats_no_slot_and_leaves_none_out() -> None:
    before = created(NOON - HOUR, job_id=JOB)
    edit = updated(before, NOON - timedelta(minutes=10), schedule={"kind": "cron", "expression": "*/15 * * * *"})
    requested = slots.scheduled_slot(NOON)
    known = replace(plan(next_slot_at=NOON + HOUR), job_version=1)
    heard = NOON + timedelta(minutes=20)
    decision = keep(known, edit, heard, [requested.key])
    assert told(decision) == ["ScheduleComputed 12:00"]
    assert told(domain.due(decision.plan, heard, no_settling, [requested.key])) == [
        "RunRequested 12:15", "ScheduleComputed 12:30",
    ]  # fmt: skip


def test_a_slot_whose_jitter_an_edit_would_cut_off_is_acted_on_at_once() -> None:
    before = created(NOON - HOUR, job_id=JOB, jitter="PT30M")
    known = replace(plan(jitter="PT30M"), job_version=1)
    edit = updated(before, NOON + SOON, schedule={"kind": "daily", "at": "18:00"})
    assert told(keep(known, edit, NOON + SOON)) == ["RunRequested 12:00", "ScheduleComputed 18:00"]


def test_jitter_added_by_an_edit_does_not_bring_a_slot_back() -> None:
    before = created(NOON - HOUR, job_id=JOB)
    edit = updated(before, NOON - SOON, jitter="PT30M")
    known = replace(plan(next_slot_at=NOON + HOUR), job_version=1)
    requested = [slots.scheduled_slot(NOON).key]
    decision = keep(known, edit, NOON + SOON, requested)
    assert told(domain.due(decision.plan, NOON + HOUR, no_settling, requested))[0] != "RunRequested 12:00"


def test_a_slot_that_jitter_holds_back_does_not_hide_that_a_later_one_is_decided_already() -> None:
    before = created(NOON - HOUR, job_id=JOB)
    half_hourly = {"kind": "cron", "expression": "*/30 * * * *"}
    edit = updated(before, NOON - SOON, schedule=half_hourly, jitter="P1D", catchup={"window": "P52W"})
    known = replace(plan(next_slot_at=NOON + 2 * HOUR), job_version=1)
    decided = [slots.scheduled_slot(at).key for at in (NOON, NOON + HOUR)]
    heard = keep(known, edit, NOON + HOUR + SOON, decided)
    later = domain.due(heard.plan, NOON + 48 * HOUR, no_settling, decided)
    assert "RunRequested 12:30" in told(later)
    assert not {slot for slot in decided if slot in later.entries}


def test_a_suspended_job_has_no_next_slot_and_lets_its_runs_end() -> None:
    before = created(NOON - HOUR, job_id=JOB, overlap="buffer_all")
    known = replace(plan(RUNNING, WAITING, overlap="buffer_all"), job_version=1)
    decision = keep(known, suspended(before, NOON + HOUR / 2), NOON + HOUR / 2)
    assert told(decision) == ["SlotWaiting 12:00"]  # it was due before the job was suspended
    assert (decision.plan.next_slot_at, decision.plan.active) == (None, False)
    assert decision.plan.stopped_at == NOON + HOUR / 2
    assert told(domain.end_run(decision.plan, RUNNING, RunState.SUCCEEDED, NOON, no_settling)) == ["RunRequested 11:30"]


@pytest.mark.parametrize(
    ("missed", "said"),
    [
        ("none", ["SlotMissed 13:00 suspended 3"]),
        ("latest", ["SlotMissed 13:00 suspended 2", "RunRequested 15:00"]),
        ("all", ["RunRequested 13:00", "RunRequested 14:00", "RunRequested 15:00"]),
    ],
)
def test_a_resumed_job_does_with_the_slots_it_missed_what_it_was_asked_to(missed: Any, said: list[str]) -> None:
    before = created(NOON - HOUR, job_id=JOB)
    stop = suspended(before, NOON + SOON)
    known = keep(replace(plan(next_slot_at=NOON + HOUR), job_version=1), stop, NOON + SOON).plan
    again = resumed(stop, NOON + 3 * HOUR + SOON, missed)
    decision = keep(known, again, NOON + 3 * HOUR + SOON)
    assert told(decision) == [*said, "ScheduleComputed 16:00"]
    assert decision.plan.stopped_at is None


def test_a_suspension_nobody_heard_of_runs_nothing_by_surprise() -> None:
    before = created(NOON - HOUR, job_id=JOB)
    again = resumed(suspended(before, NOON + SOON), NOON + 2 * HOUR)
    decision = keep(replace(plan(), job_version=1), again, NOON + 2 * HOUR)
    assert told(decision) == ["RunRequested 12:00", "SlotMissed 13:00 suspended 2", "ScheduleComputed 15:00"]


def test_a_one_time_job_whose_start_passed_while_it_was_suspended_is_over_or_runs() -> None:
    before = created(NOON - HOUR, job_id=JOB, schedule={"kind": "once"}, start=NOON)
    stop = suspended(before, NOON - SOON)
    known = keep(replace(plan(schedule={"kind": "once"}, start=NOON), job_version=1), stop, NOON - SOON).plan
    over = keep(known, resumed(stop, NOON + HOUR), NOON + HOUR)
    assert told(over) == ["SlotMissed 12:00 suspended", "ScheduleCompleted"]
    runs = keep(known, resumed(stop, NOON + HOUR, "latest"), NOON + HOUR)
    assert told(runs) == ["RunRequested 12:00", "ScheduleCompleted"]


def test_after_a_delete_nothing_goes_on() -> None:
    before = created(NOON - HOUR, job_id=JOB)
    known = replace(plan(RUNNING, WAITING, overlap="buffer_all", next_slot_at=NOON + HOUR), job_version=1)
    backfill = entry(NOON - 5 * HOUR, open_=False, trigger="schedule")
    backfill = replace(backfill, slot=slots.backfilled_slot(uuid4(), NOON - 5 * HOUR))
    decision = domain.keep(known, deleted(before, NOON), (), NOON, no_settling, [backfill])
    assert told(decision) == ["RunCancelOrdered alice", "SlotSkipped 11:30 cancelled", "SlotSkipped 07:00 cancelled"]
    assert decision.plan.deleted
    command = RunNowRequested(occurred_at=NOON, tenant="acme", job_id=JOB, actor="bob")
    assert domain.run_now(decision.plan, command, NOON, no_settling).events == ()
    assert domain.end_run(decision.plan, RUNNING, RunState.SUCCEEDED, NOON, no_settling).events == ()
    later = created(NOON, job_id=JOB, version=9)
    assert isinstance(later, JobCreated)
    assert keep(decision.plan, later, NOON).plan.deleted


def test_a_slot_that_was_due_before_a_delete_is_in_the_ledger() -> None:
    before = created(NOON - HOUR, job_id=JOB)
    decision = keep(replace(plan(), job_version=1), deleted(before, NOON + SOON), NOON + SOON)
    assert told(decision) == ["RunRequested 12:00", "RunCancelOrdered alice"]


# --- failures -----------------------------------------------------------------------------------------------------


def fail(known: Plan, state: RunState = RunState.FAILED, **changes: Any) -> Decision:
    run = entry(NOON, open_=True, **changes)
    return domain.end_run(replace(known, held=(*known.held, run)), run, state, NOON, no_settling)


def test_a_schedule_is_paused_when_its_runs_fail_in_a_row() -> None:
    known = plan(pause_after_failures=2, next_slot_at=NOON + HOUR)
    once = fail(known)
    assert (told(once), once.plan.failures) == ([], 1)
    twice = fail(once.plan)
    [paused] = twice.events
    assert isinstance(paused, SchedulePaused)
    assert (paused.failures, paused.job_version) == (2, 3)
    assert (twice.plan.active, twice.plan.next_slot_at, twice.plan.stopped_at) == (False, None, NOON)
    assert fail(twice.plan).events == ()


def test_failures_with_a_success_between_them_do_not_pause() -> None:
    known = fail(plan(pause_after_failures=2, next_slot_at=NOON + HOUR)).plan
    assert fail(fail(known, RunState.SUCCEEDED).plan).plan.active


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"trigger": "manual"}, id="run by hand"),
        pytest.param({"trigger": "retry"}, id="a retry"),
        pytest.param({"job_version": 2}, id="of the job before it was edited"),
        pytest.param({"state": RunState.CANCELLED}, id="cancelled"),
    ],
)
def test_only_failures_of_scheduled_runs_of_this_version_count(changes: dict[str, Any]) -> None:
    known = plan(pause_after_failures=1, next_slot_at=NOON + HOUR)
    decision = fail(known, **changes)
    assert (decision.plan.active, decision.plan.failures) == (True, 0)


def test_a_slot_that_was_due_and_undecided_at_a_pause_counts_as_missed_in_it() -> None:
    paused = fail(plan(pause_after_failures=1, next_slot_at=NOON)).plan
    stop = suspended(created(NOON - HOUR, job_id=JOB), NOON + SOON)
    heard = keep(replace(paused, job_version=1), stop, NOON + SOON).plan
    decision = keep(heard, resumed(stop, NOON + HOUR / 2), NOON + HOUR / 2)
    assert told(decision) == ["SlotMissed 12:00 suspended", "ScheduleComputed 13:00"]


def test_an_edit_that_meets_a_pause_begins_anew() -> None:
    paused = replace(fail(plan(pause_after_failures=1, next_slot_at=NOON)).plan, job_version=1)
    edit = updated(created(NOON - HOUR, job_id=JOB), NOON + HOUR / 2)
    decision = keep(paused, edit, NOON + HOUR / 2)
    assert told(decision) == ["SlotMissed 12:00 suspended", "ScheduleComputed 13:00"]
    assert (decision.plan.active, decision.plan.failures) == (True, 0)


# --- since the last run -------------------------------------------------------------------------------------------

SINCE = {"timeframe": {"kind": "since_last_run", "from": "2026-05-01T00:00:00Z"}, "overlap": "buffer_all"}


def interval(decision: Decision) -> tuple[datetime | None, datetime]:
    [run] = [event for event in decision.events if isinstance(event, RunRequested)]
    return run.question.interval_from, run.question.interval_to


def test_a_since_job_begins_where_its_last_successful_run_ended() -> None:
    first = due(plan(**SINCE))
    assert interval(first) == (datetime(2026, 5, 1, tzinfo=UTC), NOON)
    [run] = first.entries.values()
    failed = domain.end_run(first.plan, run, RunState.FAILED, NOON, no_settling).plan
    assert interval(domain.due(failed, NOON + HOUR, no_settling)) == (datetime(2026, 5, 1, tzinfo=UTC), NOON + HOUR)
    succeeded = domain.end_run(first.plan, run, RunState.SUCCEEDED, NOON, no_settling).plan
    assert interval(domain.due(succeeded, NOON + HOUR, no_settling)) == (NOON, NOON + HOUR)


def test_the_interval_of_a_since_job_is_computed_when_the_run_is_requested() -> None:
    first = due(plan(**SINCE))
    [run] = first.entries.values()
    waits = domain.due(first.plan, NOON + HOUR, no_settling)
    assert told(waits) == ["SlotWaiting 13:00", "ScheduleComputed 14:00"]
    ended = domain.end_run(waits.plan, run, RunState.SUCCEEDED, NOON + HOUR, no_settling)
    assert interval(ended) == (NOON, NOON + HOUR)


def test_a_since_job_catches_up_with_one_run() -> None:
    assert told(due(plan(**SINCE, catchup={"mode": "all"}), OUTAGE))[-2:] == [
        "RunRequested 15:00", "ScheduleComputed 16:00",
    ]  # fmt: skip


def test_a_slot_whose_data_a_later_run_has_exported_is_not_run() -> None:
    known = replace(plan(RUNNING, WAITING, **SINCE), exported_to=NOON)
    decision = domain.end_run(known, RUNNING, RunState.CANCELLED, NOON, no_settling)
    assert told(decision) == ["SlotMissed 11:30 coalesced"]
    assert decision.plan.held == ()


def test_somebody_who_asks_for_a_run_gets_one_even_when_there_is_nothing_new() -> None:
    known = replace(plan(**SINCE), exported_to=NOON + HOUR)
    command = RunNowRequested(occurred_at=NOON, tenant="acme", job_id=JOB, actor="bob")
    assert interval(domain.run_now(known, command, NOON, no_settling)) == (NOON + HOUR, NOON + HOUR)


def test_backfills_do_not_move_where_the_next_run_begins() -> None:
    slot = slots.backfilled_slot(uuid4(), NOON - 5 * HOUR)
    run = replace(entry(NOON + HOUR, open_=True), slot=slot)
    assert domain.end_run(plan(**SINCE), run, RunState.SUCCEEDED, NOON, no_settling).plan.exported_to is None


# --- retries, cancels, backfills ----------------------------------------------------------------------------------


def test_a_retry_asks_the_same_question_again() -> None:
    again = replace(RUNNING, run_state=RunState.FAILED)
    command = RunRetryRequested(occurred_at=NOON, tenant="acme", job_id=JOB, actor="bob", run_id=again.run_id)
    decision = domain.retry(plan(type="contact"), command, again, NOON, no_settling)
    [run] = decision.events
    assert isinstance(run, RunRequested)
    assert (run.question, run.retry_of) == (again.question, again.run_id)
    assert run.slot.key == f"retry:{command.event_id}"


def test_a_cancel_skips_what_waits_and_orders_once_what_runs_to_end() -> None:
    known = plan(RUNNING, WAITING)
    decision = domain.cancel(known, [RUNNING, WAITING], "bob", NOON, no_settling)
    assert told(decision) == ["RunCancelOrdered bob", "SlotSkipped 11:30 cancelled"]
    [ordered] = decision.plan.held
    assert domain.cancel(decision.plan, [ordered], "eve", NOON, no_settling).events == ()
    ended = replace(RUNNING, run_state=RunState.SUCCEEDED)
    assert domain.cancel(known, [ended], "bob", NOON, no_settling).events == ()


def backfill(**changes: Any) -> BackfillRequested:
    wanted: dict[str, Any] = {
        "occurred_at": NOON, "tenant": "acme", "job_id": JOB, "actor": "bob",
        "interval_from": NOON - 5 * HOUR, "interval_to": NOON,
    }  # fmt: skip
    return BackfillRequested.model_validate({**wanted, **changes})


def test_a_backfill_is_divided_into_slots_of_which_so_many_run_at_once() -> None:
    known = plan(RUNNING, overlap="skip")
    decision = domain.start_backfill(known, backfill(max_parallel=2), [], NOON, no_settling)
    started, *rest = decision.events
    assert isinstance(started, BackfillStarted)
    assert started.slots == 5
    assert [_words(event) for event in rest] == [
        *(f"SlotWaiting {hour:02}:00" for hour in (8, 9, 10, 11, 12)), "RunRequested 08:00", "RunRequested 09:00",
    ]  # fmt: skip
    assert decision.plan.held == known.held  # a lane of its own
    waiting = [entry for entry in decision.entries.values() if entry.waiting]
    open_ = [entry for entry in decision.entries.values() if entry.open]
    assert [(run.question.interval_from, run.question.interval_to) for run in open_ if run.question] == [
        (NOON - 5 * HOUR, NOON - 4 * HOUR), (NOON - 4 * HOUR, NOON - 3 * HOUR),
    ]  # fmt: skip
    lane = domain.Backfill(uuid4(), 2)
    assert told(domain.go_on(known, lane, 1, waiting, NOON, no_settling)) == ["RunRequested 10:00"]
    assert told(domain.go_on(known, lane, 2, waiting, NOON, no_settling)) == []
    assert told(domain.go_on(known, lane, 0, waiting[:1], NOON, no_settling)) == ["RunRequested 10:00"]


@pytest.mark.parametrize(
    ("reprocess", "hours"),
    [("missing", [8, 11, 12]), ("missing_and_failed", [8, 10, 11, 12]), ("all", [8, 9, 10, 11, 12])],
)
def test_a_backfill_asks_for_what_it_was_told_to(reprocess: str, hours: list[int]) -> None:
    answers = [
        slots.Answer(NOON - 4 * HOUR, NOON - 3 * HOUR, failed=False),
        slots.Answer(NOON - 3 * HOUR, NOON - 2 * HOUR, failed=True),
    ]
    decision = domain.start_backfill(plan(), backfill(reprocess=reprocess), answers, NOON, no_settling)
    assert [e.slot.at.hour for e in decision.events if isinstance(e, SlotWaiting)] == hours


def test_a_backfill_leaves_out_what_a_waiting_slot_will_ask() -> None:
    decision = domain.start_backfill(plan(RUNNING, WAITING), backfill(), [], NOON, no_settling)
    # The slot of 11:30 waits to ask for the hour until 11:00.
    assert [e.slot.at.hour for e in decision.events if isinstance(e, SlotWaiting)] == [8, 9, 10, 12]


def test_a_backfill_with_nothing_to_do_says_so() -> None:
    answers = [slots.Answer(None, NOON, failed=False)]
    decision = domain.start_backfill(plan(), backfill(), answers, NOON, no_settling)
    [started] = decision.events
    assert isinstance(started, BackfillStarted)
    assert started.slots == 0


# --- the question -------------------------------------------------------------------------------------------------


def test_the_request_carries_the_whole_question() -> None:
    asked = plan(
        media_types=["voice"], split_bytes=65536, recipients=["f" * 64], retry={"attempts": 7}, format="csv",
        csv_profile="faithful", fields=["id", "phone"], masking={"phone": "hash"}, attachments=True, encryption="smime",
    )  # fmt: skip
    decision = domain.due(asked, NOON + SOON, lambda _: timedelta(minutes=1))
    run = decision.events[0]
    assert isinstance(run, RunRequested)
    assert run.run_id == slots.run_id(JOB, "schedule:2026-05-04T12:00:00Z")
    assert (run.job_version, run.retry.attempts, run.title, run.retry_of) == (3, 7, "A job", None)
    assert run.question.model_dump() == {
        "source": "ucs", "type": "interaction", "media_types": ("voice",),
        "interval_from": NOON - timedelta(minutes=61), "interval_to": NOON - timedelta(minutes=1),
        "split_bytes": 65536, "format": "csv", "encryption": "smime", "recipients": ("f" * 64,),
        "csv_profile": "faithful", "fields": ("id", "phone"), "masking": {"phone": "hash"}, "attachments": True,
    }  # fmt: skip


def test_a_completed_one_time_job_is_told_of_as_completed() -> None:
    event = created(NOON - HOUR, schedule={"kind": "once"}, start=NOON)
    decision = domain.due(keep(None, event, NOON - HOUR).plan, NOON, no_settling)
    assert isinstance(decision.events[-1], ScheduleCompleted)
