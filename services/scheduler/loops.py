"""What the scheduler does by the clock: decide what is due, then sleep until something is; and say how late it is."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Final

from services.scheduler import metrics
from services.scheduler.store import Store
from shared.database import outlast

LOOK_AGAIN: Final = timedelta(seconds=5)
"""How long a schedule may stay unseen that another replica wrote and then died; our own changes wake us at once."""

CLAIMED_ELSEWHERE: Final = timedelta(milliseconds=50)
"""How soon to look again when what is due is being decided by another replica, which takes it milliseconds, or until
the server has ended the transaction of one that was frozen."""


async def request_due_runs(store: Store, patience: timedelta) -> None:
    """Request due runs until cancelled; raises when PostgreSQL stays away for `patience`."""
    while True:
        store.changed.clear()
        if await outlast(store.request_due_runs, patience):
            continue
        left = await outlast(store.next_due_in, patience)
        pause = LOOK_AGAIN if left is None else min(left, LOOK_AGAIN)
        if pause <= timedelta(0):
            pause = CLAIMED_ELSEWHERE
        with suppress(TimeoutError):
            async with asyncio.timeout(pause.total_seconds()):
                await store.changed.wait()


async def measure_lag(store: Store) -> None:
    """Set the gauge of how late the most overdue schedule is."""
    left = await store.next_due_in()
    metrics.LAG.set(0 if left is None else max(0.0, -left.total_seconds()))
