"""A relay in a process of its own: `python -m tests.shared.relay DSN BOOTSTRAP`; it runs until it is killed."""

import asyncio
import sys
from datetime import timedelta

from shared import database
from shared.cluster import Cluster
from shared.messaging import producer
from shared.outbox import Relay


async def run(dsn: str, bootstrap: str) -> None:
    async with (
        database.connect(dsn, "job_api", outbox=True) as pool,
        producer(Cluster(bootstrap), "test", timedelta(seconds=20)) as kafka,
    ):
        await Relay(pool, kafka, timedelta(seconds=20)).run()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2]))
