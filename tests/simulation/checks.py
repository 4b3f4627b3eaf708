"""The ledger at rest, held against the calendar: every slot and every command is accounted for, and nothing else is.

I1  every slot in which the job was active, and every command, has one row or is counted in one, for an allowed reason
I9  no row for a slot that the calendar does not have; the next slot is the calendar's
and nothing waits for ever.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from uuid import UUID

from shared import events
from shared.clock import utc_text
from shared.events import JobEvent, JobState, ScheduleEvent
from shared.jobs import JobSettings, SinceLastRun
from tests.simulation import calendar
from tests.simulation.calendar import TICK
from tests.simulation.record import Complaint, Record
from tests.simulation.replay import Fate, Replay

ON_TIME = timedelta(minutes=1)


class Wrong(AssertionError):
    """A world in which an invariant does not hold."""


def check(record: Record) -> None:
    """Raise Wrong, with the seed, the job and what happened to it last, if anything is not as it should be."""
    for job_id in record.written:
        if complaints := list(complaints_about(record, job_id)):
            most = "\n".join(f"- {at:%Y-%m-%d %H:%M:%S}  {what}" for at, what in complaints[:8])
            raise Wrong(
                f"seed {record.seed}, {len(complaints)} complaints (`make simulate SEED={record.seed}`)\n"
                f"{most}\n{record.trace(job_id, complaints[0].at)}"
            )


def complaints_about(record: Record, job_id: UUID) -> Iterator[Complaint]:
    """What is wrong about a job."""
    written = [event for event in record.written[job_id] if isinstance(event, JobEvent)]
    replay = Replay(job_id, {event.job.version: event for event in written})
    replay.follow(record.happenings[job_id])
    yield from replay.complaints
    yield from (Complaint(record.end, f"I3: {what}") for whose, what in record.rewritten if whose == job_id)
    unheard = [event.job.version for event in written if event.job.version not in replay.applied]
    if unheard:
        yield Complaint(record.end, f"I1: versions {unheard} were never applied")
        return
    account = Account(record, job_id, written, replay)
    yield from account.rows()
    yield from account.commands()
    yield from account.calendar()
    yield from account.tiling()
    yield from account.rest()


class Account:
    """The slots of one job, from all sides."""

    def __init__(self, record: Record, job_id: UUID, written: list[JobEvent], replay: Replay) -> None:
        self._record = record
        self._job_id = job_id
        self._written = written
        self._replay = replay
        self._scheduled = {f.slot.at: f for f in replay.fates.values() if f.slot.trigger == "schedule"}

    def rows(self) -> Iterator[Complaint]:
        """Whether the ledger says what was told."""
        rows = {key: row for (whose, key), row in self._record.ledger.items() if whose == self._job_id}
        told = self._replay.fates
        for key in rows.keys() ^ told.keys():
            yield Complaint(
                self._record.end, f"I1: {key} is {'only in the ledger' if key in rows else 'not in the ledger'}"
            )
        for key in rows.keys() & told.keys():
            row, fate = rows[key], told[key]
            said = _outcome(fate.told[-1])
            if said != (row.outcome, row.reason, row.count) or row.run_state != fate.run_state:
                yield Complaint(
                    fate.first.occurred_at, f"I3: {key} was told as {said} {fate.run_state}, and the ledger says {row}"
                )

    def commands(self) -> Iterator[Complaint]:
        """Whether everything asked for has its slot, and every slot of a command was asked for."""
        asked: set[str] = set()
        for event in self._record.written[self._job_id]:
            match event:
                case events.RunNowRequested():
                    asked.add(f"manual:{event.event_id}")
                case events.RunRetryRequested():
                    asked.add(f"retry:{event.event_id}")
                case events.JobCreated() if event.job.settings.immediately:
                    asked.add(f"immediate:{event.event_id}")
                case events.BackfillRequested():
                    _, pieces = self._replay.started.get(event.event_id, (None, None))
                    if pieces is None:
                        yield Complaint(event.occurred_at, f"I1: backfill {event.event_id} was never started")
                    asked |= {f"backfill:{event.event_id}:{utc_text(at)}" for at in pieces or ()}
                case _:
                    pass
        commanded = {key for key, fate in self._replay.fates.items() if fate.slot.trigger != "schedule"}
        for key in sorted(asked ^ commanded):
            yield Complaint(
                self._record.end, f"I1: {key} {'has no row' if key in asked else 'was asked for by nobody'}"
            )

    def calendar(self) -> Iterator[Complaint]:
        """Whether the schedule's slots are those of the calendar, version by version."""
        stop: datetime | None = None
        for event, successor in zip(self._written, [*self._written[1:], None], strict=True):
            until = successor.occurred_at if successor else self._record.end - event.job.settings.jitter
            if event.job.state is not JobState.ACTIVE:
                stop = min(stop or event.occurred_at, event.occurred_at)
                continue
            if stop is not None:
                yield from self._take_up(event, min(stop, event.occurred_at))
            stop = self._stop(event)
            for at in calendar.slots(event.job.settings, event.occurred_at, min(until, stop or until)):
                if at not in self._scheduled:
                    yield Complaint(at, f"I1: the slot {at} of version {event.job.version} has no row")
        for at, fate in self._scheduled.items():
            yield from self._reasons(at, fate)

    def _stop(self, event: JobEvent) -> datetime | None:
        """When the scheduler paused this version; slots that were due and undecided then belong to the pause."""
        paused_at = self._replay.paused.get(event.job.version)
        if paused_at is None:
            return None
        passed = calendar.slots(event.job.settings, event.occurred_at, paused_at)
        decided = [at for at in passed if at in self._scheduled and self._before_pause(self._scheduled[at], event)]
        undecided = [at for at in passed if at not in decided]
        if undecided and decided and undecided[0] < decided[-1]:
            return paused_at  # a hole, and the pause excuses none
        return min([paused_at, *(at - TICK for at in undecided)])

    def _before_pause(self, fate: Fate, event: JobEvent) -> bool:
        version = event.job.version
        return fate.first.job_version <= version and fate.first.occurred_at <= self._replay.paused[version]

    def _take_up(self, event: JobEvent, since: datetime) -> Iterator[Complaint]:
        """The slots of a suspension or pause that `event` ends: some asked for, the others counted in one row."""
        version = event.job.version
        missed = calendar.slots(event.job.settings, since, event.occurred_at)
        fresh = [at for at in missed if at not in self._scheduled or self._taken_up(self._scheduled[at], event)]
        asked_for = event.missed if isinstance(event, events.JobResumed) else "none"
        left = {"none": len(fresh), "latest": max(0, len(fresh) - 1), "all": 0}[asked_for]
        summaries = [
            (at, fate.first.count)
            for at, fate in self._scheduled.items()
            if isinstance(fate.first, events.SlotMissed)
            and (fate.first.reason, fate.first.job_version) == ("suspended", version)
        ]
        if summaries != ([(fresh[0], left)] if left else []):
            yield Complaint(
                self._replay.applied[version],
                f"I1: version {version} missed {left} slots from {fresh[:1]} on, and {summaries} are written down",
            )
        for at in fresh[1:left]:
            if at in self._scheduled:
                yield Complaint(at, f"I1: the slot {at} is counted as missed in a suspension, and has a row")
        for at in fresh[left:]:
            if at not in self._scheduled:
                yield Complaint(at, f"I1: the slot {at} passed in a suspension, was asked for, and has no row")

    def _taken_up(self, fate: Fate, event: JobEvent) -> bool:
        """Whether it was decided as the job then was, when the scheduler heard of `event`."""
        return fate.first.job_version == event.job.version == _heard(fate)

    def _reasons(self, at: datetime, fate: Fate) -> Iterator[Complaint]:
        """Whether a slot of the schedule has a place in the calendar, and a reason to end as it did."""
        version, decided_at = fate.first.job_version, fate.first.occurred_at
        event, successor = self._replay.versions[version], self._replay.versions.get(version + 1)
        settings = event.job.settings
        key = f"schedule:{utc_text(at)}"
        if fate.slot.key != key or calendar.slots(settings, at - TICK, at) != [at] or at > self._record.end:
            yield Complaint(decided_at, f"I9: {fate.slot.key} at {at} is not in the calendar of version {version}")
        ends_it = successor is not None and _heard(fate) == version + 1
        cut = successor.occurred_at if successor and ends_it else decided_at
        if at > min(cut, decided_at):
            yield Complaint(
                decided_at, f"I1: {key} is decided at {decided_at} as of version {version}, which did not reach so far"
            )
        if at <= event.occurred_at:
            if _heard(fate) != version:
                yield Complaint(decided_at, f"I1: {key} lies before version {version} of {event.occurred_at}")
            return  # of a suspension
        yield from _lateness_faults(fate, settings, cut)

    def tiling(self) -> Iterator[Complaint]:
        """Whether the succeeded runs of a job that was always `since_last_run` cover the time without gap or overlap.

        Backfills and repeated questions come on top of that.
        """
        timeframes = {event.job.settings.timeframe for event in self._written}
        sources = {event.job.settings.source for event in self._written}
        [timeframe] = timeframes if len(timeframes) == 1 else [None]
        if not isinstance(timeframe, SinceLastRun) or len(sources) > 1:
            return
        covered = timeframe.from_
        for fate in self._replay.by_run.values():
            if fate.run_state != "succeeded" or fate.slot.trigger == "backfill" or fate.asked is None:
                continue
            begin, end = fate.asked
            if begin != covered and fate.slot.trigger != "retry":
                yield Complaint(fate.first.occurred_at, f"I9: exported up to {covered}, and then from {begin} on")
            covered = max(covered, end)

    def rest(self) -> Iterator[Complaint]:
        """Whether all has been done that could be."""
        for key, fate in self._replay.fates.items():
            if fate.waiting or fate.run_state == "open":
                yield Complaint(fate.first.occurred_at, f"{key} {'waits' if fate.waiting else 'is open'} for ever")
        standing, last = self._record.standings[self._job_id], self._written[-1]
        version = last.job.version
        if standing.due_at is not None and standing.due_at <= self._record.end:
            yield Complaint(self._record.end, f"{standing.next_slot_at} is still due")
        if standing.job_version != version:
            yield Complaint(
                self._record.end, f"I7: the plan is of version {standing.job_version}, the job of {version}"
            )
        active = last.job.state is JobState.ACTIVE and version not in self._replay.paused
        after = max([last.occurred_at, *(at for at in self._scheduled if at <= self._record.end)])
        expected = calendar.next_slot(last.job.settings, after) if active else None
        if standing.next_slot_at != expected:
            yield Complaint(
                self._record.end, f"I9: the next slot is {standing.next_slot_at}, the calendar's is {expected}"
            )


