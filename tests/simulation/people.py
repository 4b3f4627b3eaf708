"""job_api and the administrators of a world: what they write down, in the order of each job."""

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random
from uuid import UUID, uuid5

from shared import events
from shared.events import Event, Job, JobState, Missed, RunState, SuspendedReason
from shared.jobs import Once
from tests.simulation import calendar
from tests.simulation.fleet import draw_edit, draw_settings, settle

MAX_PIECES = 60
Write = Callable[[UUID, Event], None]


class JobApi:
    """Keeps jobs, and knows of runs what their events say."""

    def __init__(self, random: Random, write: Write) -> None:
        self._random = random
        self._write = write
        self.jobs: dict[UUID, Job] = {}
        self.stopped_at: dict[UUID, datetime] = {}
        self.waiting: dict[UUID, dict[UUID, None]] = defaultdict(dict)
        self.runs: dict[UUID, dict[UUID, RunState]] = defaultdict(dict)
        self.backfills: dict[UUID, list[UUID]] = defaultdict(list)

    def create(self, now: datetime) -> UUID:
        """A job is submitted."""
        settings = draw_settings(self._random, now)
        born_done = isinstance(settings.schedule, Once) and settings.immediately
        job = Job(
            id=self.new_id(), version=1, state=JobState.SUSPENDED if born_done else JobState.ACTIVE,
            suspended_reason=SuspendedReason.ONE_TIME if born_done else None, created_at=now, updated_at=now,
            created_by="alice", settings=settings,
        )  # fmt: skip
        self._say(events.JobCreated, job, now)
        return job.id

    def edit(self, job: Job, now: datetime) -> None:
        """Its settings change."""
        self._change(events.JobUpdated, job, now, settings=draw_edit(self._random, now, job.settings))

    def suspend(self, job: Job, now: datetime, reason: SuspendedReason = SuspendedReason.USER) -> None:
        """It stops following its schedule."""
        self.stopped_at[job.id] = now
        self._change(events.JobSuspended, job, now, state=JobState.SUSPENDED, suspended_reason=reason)

    def resume(self, job: Job, now: datetime, missed: Missed) -> None:
        """It follows its schedule again."""
        since = self.stopped_at.pop(job.id)
        changes = {"state": JobState.ACTIVE, "suspended_reason": None}
        self._change(events.JobResumed, job, now, told={"missed": missed, "missed_since": since}, **changes)

    def delete(self, job: Job, now: datetime) -> None:
        """It is gone."""
        self._change(events.JobDeleted, job, now, state=JobState.DELETED)

    def command(self, kind: type[events.JobCommand], job: Job, now: datetime, **said: object) -> UUID:
        """Somebody asks for something about a job or a run."""
        command_id = self.new_id()
        wanted = {"event_id": command_id, "occurred_at": now, "tenant": "acme", "job_id": job.id, "actor": "bob"}
        self._write(job.id, kind.model_validate({**wanted, **said}))
        return command_id

    def hear(self, event: events.ScheduleEvent, now: datetime) -> None:
        """Follow the scheduler; a job is suspended only as the version it speaks of."""
        job = self.jobs[event.job_id]
        same = job.version == event.job_version and job.state is JobState.ACTIVE
        match event:
            case events.SchedulePaused() if same:
                self.suspend(job, now, SuspendedReason.FAILURES)
            case events.ScheduleCompleted() if same:
                self.suspend(job, now, SuspendedReason.ONE_TIME)
            case events.SlotWaiting():
                self.waiting[job.id][run_of(event)] = None
            case events.SlotSkipped() | events.SlotMissed():
                self.waiting[job.id].pop(run_of(event), None)
            case events.RunRequested():
                self.waiting[job.id].pop(event.run_id, None)
                self.runs[job.id].setdefault(event.run_id, RunState.REQUESTED)
            case _:
                pass

    def new_id(self) -> UUID:
        """An id that is the same whenever the seed is."""
        return UUID(int=self._random.getrandbits(128), version=4)

    def _change(
        self, kind: type[events.JobEvent], job: Job, now: datetime, told: dict[str, object] | None = None, **to: object
    ) -> None:
        changed = job.model_copy(update={"version": job.version + 1, "updated_at": now, **to})
        self._say(kind, changed, now, **(told or {}))

    def _say(self, kind: type[events.JobEvent], job: Job, now: datetime, **told: object) -> None:
        self.jobs[job.id] = job
        said = {"event_id": self.new_id(), "occurred_at": now, "tenant": "acme", "job_id": job.id, "actor": "alice"}
        self._write(job.id, kind(**said, job=job, **told))


class Administrator:
    """Somebody with every right and no plan; does one thing at a time, as far as job_api would accept it."""

    def __init__(self, random: Random, api: JobApi) -> None:
        self._random = random
        self._api = api

    def act(self, job_id: UUID, now: datetime) -> None:
        """Do something about a job."""
        api, random, job = self._api, self._random, self._api.jobs[job_id]
        if job.state is JobState.DELETED:
            return
        once = isinstance(job.settings.schedule, Once)
        over = job.suspended_reason is SuspendedReason.ONE_TIME
        runs = api.runs[job_id]
        match random.choices(
            ["edit", "stop", "run", "cancel", "retry", "backfill", "call off", "delete"], [22, 30, 14, 12, 10, 8, 3, 1]
        )[0]:
            case "edit" if not once:
                api.edit(job, now)
            case "stop" if job.state is JobState.ACTIVE:
                api.suspend(job, now)
            case "stop" | "edit" if job.state is JobState.SUSPENDED and not over:
                self.resume(job_id, now)
            case "run":
                api.command(events.RunNowRequested, job, now)
            case "cancel":
                if open_ := [*api.waiting[job_id], *(run for run, state in runs.items() if not state.terminal)]:
                    api.command(events.RunCancelRequested, job, now, run_id=random.choice(open_))
            case "retry":
                if ended := [run for run, state in runs.items() if state.terminal]:
                    api.command(events.RunRetryRequested, job, now, run_id=random.choice(ended[-5:]))
            case "backfill":
                self._backfill(job, now)
            case "call off" if api.backfills[job_id]:
                backfill_id = random.choice(api.backfills[job_id])
                api.command(events.BackfillCancelRequested, job, now, backfill_id=backfill_id)
            case "delete":
                api.delete(job, now)
            case _:
                pass

    def resume(self, job_id: UUID, now: datetime) -> None:
        """End a suspension, if there is one that may end."""
        job = self._api.jobs[job_id]
        if job.state is JobState.SUSPENDED and job.suspended_reason is not SuspendedReason.ONE_TIME:
            self._api.resume(job, now, self._random.choice(["none", "latest", "all"]))

    def _backfill(self, job: Job, now: datetime) -> None:
        random = self._random
        end = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=random.randrange(0, 100))
        length = timedelta(hours=random.randrange(1, 60))
        wanted = {
            "interval_from": end - length,
            "interval_to": end,
            "reprocess": random.choice(["missing", "missing_and_failed", "all"]),
            "max_parallel": random.choice([1, 2, 5]),
        }
        settle_for = settle(job.settings.source)
        if len(calendar.pieces(job.settings, end - length, end, settle_for, now)) > MAX_PIECES:
            return  # every hour of the last month, say: right, but slow
        self._api.backfills[job.id].append(self._api.command(events.BackfillRequested, job, now, **wanted))


def run_of(event: events.SlotWaiting | events.SlotSkipped | events.SlotMissed) -> UUID:
    """The run that a slot would have."""
    return uuid5(event.job_id, event.slot.key)
