"""`cdds runs watch`: how runs go, live, until they end.

The stream says that something happened, and how far runs are; what a run is then, the service is asked. So what was
missed while the stream was broken is seen at the next look, and where there is no stream, looking is all there is.
"""

import time
from collections.abc import Collection
from typing import Annotated, Any, Final
from uuid import UUID

import typer

from cli.client import Client, Document, Refused
from cli.connection import Connection, connected
from cli.console import Exit, Failure, Output, OutputOption
from cli.jobs.naming import job_id
from cli.runs.naming import find_run
from cli.runs.showing import Screen, over, screen
from cli.runs.stream import Happened, follow
from shared import slots

KNOWN_WITHIN_SECONDS: Final = 20
_LOOKED_AT: Final = 50
"""Of the job's skipped slots, the newest; what was ordered a moment ago is among them."""
_OF_A_RUN: Final = frozenset(
    {"RunRequested", "RunQueued", "RunStarted", "RunAttemptFailed", "RunSucceeded", "RunFailed", "RunCancelled"}
)
_NEVER_A_RUN: Final = frozenset({"SlotSkipped", "SlotMissed"})
_IN_PROGRESS: Final = ("requested", "queued", "running")
_NOT_FOUND: Final = 404


@connected
def watch(
    connection: Connection,
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="Ids of runs; the beginning of an id will do.")
    ] = None,
    job: Annotated[str | None, typer.Option("--job", help="All runs of this job, from now on.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the progress of runs: rows, percent and the time that is left.

    Of the runs that are named it waits for the end, and the exit code is 0 when all of them succeeded. Otherwise it
    shows whatever is in progress until you press Ctrl-C.
    """
    if runs and job is not None:
        raise typer.BadParameter("give RUNs or --job, not both")
    with connection.open("viewer") as client:
        wanted = [find_run(client, name) for name in runs or ()]
        job_wanted = None if job is None else job_id(client, job)
        with screen(output) as shown_on:
            watcher = Watcher(client, shown_on, wanted or None, job_wanted)
            try:
                watcher.watch()
            except KeyboardInterrupt:
                if wanted:
                    raise
    if not watcher.succeeded:
        raise typer.Exit(Exit.FAILED)


def watch_run(client: Client, ordered: Document, output: Output) -> None:
    """Show how a run goes that was just ordered, and end the command with 1 unless it succeeds."""
    with screen(output) as shown_on:
        watcher = Watcher(client, shown_on, [ordered["run_id"]], ordered["job_id"], known=True)
        watcher.watch()
    if not watcher.succeeded:
        raise typer.Exit(Exit.FAILED)


class Watcher:
    """Follows some runs to their end, or whatever is in progress for ever."""

    def __init__(
        self, client: Client, screen: Screen, wanted: Collection[str] | None, job: str | None = None,
        *, known: bool = False,
    ) -> None:  # fmt: skip
        self._client = client
        self._screen = screen
        self._wanted = None if wanted is None else dict.fromkeys(wanted)
        self._job = job
        self._seen: dict[str, dict[str, Any]] = {}
        self._ended: set[str] = set()
        # A run that was ordered a moment ago is not in history yet.
        self._deadline = None if known else time.monotonic() + KNOWN_WITHIN_SECONDS

    @property
    def succeeded(self) -> bool:
        """Whether all runs that were wanted succeeded."""
        return all(self._seen[run]["state"] == "succeeded" for run in self._wanted or ())

    def watch(self) -> None:
        """Show what happens. Raises Failure for a run that does not appear."""
        for happened in follow(self._client, job=self._job):
            self._take(happened)
            if self._wanted is not None:
                if all(run in self._seen and over(self._seen[run]) for run in self._wanted):
                    return
                self._give_up_on_unknown()

    def _take(self, happened: Happened | None) -> None:
        if happened is None:
            self._look()
            return
        run = happened.body.get("run_id")
        if happened.type in _NEVER_A_RUN:
            self._skipped(happened.body["job_id"], happened.body["slot"]["key"], happened.body["reason"])
        elif run is None or run in self._ended or (self._wanted is not None and run not in self._wanted):
            return
        elif happened.type == "RunProgressed" and run in self._seen:
            self._progressed(self._seen[run], happened.body["progress"])
        elif happened.type in _OF_A_RUN or happened.type == "RunProgressed":
            self._read(run)

    def _look(self) -> None:
        """See for ourselves how things are."""
        if self._wanted is not None:
            for run in self._wanted:
                if run not in self._seen or not over(self._seen[run]):
                    self._read(run)
            return
        running = {
            run["run_id"]: run for run in self._client.items("/executions", job_id=self._job, state=_IN_PROGRESS)
        }
        for run in running.values():
            self._show(run)
        for run in [run for run, seen in self._seen.items() if run not in running and not over(seen)]:
            self._read(run)

    def _read(self, run: str) -> None:
        try:
            self._show(self._client.json(f"/executions/{run}"))
        except Refused as refused:
            if refused.status != _NOT_FOUND:
                raise
            # It waits, or was skipped while nobody listened.
            if self._job is not None:
                for slot in self._client.items("/slots", first=_LOOKED_AT, job_id=self._job, outcome="skipped"):
                    self._skipped(slot["job_id"], slot["slot_key"], slot["reason"])

    def _show(self, run: Document) -> None:
        self._seen[run["run_id"]] = dict(run)
        self._screen.show(run)
        if self._wanted is None and over(run):
            self._ended.add(run["run_id"])
            del self._seen[run["run_id"]]

    def _progressed(self, run: dict[str, Any], progress: Document) -> None:
        before = run["progress"]
        if not over(run) and (before is None or _place(progress) > _place(before)):
            self._show({**run, "state": "running", "progress": progress})

    def _skipped(self, job: str, key: str, reason: str | None) -> None:
        """A slot that waited for its turn becomes no run; then nobody waits for one."""
        run = str(slots.run_id(UUID(job), key))
        if self._wanted is not None and run in self._wanted:
            self._show(
                {
                    "run_id": run, "job_id": job, "title": "", "state": "skipped", "attempt": 0,
                    "rows": None, "bytes": None, "progress": None, "reason": reason, "message": None,
                    "duration_seconds": None,
                }
            )  # fmt: skip

    def _give_up_on_unknown(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            for run in self._wanted or ():
                if run not in self._seen:
                    raise Failure(f"there is no run {run}, at least not yet: check the id, or whether it waits")


def _place(progress: Document) -> tuple[int, int]:
    return progress["attempt"], progress["sequence"]