def _heard(fate: Fate) -> int | None:
    """The version of the job that the scheduler heard of when it decided."""
    cause = fate.decided_by.cause
    return cause.job.version if isinstance(cause, JobEvent) else None


def _outcome(event: ScheduleEvent) -> tuple[str, str | None, int]:
    match event:
        case events.SlotSkipped():
            return "skipped", event.reason, 1
        case events.SlotMissed():
            return "missed", event.reason, event.count
        case events.RunRequested():
            return "requested", None, 1
        case _:
            return "waiting", None, 1


def _lateness_faults(fate: Fate, settings: JobSettings, cut: datetime) -> Iterator[Complaint]:
    """Whether a slot was caught up with, coalesced or missed as the settings say; its jitter is at most the job's."""
    first, key, at = fate.first, fate.slot.key, fate.slot.at
    mode = settings.catchup.mode
    if mode == "all" and isinstance(settings.timeframe, SinceLastRun):
        mode = "latest"
    latest = first.occurred_at - at
    least = latest - settings.jitter

    def too_late(late: timedelta) -> bool:
        return late > ON_TIME and (mode == "none" or late > settings.catchup.window)

    following = calendar.next_slot(settings, at) if mode == "latest" and latest > ON_TIME else None
    superseded = following is not None and following <= min(cut, first.occurred_at)
    surely = following is not None and following <= min(cut, first.occurred_at) - settings.jitter
    reason = first.reason if isinstance(first, events.SlotMissed) else None
    if reason == "catchup_window":
        if not too_late(latest):
            yield Complaint(first.occurred_at, f"I1: {key} is missed as too late, {latest} after it was due")
    elif too_late(least):
        yield Complaint(first.occurred_at, f"I1: {key} is admitted or coalesced {least} after it was due")
    if reason == "coalesced":
        if not fate.answered and not superseded:
            yield Complaint(first.occurred_at, f"I1: {key} is coalesced without a later slot")
    elif reason is None and least > ON_TIME and surely:
        yield Complaint(first.occurred_at, f"I1: {key} is admitted, though {following} had come")
    if reason == "suspended":
        yield Complaint(first.occurred_at, f"I1: {key} is missed in a suspension that was none")
