"""What may be asked of runs: run now, cancel, retry, backfill; each decision is the event that asks the scheduler."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Final
from uuid import UUID

from services.job_api.domain.certificates import require_certificate
from services.job_api.domain.errors import Fault, JobInProgress, NotFound, RunFinished, SettingsRefused
from services.job_api.domain.jobs import Facts, check_version
from services.job_api.domain.runs import Run, RunStatus, Sighting, commanded
from services.job_api.domain.transitions import Command, Standing, following, standing
from shared import slots
from shared.events import (
    BackfillCancelRequested,
    BackfillRequested,
    JobCommand,
    Reprocess,
    RunCancelRequested,
    RunNowRequested,
    RunRetryRequested,
    Trigger,
)
from shared.jobs import Fixed
from shared.slots import Answer, Piece

Settle = Callable[[str], timedelta]
"""How long before its slot the data intervals of a source end."""

MAX_PIECES: Final = 10_000
"""As many slots as one backfill may have."""


@dataclass(frozen=True, slots=True)
class Order:
    """An accepted command: what is told to the scheduler, and the run that is in progress from now on."""

    event: JobCommand
    run: Sighting | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a backfill asks for: all data of [`begin`, `end`)."""

    begin: datetime
    end: datetime
    reprocess: Reprocess
    max_parallel: int


class BackfillState(StrEnum):
    """How far a backfill is."""

    PLANNED = "planned"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Backfill:
    """A backfill with its progress; `slots` is None until the scheduler has divided it."""

    backfill_id: UUID
    job_id: UUID
    wanted: Wanted
    requested_at: datetime
    requested_by: str
    slots: int | None
    succeeded: int
    failed: int
    cancelled: int
    cancelled_at: datetime | None

    @property
    def ended(self) -> int:
        """How many of its slots nothing more will come of."""
        return self.succeeded + self.failed + self.cancelled

    @property
    def state(self) -> BackfillState:
        """How far it is; a cancelled one stays so, whatever its last runs came to."""
        if self.cancelled_at is not None:
            return BackfillState.CANCELLED
        if self.slots is None:
            return BackfillState.PLANNED
        return BackfillState.FINISHED if self.ended >= self.slots else BackfillState.RUNNING


def run_now(facts: Facts, command_id: UUID, *, actor: str, expected: frozenset[int] | None) -> Order:
    """A run beside the schedule."""
    _may_run(facts, Command.RUN, expected)
    event = RunNowRequested(
        event_id=command_id, occurred_at=facts.now, tenant=facts.tenant, job_id=facts.job.id, actor=actor
    )
    return Order(event, _pending(facts, Trigger.MANUAL, command_id))


def retry(facts: Facts, run: Run, command_id: UUID, *, actor: str) -> Order:
    """A new run with the question of a finished one; raises JobInProgress while that is open."""
    _may_run(facts, Command.RUN, None)
    if run.status is RunStatus.SKIPPED:
        raise NotFound("run")  # It never was one: there is no question to ask again.
    if not run.status.ended:
        raise JobInProgress(run_id=run.run_id)
    event = RunRetryRequested(
        event_id=command_id, occurred_at=facts.now, tenant=facts.tenant, job_id=facts.job.id, actor=actor,
        run_id=run.run_id,
    )  # fmt: skip
    return Order(event, _pending(facts, Trigger.RETRY, command_id))


def cancel(facts: Facts, run: Run, command_id: UUID, *, actor: str) -> Order:
    """The end of a run in progress, or of a slot that waits; raises RunFinished."""
    _exists(facts)
    if run.status.ended:
        raise RunFinished("The run has ended already.")
    event = RunCancelRequested(
        event_id=command_id, occurred_at=facts.now, tenant=facts.tenant, job_id=facts.job.id, actor=actor,
        run_id=run.run_id,
    )  # fmt: skip
    return Order(event)


def backfill(
    facts: Facts, wanted: Wanted, command_id: UUID, *, settle: Settle, actor: str, expected: frozenset[int] | None
) -> Order:
    """Runs over past data intervals; the command id is the backfill's id."""
    _may_run(facts, Command.BACKFILL, expected)
    divided(facts, wanted, settle)
    event = BackfillRequested(
        event_id=command_id, occurred_at=facts.now, tenant=facts.tenant, job_id=facts.job.id, actor=actor,
        interval_from=wanted.begin, interval_to=wanted.end, reprocess=wanted.reprocess,
        max_parallel=wanted.max_parallel,
    )  # fmt: skip
    return Order(event)


def cancel_backfill(facts: Facts, found: Backfill, command_id: UUID, *, actor: str) -> Order | None:
    """The end of a backfill with its runs in progress; None when that was asked for already."""
    _exists(facts)
    match found.state:
        case BackfillState.CANCELLED:
            return None
        case BackfillState.FINISHED:
            raise RunFinished("The backfill has ended already.")
        case BackfillState.PLANNED | BackfillState.RUNNING:
            event = BackfillCancelRequested(
                event_id=command_id, occurred_at=facts.now, tenant=facts.tenant, job_id=facts.job.id, actor=actor,
                backfill_id=found.backfill_id,
            )  # fmt: skip
            return Order(event)


def divided(facts: Facts, wanted: Wanted, settle: Settle) -> list[Piece]:
    """The slots of a backfill before any is left out; raises SettingsRefused for one that can't be."""
    settings = facts.job.settings
    faults: list[Fault] = []
    if isinstance(settings.timeframe, Fixed):
        faults.append(Fault("/timeframe", "the job exports one fixed interval", "Run the job instead."))
    if wanted.begin >= wanted.end:
        faults.append(Fault("/to", "is not later than `from`", "Use a later time."))
    if wanted.end > facts.now:
        faults.append(Fault("/to", "lies in the future", "Use a time that has passed."))
    if faults:
        raise SettingsRefused(faults)
    pieces = slots.pieces(settings, wanted.begin, wanted.end, settle(settings.source), facts.now)
    found = list(islice(pieces, MAX_PIECES + 1))
    if len(found) > MAX_PIECES:
        remedy = "Ask for it in several shorter ones."
        raise SettingsRefused([Fault("/from", f"the backfill has more than {MAX_PIECES:,} slots", remedy)])
    return found


def planned(facts: Facts, wanted: Wanted, settle: Settle, answers: Sequence[Answer]) -> list[Piece]:
    """The slots that a backfill would request."""
    if standing(facts.job) is Standing.DELETED:
        raise NotFound
    return list(slots.outstanding(divided(facts, wanted, settle), answers, wanted.reprocess))


def _may_run(facts: Facts, command: Command, expected: frozenset[int] | None) -> None:
    following(standing(facts.job), command)
    check_version(facts.job, expected)
    require_certificate(facts.job.settings, facts.certificates, facts.now)


def _exists(facts: Facts) -> None:
    if standing(facts.job) is Standing.DELETED:
        raise NotFound("run")


def _pending(facts: Facts, trigger: Trigger, command_id: UUID) -> Sighting:
    return commanded(facts.tenant, facts.job.id, slots.commanded_slot(trigger, command_id, facts.now))
