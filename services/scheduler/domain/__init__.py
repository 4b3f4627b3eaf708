"""The rules of scheduling, pure: `ledger` is what is remembered, `decisions` what is decided, a `Turn` how."""

from services.scheduler.domain.decisions import (
    cancel,
    due,
    end_run,
    go_on,
    keep,
    retry,
    run_now,
    start_backfill,
)
from services.scheduler.domain.ledger import Backfill, Decision, Entry, Outcome, Plan, RunState
from services.scheduler.domain.turn import ON_TIME, Settle, Turn, catch_up_mode

__all__ = [
    "ON_TIME",
    "Backfill",
    "Decision",
    "Entry",
    "Outcome",
    "Plan",
    "RunState",
    "Settle",
    "Turn",
    "cancel",
    "catch_up_mode",
    "due",
    "end_run",
    "go_on",
    "keep",
    "retry",
    "run_now",
    "start_backfill",
]
