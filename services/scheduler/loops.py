"""What the scheduler does by the clock: request the runs that are due."""

from datetime import timedelta
from typing import Final

from services.scheduler.store import Store
from shared.runtime import every

LOOK: Final = timedelta(milliseconds=250)


async def request_due_runs(store: Store, patience: timedelta) -> None:
    """Request due runs until cancelled."""
    await every(LOOK, store.request_due_runs, patience)
