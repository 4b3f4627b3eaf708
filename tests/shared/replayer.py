"""An owner's replay in a process of its own: `python -m tests.shared.replayer DSN BOOTSTRAP TOPIC`."""

import asyncio
import sys
from datetime import timedelta

from shared import database
from shared.cluster import Cluster
from shared.events import Topic
from shared.messaging import producer
from shared.replay import Replay

PATIENCE = timedelta(seconds=20)


async def run(dsn: str, bootstrap: str, topic: str) -> None:
    async with (
        database.connect(dsn, "job_api", outbox=True) as pool,
        producer(Cluster(bootstrap), "test", PATIENCE) as kafka,
    ):
        await Replay(pool, kafka, PATIENCE, [Topic(topic, "tenant")]).run()


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
