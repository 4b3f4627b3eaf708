"""Schedulers in processes of their own: `python -m tests.scheduler.contender DSN COUNT`; they end when nothing is due.

They are forked from one that has imported everything, and begin together.
"""

import asyncio
import multiprocessing
import sys
from datetime import timedelta
from multiprocessing.synchronize import Barrier

from services.scheduler.store import Store
from shared import database


async def contend(dsn: str, start: Barrier) -> None:
    async with database.connect(dsn, "scheduler", outbox=True) as pool:
        store = Store(pool, lambda _: timedelta(0))
        await asyncio.to_thread(start.wait)
        while await store.request_due_runs(limit=7):
            pass


def run(dsn: str, start: Barrier) -> None:
    asyncio.run(contend(dsn, start))


def main(dsn: str, count: int) -> None:
    fork = multiprocessing.get_context("fork")
    start = fork.Barrier(count)
    others = [fork.Process(target=run, args=(dsn, start)) for _ in range(count - 1)]
    for other in others:
        other.start()
    run(dsn, start)
    for other in others:
        other.join()
        if other.exitcode:
            sys.exit(other.exitcode)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
