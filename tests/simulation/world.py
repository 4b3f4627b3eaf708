"""A virtual year around one scheduler: the clock, the transport and its faults, the runs, and how it all ends."""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any
from uuid import UUID
from zlib import crc32

from services.scheduler.store import Unknown
from shared import events
from shared.events import Event, RunState, ScheduleEvent
from tests.simulation.kernels import Crash, Kernel
from tests.simulation.people import Administrator, JobApi
from tests.simulation.record import Happening, Record

Step = Callable[[], Awaitable[None]]
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
TERMINAL = {
    RunState.SUCCEEDED: (events.RunSucceeded, {"rows": 1, "bytes": 1, "parts": 1, "snapshot": "1:1:"}),
    RunState.FAILED: (events.RunFailed, {"reason": "source", "message": "The source is away."}),
    RunState.CANCELLED: (events.RunCancelled, {"actor": "bob"}),
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much of a world there is."""

    jobs: int = 7
    length: timedelta = 365 * DAY
    acts: int = 8
    """What administrators do about each job."""


@dataclass(slots=True)
class Stream:
    """The records of one key: they keep their order, and are read again from any earlier one."""

    records: list[Event] = field(default_factory=list[Event])
    position: int = 0
    moving: bool = False


class World:
    """Everything random comes from `seed`; the kernel only ever hears a moment and an event."""

    def __init__(self, seed: int, kernel: Kernel, size: Size = Size()) -> None:
        self.random = Random(seed)
        self.kernel = kernel
        self.size = size
        self.now = datetime(2024 + seed % 5, 1 + seed % 12, 1 + seed % 28, seed % 24, seed % 60, tzinfo=UTC)
        self.end = self.now + size.length
        self.record = Record(seed, self.end)
        self.api = JobApi(self.random, self.write)
        self.administrator = Administrator(self.random, self.api)
        self.streams: dict[UUID, Stream] = defaultdict(Stream)
        self.back_at = self.now
        """Until then no replica works."""
        self.hears_at = self.now
        """Until then replicas hear nothing, and decide by the clock alone."""
        self.heard_until: dict[UUID, datetime] = {}
        self._agenda: list[tuple[datetime, int, Step]] = []
        self._numbers = count()

    async def live(self) -> Record:
        """Let the year pass, then come to rest: the clock stands still, and all that is outstanding happens."""
        self._arrange()
        while await self._next_step():
            pass
        written = {job_id: self.streams[job_id].records for job_id in self.api.jobs}
        self.record.written.update(written)
        self.record.ledger = await self.kernel.ledger()
        self.record.standings = await self.kernel.standings()
        self.record.rewritten = self.kernel.rewritten
        return self.record

    def _arrange(self) -> None:
        """The year of the people and of the faults."""
        for _ in range(self.size.jobs):
            self.at(self._moment(0, 0.4), self._submit)
        days = self.size.length / DAY
        for _ in range(2 + int(days / 60)):
            self.at(self._moment(0, 1), self._outage)
        for _ in range(4 + int(days / 20)):
            self.at(self._moment(0.1, 1), self._silence)
        for _ in range(1 + int(days / 200)):
            self.at(self._moment(0.2, 1), self._republish)

    async def _next_step(self) -> bool:
        """Whichever comes first: what is on the agenda, or a replica that finds something due."""
        due = await self.kernel.next_due()
        look_at = due and min(max(due, self.back_at) + self._reaction(due), max(self.end, due))
        if look_at and look_at <= self.end and (not self._agenda or look_at <= self._agenda[0][0]):
            self.now = max(self.now, look_at)
            await self._tick()
            return True
        if not self._agenda:
            return False
        moment, _, step = heappop(self._agenda)
        self.now = max(self.now, min(moment, self.end))
        await step()
        return True

    def _reaction(self, due: datetime) -> timedelta:
        """How long it takes a replica to look: seconds, or minutes when one has to be restarted."""
        dice = crc32(f"{self.record.seed} {due}".encode())
        return SECOND * (dice % 3 if dice % 7 else dice % 600)

    # --- the scheduler and what happens to it ----------------------------------------------------------------------

    async def _tick(self) -> None:
        crash = self.now < self.end and self.random.random() < 0.01
        try:
            told = await self.kernel.tick(self.now, crash=crash)
        except Crash:
            self.back_at = self.now + self.random.uniform(1, 300) * SECOND
            return
        by_job: dict[UUID, list[ScheduleEvent]] = defaultdict(list)
        for event in told:
            by_job[event.job_id].append(event)
        for job_id in sorted(by_job):
            self._committed(job_id, None, by_job[job_id])

    async def _deliver(self, key: UUID) -> None:
        """The next record of a key reaches a replica, once or again."""
        stream = self.streams[key]
        hears_at = max(self.back_at, self.hears_at)
        if self.now < min(hears_at, self.end):
            self.at(hears_at + self._lag(), lambda: self._deliver(key))
            return
        event: Any = stream.records[stream.position]
        fate = self.random.random() if self.now < self.end else 1
        try:
            told = await self.kernel.deliver(event, self.now, crash=fate < 0.02)
        except Crash:
            self.at(self.now + self.random.uniform(1, 300) * SECOND, lambda: self._deliver(key))
            return
        except Unknown:
            told = []
            self.record.happenings[event.job_id].append(Happening(self.now, event, dead=True))
        dies = fate < 0.04  # after the commit: its events leave later, and the record comes again
        self._committed(event.job_id, event, told, self.random.uniform(1, 300) * SECOND if dies else 0 * SECOND)
        if fate >= 0.07:
            stream.position += 1
        elif not dies:
            stream.position = max(0, stream.position - self.random.randrange(4))
        stream.moving = False
        self._move(key)

    def _committed(
        self, job_id: UUID, cause: Event | None, told: list[ScheduleEvent], lag: timedelta = 0 * SECOND
    ) -> None:
        self.record.happenings[job_id].append(Happening(self.now, cause, tuple(told)))
        if told:
            lag += self.random.uniform(0, 5) * SECOND
            if self.random.random() < 0.02:
                lag += self.random.uniform(0, 12) * HOUR
            self.heard_until[job_id] = max(self.heard_until.get(job_id, self.now), self.now + lag)
            self.at(self.heard_until[job_id], lambda: self._hear(told))

    async def _outage(self) -> None:
        length = self.random.choice([HOUR / 6, 3 * HOUR, DAY, 5 * DAY, 20 * DAY]) * self.random.random()
        self.back_at = max(self.back_at, self.now + length)

    async def _silence(self) -> None:
        """The broker is away from the scheduler for hours or days, and people go on changing jobs."""
        length = self.random.choice([HOUR, 8 * HOUR, DAY, 5 * DAY]) * self.random.random()
        self.hears_at = max(self.hears_at, self.now + length)
        for job_id in self.api.jobs:
            if self.random.random() < 0.5:
                self.at(self.now + length * self.random.random(), self._acting(job_id))

    async def _republish(self) -> None:
        """The broker is filled again from the outboxes: everything comes once more."""
        for key, stream in sorted(self.streams.items()):
            stream.position = 0
            self._move(key)

    # --- the others ------------------------------------------------------------------------------------------------

    async def _submit(self) -> None:
        job_id = self.api.create(self.now)
        for _ in range(self.size.acts):
            moment = self.now + (self.end - self.now) * self.random.random()
            self.at(moment, self._acting(job_id))

    async def _act(self, job_id: UUID) -> None:
        if self.now >= self.end:
            return
        self.administrator.act(job_id, self.now)
        if self.random.random() < 0.2:  # right after it, before anybody has heard of it
            self.at(self.now + self.random.uniform(0, 600) * SECOND, self._acting(job_id))

    def _acting(self, job_id: UUID) -> Step:
        return lambda: self._act(job_id)

    async def _resume(self, job_id: UUID) -> None:
        if self.now < self.end:
            self.administrator.resume(job_id, self.now)

    async def _hear(self, told: list[ScheduleEvent]) -> None:
        """job_api and the exporter get what the scheduler published; they know what they have seen before."""
        for event in told:
            before = self.api.jobs[event.job_id].version
            self.api.hear(event, self.now)
            if isinstance(event, events.SchedulePaused) and self.api.jobs[event.job_id].version > before:
                self.at(self.now + self._pause(), self._resuming(event.job_id))
            if isinstance(event, events.RunRequested):
                self._run(event)
            elif isinstance(event, events.RunCancelOrdered) and self.random.random() < 0.8:
                self._end(event.job_id, event.run_id, RunState.CANCELLED)

    def _resuming(self, job_id: UUID) -> Step:
        return lambda: self._resume(job_id)

    def _pause(self) -> timedelta:
        return self.random.uniform(0.01, 1) ** 2 * 20 * DAY

    def _run(self, event: events.RunRequested) -> None:
        """A run takes seconds or days, and ends one way or another."""
        length = self.random.choice([60 * SECOND, HOUR, HOUR, 8 * HOUR, 3 * DAY]) * self.random.random()
        state = self.random.choices([RunState.SUCCEEDED, RunState.FAILED], [3, 1])[0]

        async def end() -> None:
            self._end(event.job_id, event.run_id, state)

        self.at(self.now + length, end)

    def _end(self, job_id: UUID, run_id: UUID, state: RunState) -> None:
        """A run ends once; whoever comes later is too late, and whoever means no run ends none."""
        known = self.api.runs[job_id].get(run_id)
        if known is None or known.terminal:
            return
        self.api.runs[job_id][run_id] = state
        kind, said = TERMINAL[state]
        who = {"run_id": run_id, "job_id": job_id, "event_id": self.api.new_id()}
        if kind is events.RunSucceeded:
            said = {**said, "manifest_id": run_id, "manifest_sha256": "0" * 64}
        self.write(run_id, kind(occurred_at=self.now, tenant="acme", version=3, attempt=1, **who, **said))

    # --- the transport ---------------------------------------------------------------------------------------------

    def write(self, key: UUID, event: Event) -> None:
        """Something is published under a key."""
        self.streams[key].records.append(event)
        self._move(key)
        if isinstance(event, events.JobSuspended) and self.random.random() < 0.8:
            self.at(self.now + self._pause(), self._resuming(key))

    def _move(self, key: UUID) -> None:
        stream = self.streams[key]
        if not stream.moving and stream.position < len(stream.records):
            stream.moving = True
            self.at(self.now + self._lag(), lambda: self._deliver(key))

    def _lag(self) -> timedelta:
        dice = self.random.random()
        if dice < 0.05:
            return self.random.uniform(0, 2) * DAY
        return self.random.uniform(0, 10) * SECOND if dice < 0.9 else self.random.uniform(0, 2) * HOUR

    def at(self, moment: datetime, step: Step) -> None:
        """Put something on the agenda."""
        heappush(self._agenda, (moment, next(self._numbers), step))

    def _moment(self, begin: float, end: float) -> datetime:
        return self.now + self.size.length * self.random.uniform(begin, end)


async def live(seed: int, kernel: Kernel, size: Size | None = None) -> Record:
    """The whole world of a seed."""
    return await World(seed, kernel, size or Size()).live()
