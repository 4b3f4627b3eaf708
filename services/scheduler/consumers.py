"""What the scheduler follows: jobs, what is asked of them, and how runs end."""

from services.scheduler.domain import RunState
from services.scheduler.store import Store
from shared.events import (
    BackfillCancelRequested,
    BackfillRequested,
    JobCreated,
    JobDeleted,
    JobEvent,
    JobResumed,
    JobSuspended,
    JobUpdated,
    RunCancelled,
    RunCancelRequested,
    RunFailed,
    RunNowRequested,
    RunRetryRequested,
    RunSucceeded,
)
from shared.inbox import Inbox

ENDS = {RunSucceeded: RunState.SUCCEEDED, RunFailed: RunState.FAILED, RunCancelled: RunState.CANCELLED}


def register(inbox: Inbox, store: Store) -> None:
    """Connect the consumed events to the store."""

    @inbox.on(JobCreated, JobUpdated, JobSuspended, JobResumed, JobDeleted)
    async def keep_schedule(event: JobEvent) -> None:
        await store.keep_schedule(event)

    @inbox.on(RunNowRequested)
    async def run_now(command: RunNowRequested) -> None:
        await store.run_now(command)

    @inbox.on(RunRetryRequested)
    async def retry_run(command: RunRetryRequested) -> None:
        await store.retry_run(command)

    @inbox.on(RunCancelRequested)
    async def cancel_run(command: RunCancelRequested) -> None:
        await store.cancel_run(command)

    @inbox.on(BackfillRequested)
    async def start_backfill(command: BackfillRequested) -> None:
        await store.start_backfill(command)

    @inbox.on(BackfillCancelRequested)
    async def cancel_backfill(command: BackfillCancelRequested) -> None:
        await store.cancel_backfill(command)

    @inbox.on(*ENDS)
    async def end_run(event: RunSucceeded | RunFailed | RunCancelled) -> None:
        await store.end_run(event.job_id, event.run_id, ENDS[type(event)])
