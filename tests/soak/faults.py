"""What happens to a stack in a bad week; the seed says what and when, so that a week can be had again."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from deploy.local.stack import SERVICES, SOURCES_DATABASE
from shared.observability import log
from tests.soak.world import LEASE, World, away_is_fine
from tests.system.driver import execute

PAUSE_SECONDS: Final = (6.0, 20.0)
"""Between two faults; most of them are over by then."""
POISON: Final = b"poison of the soak"


class Faults:
    """One fault after the other, until cancelled; what was stopped then goes on."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._random = Random(seed)
        self._faults: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "kill a service": (8, self._kill_service),
            "kill a replica": (4, self._kill_replica),
            "freeze an exporter beyond its lease": (3, self._freeze),
            "crash of PostgreSQL": (1, self._crash_postgres),
            "crash of the broker": (1, self._crash_broker),
            "a source without its table": (3, self._break_source),
            "sessions of PostgreSQL ended": (2, self._end_sessions),
            "poison": (2, self._poison),
        }

    async def run(self) -> None:
        """Go on until cancelled."""
        names, weights = list(self._faults), [weight for weight, _ in self._faults.values()]
        while True:
            await asyncio.sleep(self._random.uniform(*PAUSE_SECONDS))
            [name] = self._random.choices(names, weights)
            log.info("fault", what=name)
            self._world.count(f"fault: {name}")
            await self._faults[name][1]()

    async def _kill_service(self) -> None:
        self._world.stack.services[self._random.choice(SERVICES)].kill()

    async def _kill_replica(self) -> None:
        self._world.replicas[self._random.choice(sorted(self._world.replicas))].kill()

    async def _freeze(self) -> None:
        frozen = self._random.choice([self._world.stack.services["exporter"], self._world.replicas["exporter"]])
        pid = frozen.pid
        if pid is None or not frozen.is_running:
            return
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(LEASE.total_seconds() * self._random.uniform(1.2, 2))
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def _crash_postgres(self) -> None:
        assert self._world.stack.postgres is not None
        self._world.stack.postgres.kill()

    async def _crash_broker(self) -> None:
        assert self._world.stack.broker is not None
        self._world.stack.broker.kill()

    async def _break_source(self) -> None:
        """The next attempts fail; they are repeated."""
        with away_is_fine():
            await self._rename("contacts", "contacts_away")
            try:
                await asyncio.sleep(self._random.uniform(0.5, 2))
            finally:
                await asyncio.shield(self._give_back())

    async def _give_back(self) -> None:
        while True:
            with away_is_fine():
                return await self._rename("contacts_away", "contacts")
            await asyncio.sleep(0.2)

    async def _rename(self, name: str, other: str) -> None:
        await execute(self._world.stack, f"ALTER TABLE ucs.{name} RENAME TO {other}", database=SOURCES_DATABASE)

    async def _end_sessions(self) -> None:
        """As an administrator does, or a failover: all of them at once."""
        with away_is_fine():
            await execute(
                self._world.stack,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'cdds-%'",
            )

    async def _poison(self) -> None:
        """A record that nobody can read, for each consumer to put aside."""
        with suppress(KafkaError, OSError):
            producer = AIOKafkaProducer(bootstrap_servers=self._world.stack.kafka, request_timeout_ms=3000)
            await producer.start()
            try:
                await producer.send_and_wait("exporter.runs.v1", POISON, headers=[("ce_type", b"cdds.RunStarted.v1")])
            finally:
                await producer.stop()
