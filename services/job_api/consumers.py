"""What job_api follows: next slots, what the scheduler makes of jobs and slots, and how runs go."""

from services.job_api.domain import jobs, runs
from services.job_api.store import Store
from shared.events import (
    BackfillStarted,
    RunProgressed,
    RunRequested,
    ScheduleCompleted,
    ScheduleComputed,
    SchedulePaused,
    SlotMissed,
    SlotSkipped,
    SlotWaiting,
)
from shared.inbox import Inbox


def register(inbox: Inbox, store: Store) -> None:
    """Connect the consumed events to the store."""

    @inbox.on(ScheduleComputed)
    async def note_next_slot(event: ScheduleComputed) -> None:
        await store.note_next_slot(event.job_id, event.job_version, event.next_slot_at, event.occurred_at)

    @inbox.on(ScheduleCompleted)
    async def complete_one_time_job(event: ScheduleCompleted) -> None:
        await store.follow(event.job_id, lambda facts: jobs.complete(facts, event))

    @inbox.on(SchedulePaused)
    async def pause_job(event: SchedulePaused) -> None:
        await store.follow(event.job_id, lambda facts: jobs.pause(facts, event))

    @inbox.on(SlotWaiting, SlotSkipped, SlotMissed)
    async def note_slot(event: SlotWaiting | SlotSkipped | SlotMissed) -> None:
        await store.note_run(runs.slot_sighting(event))

    @inbox.on(RunRequested)
    async def note_request(event: RunRequested) -> None:
        await store.note_run(runs.request_sighting(event))

    @inbox.on(BackfillStarted)
    async def note_backfill(event: BackfillStarted) -> None:
        await store.note_backfill(event.backfill_id, event.slots)

    @inbox.on(*runs.STATUSES)
    async def note_run(event: runs.RunEventOfExporter) -> None:
        await store.note_run(runs.run_sighting(event))

    @inbox.on(RunProgressed)
    async def note_progress(event: RunProgressed) -> None:
        await store.note_progress(event.job_id, event.run_id, event.progress)
