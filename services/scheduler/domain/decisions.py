"""What the scheduler decides when it hears something or the clock strikes; a repeat decides nothing."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Final

from services.scheduler.domain.ledger import Backfill, Decision, Entry, Plan, RunState
from services.scheduler.domain.turn import Settle, Turn
from shared import slots
from shared.events import (
    BackfillRequested,
    BackfillStarted,
    JobCommand,
    JobCreated,
    JobDeleted,
    JobEvent,
    JobResumed,
    JobState,
    RunNowRequested,
    SchedulePaused,
    Trigger,
)
from shared.slots import Answer

MISSED_COUNTED: Final = 10_000
"""Slots that passed during a suspension are counted so far; a schedule of every minute has them after a week."""


def keep(
    plan: Plan | None,
    event: JobEvent,
    decided: Collection[str],
    now: datetime,
    settle: Settle,
    backfilled: Iterable[Entry] = (),
) -> Decision:
    """Follow the newest version of a job; an older one changes nothing but may ask for its immediate run.

    What was due before the change is decided first, as the job then was. The new schedule counts from when the job was
    written, not from when we hear of it, so that lag loses nothing. `decided` holds the keys of the job's slots in the
    ledger from its next one on, or from the beginning of a suspension that ends; `backfilled` what of its backfills
    waits or runs.
    """
    if plan is not None and (plan.deleted or plan.job_version >= event.job.version):
        return _immediate(Turn(plan, now, settle, decided), event)
    before = plan or Plan(event.job_id, event.tenant, event.job.version, event.job.settings, active=False)
    turn = Turn(before, now, settle, decided)
    if before.active:
        turn.catch_up(_stopped_at(event), at_once=True)
    _renew(turn, event)
    if turn.plan.active:
        if not before.active or isinstance(event, JobResumed):
            _take_up_missed(turn, event, before)
        turn.plan = replace(turn.plan, next_slot_at=slots.first_slot(event.job.settings, event.occurred_at))
        turn.announce()
    if turn.plan.deleted:
        for entry in (*turn.held.values(), *backfilled):
            turn.cancel(entry, event.actor)
    turn.release()  # the overlap policy may have changed
    return _immediate(turn, event)


def _stopped_at(event: JobEvent) -> datetime:
    """Until when the schedule before `event` was followed."""
    return (isinstance(event, JobResumed) and event.missed_since) or event.occurred_at


def _renew(turn: Turn, event: JobEvent) -> None:
    """The plan that follows `event`; it counts failures from zero."""
    active = event.job.state is JobState.ACTIVE
    turn.plan = replace(
        turn.plan,
        job_version=event.job.version,
        settings=event.job.settings,
        active=active,
        deleted=isinstance(event, JobDeleted),
        next_slot_at=None,
        failures=0,
        stopped_at=None if active else turn.plan.stopped_at or event.occurred_at,
    )


def _immediate(turn: Turn, event: JobEvent) -> Decision:
    """The run of a job that was submitted to run at once; the submission is the command."""
    if isinstance(event, JobCreated) and event.job.settings.immediately and not turn.plan.deleted:
        slot = slots.commanded_slot(Trigger.IMMEDIATE, event.event_id, event.occurred_at)
        if slot.key not in turn.decided:
            turn.admit(slot)
    return turn.decision()


def _take_up_missed(turn: Turn, event: JobEvent, before: Plan) -> None:
    """The slots of the suspension that ends: asked for, or written down as missed in one row."""
    since = min(_stopped_at(event), before.stopped_at or event.occurred_at)
    passed = slots.slots_between(event.job.settings, since, event.occurred_at)
    unknown = (slot for slot in map(slots.scheduled_slot, passed) if slot.key not in turn.decided)
    missed = list(islice(unknown, MISSED_COUNTED))
    asked_for = event.missed if isinstance(event, JobResumed) else "none"
    left = max(0, len(missed) - {"none": 0, "latest": 1, "all": MISSED_COUNTED}[asked_for])
    if left:
        turn.miss(missed[0], "suspended", count=left)
    for slot in missed[left:]:
        turn.admit(slot)


def due(plan: Plan, now: datetime, settle: Settle, decided: Collection[str] = (), limit: int = 100) -> Decision:
    """Decide what the schedule has due, at most `limit` slots, and tell the next one; of the plan only that changes.

    `decided` holds the keys of the job's slots in the ledger from the next one on: an edit that was heard late may have
    put the schedule back before them.
    """
    turn = Turn(plan, now, settle, decided)
    turn.catch_up(now, limit=limit)
    turn.announce()
    return turn.decision()


def run_now(plan: Plan, command: RunNowRequested, now: datetime, settle: Settle) -> Decision:
    """The run that was asked for by hand."""
    return _commanded(plan, command, Trigger.MANUAL, None, now, settle)


def retry(plan: Plan, command: JobCommand, again: Entry, now: datetime, settle: Settle) -> Decision:
    """A new run with the same question as `again`."""
    return _commanded(plan, command, Trigger.RETRY, again, now, settle)


def _commanded(
    plan: Plan, command: JobCommand, trigger: Trigger, again: Entry | None, now: datetime, settle: Settle
) -> Decision:
    turn = Turn(plan, now, settle)
    if not plan.deleted:
        slot = slots.commanded_slot(trigger, command.event_id, command.occurred_at)
        turn.admit(slot, question=again.question if again else None, retry=again)
    return turn.decision()


def cancel(plan: Plan, entries: Iterable[Entry], actor: str, now: datetime, settle: Settle) -> Decision:
    """End what is asked to end."""
    turn = Turn(plan, now, settle)
    for entry in entries:
        turn.cancel(entry, actor)
    return turn.decision()


def end_run(plan: Plan, entry: Entry, state: RunState, now: datetime, settle: Settle) -> Decision:
    """A run is over: request what waited for it, or pause a schedule that fails again and again."""
    turn = Turn(plan, now, settle)
    if entry.open:
        turn.end(entry, state)
        _pause(turn)
        turn.release()
    return turn.decision()


def _pause(turn: Turn) -> None:
    plan = turn.plan
    allowed = plan.settings.pause_after_failures
    if not plan.active or allowed is None or plan.failures < allowed:
        return
    # A slot that is due but not decided yet counts as missed in the pause.
    stopped_at = min(turn.now, plan.next_slot_at - slots.TICK) if plan.next_slot_at else turn.now
    turn.plan = replace(plan, active=False, next_slot_at=None, stopped_at=stopped_at)
    turn.events.append(
        SchedulePaused(
            occurred_at=turn.now, tenant=plan.tenant, job_id=plan.job_id, job_version=plan.job_version,
            failures=plan.failures,
        )
    )  # fmt: skip


def start_backfill(
    plan: Plan, command: BackfillRequested, answers: Sequence[Answer], now: datetime, settle: Settle
) -> Decision:
    """Divide a backfill into slots; each waits for its turn, and the first ones have it at once."""
    turn = Turn(plan, now, settle)
    if plan.deleted:
        return turn.decision()
    wanted = slots.pieces(
        plan.settings, command.interval_from, command.interval_to, settle(plan.settings.source), command.occurred_at
    )
    pieces = list(slots.outstanding(wanted, [*answers, *_awaited(plan, settle)], command.reprocess))
    turn.events.append(
        BackfillStarted(
            occurred_at=now, tenant=plan.tenant, job_id=plan.job_id, job_version=plan.job_version,
            backfill_id=command.event_id, slots=len(pieces),
        )
    )  # fmt: skip
    waiting = [
        turn.wait_for_backfill(
            slots.backfilled_slot(command.event_id, piece.at),
            slots.question(plan.settings, piece.interval_from, piece.interval_to),
        )
        for piece in pieces
    ]
    turn.release_backfill(Backfill(command.event_id, command.max_parallel), 0, waiting)
    return turn.decision()


def _awaited(plan: Plan, settle: Settle) -> Iterator[Answer]:
    """What the waiting slots of the schedule will ask; it is not in the ledger before they are requested."""
    timeframe, settling = plan.settings.timeframe, settle(plan.settings.source)
    for entry in plan.held:
        if entry.question is None:
            yield Answer(*slots.data_interval(timeframe, entry.slot.at, settling, plan.exported_to), failed=False)


def go_on(
    plan: Plan, backfill: Backfill, open_runs: int, waiting: Sequence[Entry], now: datetime, settle: Settle
) -> Decision:
    """Request the next slots of a backfill, after one of its runs has ended."""
    turn = Turn(plan, now, settle)
    turn.release_backfill(backfill, open_runs, waiting)
    return turn.decision()
