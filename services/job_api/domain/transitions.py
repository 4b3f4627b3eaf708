"""What may be done with a job: one table, used by the decisions, by the guard of the UPDATE, by the docs and the tests.

`python -m services.job_api.domain.transitions > docs/job-states.md` writes the documentation.
"""

import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from services.job_api.domain.errors import JobError, NotFound, OneTimeNotEditable, OneTimeNotResumable
from shared.events import Job, JobState, SuspendedReason
from shared.jobs import JobSettings, Once


class Standing(StrEnum):
    """What a job is: its state, the reason of it, and whether it has one slot or many."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    PAUSED = "paused"
    WAITING = "waiting"
    HELD = "held"
    DONE = "done"
    DELETED = "deleted"


class Command(StrEnum):
    """What is asked of a job: by people, and the last two by the scheduler."""

    EDIT = "edit"
    SUSPEND = "suspend"
    RESUME = "resume"
    RUN = "run"
    BACKFILL = "backfill"
    DELETE = "delete"
    COMPLETE = "complete"
    PAUSE = "pause"


class Repeat(StrEnum):
    """The answer to what is so already, or means nothing here: no new version, no event."""

    NOTHING_TO_DO = "nothing to do"


Outcome = Standing | Repeat | type[JobError]

NOTHING_TO_DO: Final = Repeat.NOTHING_TO_DO
COLUMNS: Final = tuple(Command)
_S = Standing
_TABLE: Final[Mapping[Standing, tuple[Outcome, ...]]] = {
    # edit, suspend, resume, run, backfill, delete, complete, pause
    _S.ACTIVE: (_S.ACTIVE, _S.SUSPENDED, NOTHING_TO_DO, _S.ACTIVE, _S.ACTIVE, _S.DELETED, NOTHING_TO_DO, _S.PAUSED),
    _S.SUSPENDED: (
        _S.SUSPENDED, NOTHING_TO_DO, _S.ACTIVE, _S.SUSPENDED, _S.SUSPENDED, _S.DELETED, NOTHING_TO_DO, NOTHING_TO_DO,
    ),
    _S.PAUSED: (_S.PAUSED, NOTHING_TO_DO, _S.ACTIVE, _S.PAUSED, _S.PAUSED, _S.DELETED, NOTHING_TO_DO, NOTHING_TO_DO),
    _S.WAITING: (
        OneTimeNotEditable, _S.HELD, NOTHING_TO_DO, _S.WAITING, _S.WAITING, _S.DELETED, _S.DONE, NOTHING_TO_DO,
    ),
    # Its run was requested before the scheduler heard of the suspension.
    _S.HELD: (OneTimeNotEditable, NOTHING_TO_DO, _S.WAITING, _S.HELD, _S.HELD, _S.DELETED, _S.DONE, NOTHING_TO_DO),
    _S.DONE: (
        OneTimeNotEditable, NOTHING_TO_DO, OneTimeNotResumable, _S.DONE, _S.DONE, _S.DELETED, NOTHING_TO_DO,
        NOTHING_TO_DO,
    ),
    _S.DELETED: (NotFound, NotFound, NotFound, NotFound, NotFound, NotFound, NOTHING_TO_DO, NOTHING_TO_DO),
}  # fmt: skip
TRANSITIONS: Final[Mapping[tuple[Standing, Command], Outcome]] = {
    (standing, command): outcome
    for standing, row in _TABLE.items()
    for command, outcome in zip(COLUMNS, row, strict=True)
}
"""Every (standing, command) pair: where it leads, what it is refused with, or that there is nothing to do."""

STORED: Final[Mapping[Standing, tuple[JobState, SuspendedReason | None]]] = {
    Standing.ACTIVE: (JobState.ACTIVE, None),
    Standing.SUSPENDED: (JobState.SUSPENDED, SuspendedReason.USER),
    Standing.PAUSED: (JobState.SUSPENDED, SuspendedReason.FAILURES),
    Standing.WAITING: (JobState.ACTIVE, None),
    Standing.HELD: (JobState.SUSPENDED, SuspendedReason.USER),
    Standing.DONE: (JobState.SUSPENDED, SuspendedReason.ONE_TIME),
    Standing.DELETED: (JobState.DELETED, None),
}
"""How each standing is written."""
ONE_TIME: Final = frozenset({Standing.WAITING, Standing.HELD, Standing.DONE})
RECURRING: Final = frozenset({Standing.ACTIVE, Standing.SUSPENDED, Standing.PAUSED})


def standing(job: Job) -> Standing:
    """What `job` is."""
    if job.state is JobState.DELETED:
        return Standing.DELETED
    kind = ONE_TIME if isinstance(job.settings.schedule, Once) else RECURRING
    return next(s for s in kind if STORED[s] == (job.state, job.suspended_reason))


def first_standing(settings: JobSettings) -> Standing:
    """What a job is when it was submitted; a one-time job that runs at once is done then."""
    if not isinstance(settings.schedule, Once):
        return Standing.ACTIVE
    return Standing.DONE if settings.immediately else Standing.WAITING


def following(now: Standing, command: Command) -> Standing | None:
    """Where `command` leads, None when there is nothing to do; raises the refusal."""
    match TRANSITIONS[now, command]:
        case Standing() as then:
            return then
        case Repeat():
            return None
        case refusal:
            raise refusal


def states_that_allow(command: Command) -> list[str]:
    """The stored states that `command` may lead out of, for the guard of the UPDATE."""
    return sorted(
        {
            STORED[now][0]
            for (now, asked), outcome in TRANSITIONS.items()
            if asked is command and isinstance(outcome, Standing)
        }
    )


# --- documentation ------------------------------------------------------------------------------------------------

_MEANINGS: Final = {
    Standing.ACTIVE: "recurring, follows its schedule",
    Standing.SUSPENDED: "recurring, suspended by a person",
    Standing.PAUSED: "recurring, suspended after failures",
    Standing.WAITING: "one-time, its start is to come",
    Standing.HELD: "one-time, suspended before its start",
    Standing.DONE: "one-time, its run was requested",
    Standing.DELETED: "deleted; its history stays",
}
_REFUSALS: Final[Mapping[type[JobError], str]] = {
    NotFound: "404",
    OneTimeNotEditable: "409 `one-time-not-editable`",
    OneTimeNotResumable: "409 `one-time-not-resumable`",
}


def markdown() -> str:
    """The table as documentation."""
    lines = [
        "# States of a job",
        "",
        "Written by `python -m services.job_api.domain.transitions`; a test holds it to the code. Rows are what a job",
        "is, columns what is asked of it (the last two by the scheduler), cells where that leads; – is nothing to do:",
        "no new version, no event. A delete is refused besides (409 `job-in-progress`) while a run or backfill is in",
        "progress, and what starts runs needs a valid certificate (409 `certificate-required`).",
        "",
        "| | stored as | " + " | ".join(COLUMNS) + " |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    for now in Standing:
        state, reason = STORED[now]
        stored = f"`{state}`" + (f", `{reason}`" if reason else "")
        cells = " | ".join(_cell(TRANSITIONS[now, command]) for command in COLUMNS)
        lines.append(f"| **{now}**: {_MEANINGS[now]} | {stored} | {cells} |")
    return "\n".join(lines) + "\n"


def _cell(outcome: Outcome) -> str:
    match outcome:
        case Standing():
            return outcome.value
        case Repeat():
            return "–"
        case refusal:
            return _REFUSALS[refusal]


if __name__ == "__main__":
    sys.stdout.write(markdown())
