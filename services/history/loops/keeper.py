"""Makes months ahead, drops what is too old, and removes what nobody looks at any more."""

from datetime import timedelta
from typing import Final

from services.history.store import Store
from shared import runtime

INTERVAL: Final = timedelta(minutes=10)


async def run(store: Store, patience: timedelta) -> None:
    """Keep house until cancelled."""

    async def step() -> int:
        return await store.keep_partitions() + await store.tidy()

    await runtime.every(INTERVAL, step, patience)
