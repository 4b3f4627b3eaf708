"""How runs look: in lists, one with all that belongs to it, and live."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import orjson
import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from cli.client import Document
from cli.console import (
    Output,
    duration_text,
    moment_text,
    out,
    print_fields,
    print_json,
    print_table,
    say,
    short,
    shown,
    size_text,
)
from shared.events import RunState

_COLOURS: Final = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "skipped": "yellow"}


def print_runs(runs: Iterable[Document], output: Output) -> None:
    """A list of runs."""
    if output is Output.JSON:
        print_json(list(runs))
        return
    print_table(
        "Run", "Title", "State", "Requested (UTC)", "Took", "Rows",
        rows=[
            [
                short(run["run_id"]), shown(run["title"]), coloured(run["state"], state_text(run)),
                moment_text(run["requested_at"])[:-3], duration_text(run["duration_seconds"]), rows_text(run),
            ]
            for run in runs
        ],
    )  # fmt: skip


def print_run(run: Document, events: Iterable[Document]) -> None:
    """A run with its attempts, what happened to it, and its files."""
    error = run["error"]
    print_fields(
        {
            "Run": run["run_id"],
            "Job": f"{shown(run['title'])} ({run['job_id']}, version {run['job_version']})",
            "State": coloured(run["state"], state_text(run)),
            "Error": "" if error is None else shown(error["message"] or error["reason"]),
            "Remedy": "" if error is None else shown(error["remedy"]),
            "Cancelled by": shown(run["cancelled_by"] or ""),
            "Data": f"{moment_text(run['interval_from']) or 'the beginning'} to {moment_text(run['interval_to'])} UTC",
            "Asked": f"{run['source']} {run['type']}, by {run['trigger']}, slot {moment_text(run['slot_at'])}",
            "Retry of": run["retry_of"] or "",
            "Requested": moment_text(run["requested_at"]),
            "Started": moment_text(run["started_at"]),
            "Finished": moment_text(run["finished_at"]),
            "Took": duration_text(run["duration_seconds"]),
            "Rows": rows_text(run),
            "Size": size_text(run["bytes"]) if run["bytes"] is not None else "",
        }
    )
    _print_attempts(run["attempts"])
    _print_files(run["artifacts"])
    out.print("\n[bold]What happened[/] (UTC)")
    print_table("", "", "", rows=[[moment_text(e["occurred_at"]), e["type"], shown(_what(e))] for e in events])


def _print_attempts(attempts: Iterable[Document]) -> None:
    rows = [
        [
            str(attempt["number"]), shown(attempt["worker"] or ""), moment_text(attempt["started_at"]),
            moment_text(attempt["ended_at"]), shown(attempt["message"] or attempt["reason"] or ""),
        ]
        for attempt in attempts
    ]  # fmt: skip
    if rows:
        out.print()
        print_table("Attempt", "Worker", "Started (UTC)", "Ended (UTC)", "Failed of", rows=rows)


def _print_files(artifacts: Iterable[Document]) -> None:
    rows = [
        [
            shown(file["file_name"]), size_text(file["size_bytes"]), f"{file['rows']:,}",
            "deleted" if file["deleted_at"] else f"{file['remaining_days']} days",
        ]
        for file in artifacts
    ]  # fmt: skip
    if rows:
        out.print()
        print_table("File", "Size", "Rows", "Kept for", rows=rows)


def _what(event: Document) -> str:
    """What an event says beside its name."""
    body = event["body"]
    said = [body.get("message") or body.get("reason"), event["actor"] and f"by {event['actor']}"]
    if "worker" in body:
        said.append(f"attempt {body['attempt']} on {body['worker']}")
    if isinstance(body.get("part"), Mapping):
        said.append(body["part"]["file_name"])
    return ", ".join(part for part in said if part)


def state_text(run: Document) -> str:
    """Where a run is, and how far."""
    progress = run["progress"]
    if run["state"] == RunState.RUNNING and progress and progress["percent"] is not None:
        return f"running {progress['percent']:.0f} %"
    return run["state"]


def rows_text(run: Document) -> str:
    """The rows that were exported, or so far."""
    rows = run["rows"] if run["rows"] is not None else (run["progress"] or {}).get("rows")
    return "" if rows is None else f"{rows:,}"


def coloured(state: str, text: str) -> str:
    """The text in the colour of a state."""
    colour = _COLOURS.get(state)
    return text if colour is None else f"[{colour}]{text}[/]"


# --- live ---------------------------------------------------------------------------------------------------------


class Screen(Protocol):
    """Where it is shown how runs go; each call has the run as it is now."""

    def show(self, run: Document) -> None:
        """Show a run that may have changed."""
        ...


def screen(output: Output) -> AbstractContextManager[Screen]:
    """Bars for people who look, a line for each change otherwise, or a JSON object for each."""
    if output is Output.JSON:
        return nullcontext(_Changes(_print_object))
    return Bars() if out.is_terminal else nullcontext(_Changes(_print_line))


class Bars(AbstractContextManager["Bars"]):
    """A bar for each run in progress; what has ended scrolls away above them."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[percent]:>5}"),
            TextColumn("{task.fields[rows]:>13}"), TextColumn("{task.fields[left]:>10}"),
        )  # fmt: skip
        self._bars = Progress(*columns, console=out, expand=True)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Bars":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, run: Document) -> None:
        """Move a bar, or take it away."""
        task = self._tasks.get(run["run_id"])
        if over(run):
            if task is not None:
                self._bars.remove_task(task)
                del self._tasks[run["run_id"]]
                self._bars.refresh()
            self._bars.console.print(sentence(run), highlight=False, soft_wrap=True)
            return
        change = change_of(run)
        percent, rows, left = change["percent"], change["rows"], change["remaining_seconds"]
        shown_now: dict[str, Any] = {
            "description": f"{short(run['run_id'])} {shown(str(run['title'])[:24])}",
            "completed": percent or 0.0,
            "total": 100 if percent is not None or run["state"] != RunState.RUNNING else None,
            "percent": run["state"][:9] if percent is None else f"{percent:.0f} %",
            "rows": "" if rows is None else f"{rows:,} rows",
            "left": "" if left is None else duration_text(round(left)),
        }
        if task is None:
            self._tasks[run["run_id"]] = self._bars.add_task(**shown_now)
        else:
            self._bars.update(task, **shown_now)


