"""What a tenant's events say about its jobs and runs, so that late and repeated ones change nothing."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

KEPT: Final = 5_000
"""Runs and jobs that are remembered; what is forgotten is read again when it is heard of."""

_STATES: Final = {
    "RunRequested": "requested",
    "RunQueued": "queued",
    "RunStarted": "running",
    "RunAttemptFailed": "queued",
    "RunSucceeded": "succeeded",
    "RunFailed": "failed",
    "RunCancelled": "cancelled",
}
"""The state of a run after an event about it."""
_WITHOUT_CHANGE: Final = frozenset({"ArtifactStored", "ArtifactDownloaded", "ArtifactDeleted"})
TERMINAL: Final = frozenset({"succeeded", "failed", "cancelled"})

Rank = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a run is, as far as it was told."""

    run_id: str
    state: str
    rank: Rank
    progress: Mapping[str, Any] | None = None

    @property
    def terminal(self) -> bool:
        """Whether the run has ended."""
        return self.state in TERMINAL


@dataclass(slots=True)
class Changes:
    """What has to be shown anew."""

    jobs: list[str] = field(default_factory=list[str])
    runs: list[Standing] = field(default_factory=list[Standing])
    ticks: list[Standing] = field(default_factory=list[Standing])
    """Runs that have only come further."""

    def __bool__(self) -> bool:
        return bool(self.jobs or self.runs or self.ticks)


class News:
    """Takes in events and says what changed by them.

    A run only goes forward: the greatest attempt and, within it, the latest state; a terminal state is final. Of its
    progress the greatest attempt and sequence count, and none once it has ended.
    """

    def __init__(self) -> None:
        self._standings: Recent[str, Standing] = Recent(KEPT)
        self._newest: Recent[str, str] = Recent(KEPT)
        self._jobs: dict[str, None] = {}
        self._runs: dict[str, None] = {}
        self._ticks: dict[str, None] = {}

    def hear(self, kind: str, body: Mapping[str, Any]) -> bool:
        """Take in an event; says whether anything has to be shown anew."""
        job_id, run_id = body.get("job_id"), body.get("run_id")
        if kind == "RunProgressed":
            return run_id is not None and self._progressed(run_id, body["progress"])
        if job_id is None or kind in _WITHOUT_CHANGE:
            return False
        if run_id is not None and kind in _STATES:
            if not self._moved(run_id, _STATES[kind], _rank(_STATES[kind], body.get("attempt", 0))):
                return False
            if kind == "RunRequested":
                self._newest[job_id] = run_id
        self._jobs[job_id] = None
        return True

    def read(self, execution: Mapping[str, Any]) -> None:
        """Take in a run as history has it."""
        run_id, state = execution["run_id"], execution["state"]
        if self._moved(run_id, state, _rank(state, execution["attempt"])):
            self._jobs[execution["job_id"]] = None
        if execution["progress"] is not None:
            self._progressed(run_id, execution["progress"])

    def again(self, jobs: list[str]) -> None:
        """Let jobs be shown anew once more."""
        self._jobs.update(dict.fromkeys(jobs))

    def take(self, most_jobs: int) -> Changes:
        """What has to be shown anew, with `most_jobs` jobs at most; the others stay for the next time."""
        jobs = list(self._jobs)[:most_jobs]
        for job_id in jobs:
            del self._jobs[job_id]
        runs = [self._standings[run_id] for run_id in self._runs if run_id in self._standings]
        ticks = [self._standings[run_id] for run_id in self._ticks if run_id in self._standings]
        changes = Changes(jobs, runs, [tick for tick in ticks if tick.run_id not in self._runs])
        self._runs, self._ticks = {}, {}
        return changes

    @property
    def waiting(self) -> bool:
        """Whether `take` would find something."""
        return bool(self._jobs or self._runs or self._ticks)

    def completed(self, job: dict[str, Any]) -> dict[str, Any]:
        """A job with its latest run as far as that was told, where the job's owner has not heard it yet."""
        latest: dict[str, Any] | None = job["latest_run"]
        told = None if latest is None else self._standings.get(latest["id"])
        if latest is None or told is None:
            return job
        state = told.state if _order(told.state) >= _order(latest["state"]) else latest["state"]
        latest = {**latest, "state": state}
        if state == "running" and told.progress is not None:
            latest |= {name: told.progress[name] for name in ("percent", "remaining_seconds")}
        return {**job, "latest_run": latest}

    def newest(self, standing: Standing) -> Standing:
        """How a run stands by now."""
        return self._standings.get(standing.run_id) or standing

    def is_behind(self, job: Mapping[str, Any]) -> bool:
        """Whether the job's owner has not heard yet of its newest run."""
        newest = self._newest.get(job["id"])
        latest = job["latest_run"]
        return newest is not None and (latest is None or latest["id"] != newest)

    def _moved(self, run_id: str, state: str, rank: Rank) -> bool:
        known = self._standings.get(run_id)
        if known is not None and (known.terminal or rank <= known.rank):
            return False
        progress = None if known is None or known.rank[0] < rank[0] else known.progress
        self._standings[run_id] = Standing(run_id, state, rank, progress)
        self._runs[run_id] = None
        self._ticks.pop(run_id, None)
        return True

    def _progressed(self, run_id: str, progress: Mapping[str, Any]) -> bool:
        known = self._standings.get(run_id)
        # Ticks are told of runs in progress only; whoever tells one of a run we do not know says that it runs.
        known = known or Standing(run_id, "running", (progress["attempt"], _order("running")))
        if known.terminal or _reach(progress) <= _reach(known.progress) or progress["attempt"] < known.rank[0]:
            return False
        self._standings[run_id] = replace(known, progress=progress)
        if known.state == "running":
            self._ticks[run_id] = None
        return known.state == "running"


def _reach(progress: Mapping[str, Any] | None) -> tuple[int, int]:
    return (-1, -1) if progress is None else (progress["attempt"], progress["sequence"])


def _rank(state: str, attempt: int) -> Rank:
    """Where a state stands in a run's course: queued again after an attempt is after that attempt ran."""
    return attempt, 3 if state == "queued" and attempt else _order(state)


def _order(state: str) -> int:
    return {"waiting": 0, "requested": 0, "queued": 1, "running": 2}.get(state, 9)


class Recent(OrderedDict[K, V], Generic[K, V]):
    """A dictionary that forgets what was set longest ago."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self._most:
            self.popitem(last=False)
