"""Schedulers that die or stop in the middle of their work: `python -m tests.scheduler.replica DSN [stop]`.

Each line of the standard input, an event's type and its JSON or the word `due`, is worked on by a process of its own,
at noon. Its process id and, once it has ended, its exit code are written to the standard output. With `stop` it stops
itself when it computes its first question, inside its transaction, which the server then ends after some seconds.
"""

import asyncio
import os
import signal
import sys
from datetime import datetime, timedelta
from functools import partial

from services.scheduler.store import Store
from shared import database, failpoints
from shared.database import Connection, outlast
from shared.events import EVENT_TYPES
from tests.scheduler.world import NOON, Handlers

PATIENCE = timedelta(seconds=10)


async def work(dsn: str, line: str, *, stop: bool) -> None:
    stops = [signal.SIGSTOP] if stop else []

    def settle(_: str) -> timedelta:
        while stops:
            os.kill(os.getpid(), stops.pop())
        return timedelta(0)

    async def clock(connection: Connection) -> datetime:
        await connection.execute("SET LOCAL idle_in_transaction_session_timeout = '4s'")
        return NOON

    async with database.connect(dsn, "scheduler", outbox=True) as pool:
        store = Store(pool, settle, clock)
        name, _, value = line.partition(" ")
        if name in EVENT_TYPES:
            event = EVENT_TYPES[name].model_validate_json(value)
            await outlast(partial(Handlers(store).hear, event), PATIENCE)
            failpoints.reached("inbox.handled")
        else:
            while await outlast(partial(store.request_due_runs, 2), PATIENCE):
                pass


def say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main(dsn: str, *, stop: bool) -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what it logs is not what we say
            try:
                asyncio.run(work(dsn, line.strip(), stop=stop))
                code = 0
            finally:
                os._exit(code)
        say(pid)
        say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    main(sys.argv[1], stop="stop" in sys.argv)
