"""What job_api follows: next slots, completed one-time jobs, and how runs go."""

from services.job_api import domain
from services.job_api.store import Store
from shared.events import (
    RunAttemptFailed,
    RunCancelled,
    RunFailed,
    RunProgressed,
    RunQueued,
    RunRequested,
    RunStarted,
    RunState,
    RunSucceeded,
    ScheduleCompleted,
    ScheduleComputed,
)
from shared.inbox import Inbox

RUN_STATES = {
    RunQueued: RunState.QUEUED,
    RunStarted: RunState.RUNNING,
    RunAttemptFailed: RunState.QUEUED,
    RunSucceeded: RunState.SUCCEEDED,
    RunFailed: RunState.FAILED,
    RunCancelled: RunState.CANCELLED,
}


def register(inbox: Inbox, store: Store) -> None:
    """Connect the consumed events to the store."""

    @inbox.on(ScheduleComputed)
    async def note_next_slot(event: ScheduleComputed) -> None:
        await store.note_next_slot(event.job_id, event.job_version, event.next_slot_at)

    @inbox.on(ScheduleCompleted)
    async def complete_one_time_job(event: ScheduleCompleted) -> None:
        await store.update_job(event.job_id, domain.complete)

    @inbox.on(RunRequested)
    async def note_request(event: RunRequested) -> None:
        await store.note_run(
            event.tenant, event.job_id, event.run_id, RunState.REQUESTED, version=0, seen_at=event.occurred_at
        )

    @inbox.on(*RUN_STATES)
    async def note_run(
        event: RunQueued | RunStarted | RunAttemptFailed | RunSucceeded | RunFailed | RunCancelled,
    ) -> None:
        await store.note_run(
            event.tenant, event.job_id, event.run_id, RUN_STATES[type(event)], event.version, event.occurred_at
        )

    @inbox.on(RunProgressed)
    async def note_progress(event: RunProgressed) -> None:
        await store.note_progress(event.run_id, event.progress)
