"""Where the time of the projection goes: the same events, in the same batches, without Kafka and without decoding."""

import cProfile
import gc
import io
import pstats
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, TypeAlias

import uvloop

from bench.harness import measured_beside, out, print_table, server_cpu_seconds
from bench.history_catchup import past
from bench.history_service import PARTITIONS, SERVICE
from deploy.local.postgres import EmbeddedPostgres
from services.history.app import BATCH_RECORDS, GARBAGE_THRESHOLD
from services.history.domain.batch import Batch
from services.history.store import Store
from shared import database
from shared.events import Event
from shared.messaging import Record

FUNCTIONS_SHOWN: Final = 30

Told: TypeAlias = tuple[Event, bytes]
"""An event, and the JSON it came as."""


@dataclass(frozen=True, slots=True)
class Projected:
    """What projecting took, and what cProfile says of it."""

    seconds: float
    cpu_seconds: float
    profile: str = ""


async def measure(postgres: EmbeddedPostgres, count: int) -> dict[str, float]:
    """Project once for the figures and once more under cProfile, which slows Python down but not PostgreSQL."""
    plain, postgres_cpu = await _projected(postgres, count, profiled=False)
    profiled, _ = await _projected(postgres, count, profiled=True)
    out.print(profiled.profile, markup=False)
    waiting = plain.seconds - plain.cpu_seconds
    print_table(
        f"Projecting {count:,} events in batches of {BATCH_RECORDS:,}",
        ("events/s", "Python s", "waiting s", "PostgreSQL's CPU s"),
        [
            (
                f"{count / plain.seconds:,.0f}",
                f"{plain.cpu_seconds:.1f}",
                f"{waiting:.1f}",
                f"{postgres_cpu:.1f}",
            )
        ],
    )
    return {
        "projected_per_s": count / plain.seconds,
        "python_us_per_event": 1e6 * plain.cpu_seconds / count,
        "waiting_us_per_event": 1e6 * waiting / count,
    }


async def _projected(postgres: EmbeddedPostgres, count: int, *, profiled: bool) -> tuple[Projected, float]:
    await postgres.create_database("profile")
    before = server_cpu_seconds(postgres.pid)
    measured = await measured_beside(project, postgres.dsn("profile"), count, profiled)
    postgres_cpu = server_cpu_seconds(postgres.pid) - before
    await postgres.drop_database("profile")
    return measured.value, postgres_cpu


def project(dsn: str, count: int, profiled: bool) -> Projected:
    """Project everything into a new database; what was made ready before does not count."""
    batches = list(_as_fetched(count))
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)

    async def run() -> Projected:
        async with database.connect(dsn, SERVICE) as db:
            store = Store(db)
            await store.keep_partitions()
            profiler = cProfile.Profile()
            started, cpu = time.monotonic(), time.process_time()
            if profiled:
                profiler.enable()
            for events in batches:
                await store.project(Batch.of(events))
            profiler.disable()
            seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu
            return Projected(seconds, cpu_seconds, _told(profiler) if profiled else "")

    return uvloop.run(run())


def _as_fetched(count: int) -> Iterator[Sequence[Told]]:
    """Batches of records of one partition each, in turns, which is how a full topic is fetched."""
    partitions: dict[tuple[str, int], list[Told]] = defaultdict(list)
    for event in past(count):
        record = Record.of(event)
        partitions[record.topic, hash(record.key) % PARTITIONS].append((event, record.value.encode()))
    cut = (
        [told[first : first + BATCH_RECORDS] for first in range(0, len(told), BATCH_RECORDS)]
        for told in partitions.values()
    )
    for turn in zip_longest(*cut):
        yield from (batch for batch in turn if batch)


def _told(profiler: cProfile.Profile) -> str:
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(FUNCTIONS_SHOWN)
    return text.getvalue()
