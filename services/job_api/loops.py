"""What job_api does by the clock: forget idempotency keys that nobody repeats any more."""

from datetime import timedelta

from services.job_api.store import Store
from shared.runtime import every


async def forget_old_keys(store: Store, patience: timedelta) -> None:
    """Look once an hour, until cancelled."""
    await every(timedelta(hours=1), store.forget_old_keys, patience)
