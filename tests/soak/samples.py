"""What is measured every few seconds: processes, connections, tables, files, queues."""

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import asyncpg

from tests.soak.growth import Point, Tolerance
from tests.soak.world import World, away_is_fine

EVERY_SECONDS: Final = 5.0

PURGED: Final = (
    "scheduler.slots", "scheduler.backfills", "scheduler.schedules", "scheduler.outbox", "job_api.jobs",
    "job_api.backfills", "job_api.runs", "job_api.outbox", "exporter.runs", "exporter.artifacts",
    "exporter.documents", "exporter.cancellations", "exporter.outbox", "history.progress", "history.slots_waiting",
)  # fmt: skip
"""Tables that the purge reaches within minutes; what history keeps for 400 days, for one, it does not."""

_TABLES: Final = """
SELECT relnamespace::regnamespace || '.' || relname AS name,
       CASE relkind WHEN 'p' THEN (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree(pg_class.oid))
                    ELSE pg_total_relation_size(oid) END::float8 AS bytes
FROM pg_class
WHERE relnamespace = ANY (ARRAY['job_api', 'scheduler', 'exporter', 'history']::regnamespace[])
  AND relkind IN ('r', 'p') AND NOT relispartition"""
_CONNECTIONS: Final = """
SELECT application_name AS name, count(*)::float8 AS count FROM pg_stat_activity
WHERE application_name LIKE 'cdds-%' GROUP BY 1"""
_UNSENT: Final = " + ".join(
    f"(SELECT count(*) FROM {owner}.outbox WHERE published_at IS NULL)"
    for owner in ("job_api", "scheduler", "exporter")
)
_OPEN: Final = "(SELECT count(*) FROM exporter.runs WHERE state IN ('queued', 'running'))"

TOLERANCES: Final = {
    "memory": Tolerance(0.10, 12, "MiB; an interpreter that was just killed and started warms up for minutes"),
    "files": Tolerance(0.10, 25, "open files and sockets; pages and clients come and go"),
    "threads": Tolerance(0.10, 6, "pools fill as they are used"),
    "connections": Tolerance(0.20, 5, "a pool opens what it needs, at most ten a process"),
    "rows": Tolerance(0.35, 250, "rows; retention passes in steps, and load is not even"),
    "table": Tolerance(0.60, 6, "MiB; space is used again after autovacuum, which comes once a minute"),
    "kept rows": Tolerance(0.10, 100, "rows that are kept for 400 days or for good", kept=True),
    "kept": Tolerance(0.10, 4, "MiB of what is kept longer than the soak lasts", kept=True),
    "queue": Tolerance(0.30, 40, "runs, events; faults hold work up"),
    "objects": Tolerance(0.35, 80, "files of the object store"),
    "bytes": Tolerance(0.35, 8, "MiB of the object store"),
}
"""By the first word of a series."""


class Samples:
    """Series of measurements; what is away just now is left out."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._began = time.monotonic()
        self.series: dict[str, list[Point]] = defaultdict(list)

    async def run(self) -> None:
        """Measure until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._again(self._processes))
            tasks.create_task(self._again(self._folders))
            tasks.create_task(self._again(self._database))

    async def _again(self, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            with away_is_fine():
                await look()
            await asyncio.sleep(EVERY_SECONDS)

    def _note(self, name: str, value: float) -> None:
        self.series[name].append((time.monotonic() - self._began, value))

    async def _processes(self) -> None:
        stack = self._world.stack
        pids = {name: child.pid for name, child in stack.services.items()}
        pids |= {f"{name}-2": child.pid for name, child in self._world.replicas.items()}
        if stack.broker is not None:
            pids["kafka"] = stack.broker.pid
        for name, pid in pids.items():
            if pid is not None and (found := _process(pid)):
                for kind, value in zip(("memory", "files", "threads"), found, strict=True):
                    self._note(f"{kind} of {name}", value)

    async def _folders(self) -> None:
        stack = self._world.stack
        sizes = await asyncio.to_thread(_sizes, stack.data / "objects")
        self._note("objects", len(sizes))
        self._note("bytes of objects", sum(sizes) / 2**20)
        if stack.broker is not None:
            self._note("kept log of kafka", sum(await asyncio.to_thread(_sizes, stack.broker.data)) / 2**20)

    async def _database(self) -> None:
        connection = await asyncpg.connect(self._world.stack.dsn(), timeout=5)
        try:
            for row in await connection.fetch(_CONNECTIONS):
                self._note(f"connections of {row['name'].removeprefix('cdds-')}", row["count"])
            total = 0.0
            tables = await connection.fetch(_TABLES)
            counting = " UNION ALL ".join(f"SELECT '{t['name']}', count(*) FROM {t['name']}" for t in tables)
            counts: dict[str, int] = dict(await connection.fetch(counting))
            for row in tables:
                rows = counts[row["name"]]
                kind = ("rows of", "table") if row["name"] in PURGED else ("kept rows of", "kept")
                self._note(f"{kind[0]} {row['name']}", rows)
                self._note(f"{kind[1]} {row['name']}", row["bytes"] / 2**20)
                total += row["bytes"]
            self._note("kept in all tables", total / 2**20)
            self._note("queue of runs", await connection.fetchval(f"SELECT {_OPEN}"))
            self._note("queue of events", await connection.fetchval(f"SELECT {_UNSENT}"))
        finally:
            await connection.close()


def tolerance_of(series: str) -> Tolerance:
    """What a series may do."""
    return next(TOLERANCES[kind] for kind in sorted(TOLERANCES, key=len, reverse=True) if series.startswith(kind))


def _process(pid: int) -> tuple[float, float, float] | None:
    """Resident MiB, open files and threads of a process; None when it is gone."""
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        files = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None
    if "VmRSS" not in status:
        return None
    return int(status["VmRSS"].split()[0]) / 1024, files, int(status["Threads"])


def _sizes(folder: Path) -> list[int]:
    found: list[int] = []
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                found.append(os.stat(f"{place}/{name}").st_size)
            except FileNotFoundError:
                continue
    return found
