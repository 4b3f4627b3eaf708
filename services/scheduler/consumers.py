"""What the scheduler follows: jobs."""

from services.scheduler.store import Store
from shared.events import JobCreated, JobDeleted, JobEvent, JobResumed, JobSuspended, JobUpdated
from shared.inbox import Inbox


def register(inbox: Inbox, store: Store) -> None:
    """Connect the consumed events to the store."""

    @inbox.on(JobCreated, JobUpdated, JobSuspended, JobResumed, JobDeleted)
    async def keep_schedule(event: JobEvent) -> None:
        await store.keep_schedule(event)