class _Changes:
    """Tells of each change once."""

    def __init__(self, tell: Any) -> None:
        self._tell = tell
        self._told: dict[str, Any] = {}

    def show(self, run: Document) -> None:
        """Tell of a run unless it was told of as it is."""
        change = change_of(run)
        if self._told.get(run["run_id"]) != change:
            self._told[run["run_id"]] = change
            self._tell(run, change)


def _print_object(run: Document, change: Document) -> None:
    typer.echo(orjson.dumps({"at": datetime.now(UTC), **change}, option=orjson.OPT_UTC_Z).decode())


def _print_line(run: Document, change: Document) -> None:
    say(f"{datetime.now(UTC):%H:%M:%S}Z {sentence(run)}")


def change_of(run: Document) -> Mapping[str, Any]:
    """What of a run may change while it is watched."""
    progress = (run["progress"] or {}) if run["state"] == RunState.RUNNING else {}
    return {
        "run_id": run["run_id"], "job_id": run["job_id"], "title": run["title"], "state": run["state"],
        "attempt": run["attempt"], "rows": run["rows"] if over(run) else progress.get("rows"),
        "bytes": run["bytes"] if over(run) else progress.get("bytes"), "percent": progress.get("percent"),
        "remaining_seconds": progress.get("remaining_seconds"), "reason": run["reason"], "message": run["message"],
    }  # fmt: skip


def sentence(run: Document) -> str:
    """How a run goes, in a line."""
    change = change_of(run)
    parts = [coloured(run["state"], state_text(run))]
    if change["rows"] is not None:
        parts.append(f"{change['rows']:,} rows")
    if change["remaining_seconds"] is not None:
        parts.append(f"{duration_text(round(change['remaining_seconds']))} left")
    if run["duration_seconds"] is not None:
        parts.append(f"in {duration_text(run['duration_seconds'])}")
    if run["message"] or run["reason"]:
        parts.append(shown(run["message"] or run["reason"]))
    title = f" {shown(run['title'])}" if run["title"] else ""
    return f"{short(run['run_id'])}{title}: {', '.join(parts)}"


def over(run: Document) -> bool:
    """Whether nothing follows."""
    return run["state"] in _COLOURS
