"""A scheduler that only purges: `python -m tests.shared.purger DSN` ends when nothing is left to purge."""

import asyncio
import sys
from pathlib import Path
from typing import Any

from services.scheduler.config import Settings
from services.scheduler.store import Store
from shared import database
from shared.database import Database
from shared.purge import BATCH_ROWS, Purge, kept_for

COUNT = 25


def settings(**changes: Any) -> Settings:
    """Addresses that nobody connects to."""
    plain: dict[str, Any] = {
        "http_port": 1, "postgres": "postgresql://127.0.0.1:1/none", "kafka": "127.0.0.1:1", "auth_issuer": "test",
        "auth_public_key": Path("unused"), "sources": Path("unused"),
    }  # fmt: skip
    return Settings(**plain | changes)


def purge_of(pool: Database, most: int = BATCH_ROWS, **changes: Any) -> Purge:
    """The purge of a scheduler, as its application makes it."""
    kept = settings(**changes)
    store = Store(pool, lambda _: kept.outage_patience)
    return Purge(pool, kept, store.forgetting(kept_for(kept)), most=most)


async def main(dsn: str) -> None:
    async with database.connect(dsn, "scheduler", outbox=True) as pool:
        purge = purge_of(pool, most=10)
        while await purge.purge():
            pass


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
