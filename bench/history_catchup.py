"""How fast history catches up with full topics, beside a consumer that only decodes them."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final

import asyncpg
import uvloop
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient

from bench.harness import (
    measured_beside,
    median,
    out,
    print_table,
    server_cpu_seconds,
    server_peak_rss_mib,
)
from bench.history_events import lives
from bench.history_service import SERVICE, committed, is_assigned, running, set_offsets
from deploy.local.kafka import Broker
from deploy.local.postgres import EmbeddedPostgres
from deploy.local.secrets import Secrets
from shared.cluster import Cluster
from shared.events import TOPICS, Event, RunProgressed, RunRequested
from shared.messaging import MAX_RECORD_BYTES, Record, decode, producer

PATIENCE: Final = timedelta(minutes=1)
SPAN: Final = timedelta(days=60)
"""So that three or four months are written to."""
LONGEST: Final = timedelta(hours=4)
PUBLISHED_AT_ONCE: Final = 5000
DECODED_AT_ONCE: Final = 2000
LOOK_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class CatchUp:
    """One round of the service."""

    events_per_s: float
    cpu_seconds: float
    postgres_cpu_seconds: float
    kafka_cpu_seconds: float
    peak_rss_mib: float


async def measure(
    folder: Path, postgres: EmbeddedPostgres, broker: Broker, count: int, rounds: int
) -> dict[str, float]:
    """Fill the topics once, then let both read them in turn."""
    told = (await measured_beside(fill, broker.bootstrap, count)).value
    secrets = Secrets(folder / "secrets")
    raw: list[float] = []
    ours: list[CatchUp] = []
    costs = []
    for number in range(rounds):
        out.print(f"round {number + 1} of {rounds} …")
        cost = await measured_beside(consume, broker.bootstrap, count)
        raw.append(cost.value)
        costs.append(cost)
        ours.append(await _caught_up(postgres, broker, secrets, told))
    service = sorted(ours, key=lambda round_: round_.events_per_s)[(rounds - 1) // 2]
    raw_per_s, raw_cost = statistics.median(raw), median(costs)
    peak = max(round_.peak_rss_mib for round_ in ours)
    print_table(
        f"Catching up with {count:,} events, median of {rounds}",
        ("", "events/s", "CPU s of the process", "PostgreSQL's CPU s", "Kafka's CPU s", "peak MiB"),
        [
            (
                "history", f"{service.events_per_s:,.0f}", f"{service.cpu_seconds:.1f}",
                f"{service.postgres_cpu_seconds:.1f}", f"{service.kafka_cpu_seconds:.1f}", f"{peak:.0f}",
            ),
            (
                "a consumer that only decodes", f"{raw_per_s:,.0f}", f"{raw_cost.cpu_seconds:.1f}", "", "",
                f"{raw_cost.peak_rss_mib:.0f}",
            ),
        ],
    )  # fmt: skip
    return {
        "events_per_s": service.events_per_s,
        "raw_per_s": raw_per_s,
        # Neighbours in time have the same noise around them.
        "ratio_raw": statistics.median(round_.events_per_s / plain for round_, plain in zip(ours, raw, strict=True)),
        "peak_rss_mib": peak,
        "us_per_event": 1e6 * service.cpu_seconds / count,
        "postgres_us_per_event": 1e6 * service.postgres_cpu_seconds / count,
    }


async def _caught_up(postgres: EmbeddedPostgres, broker: Broker, secrets: Secrets, told: Counter[str]) -> CatchUp:
    """Let the service read everything into a new database.

    Its clock begins when it has been given its partitions, so its start and the migrations do not count, and ends when
    all offsets are committed, so what they stand for is, too.
    """
    await postgres.create_database("round")
    await _execute(postgres, "CHECKPOINT")
    count = await set_offsets(broker.bootstrap, to_end=False)
    assert count == told.total(), (count, told)
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        async with running(postgres, "round", broker.bootstrap, secrets) as service:
            pids = service.pid, postgres.pid, broker.pid
            while not await is_assigned(admin):
                assert service.child.is_running, "history has ended"
                await asyncio.sleep(LOOK_SECONDS)
            started, before = time.monotonic(), [server_cpu_seconds(pid) for pid in pids]
            while await committed(admin) < count:
                assert service.child.is_running, "history has ended"
                await asyncio.sleep(LOOK_SECONDS)
            seconds = time.monotonic() - started
            own, postgres_cpu, kafka_cpu = (server_cpu_seconds(p) - b for p, b in zip(pids, before, strict=True))
            memory = server_peak_rss_mib(service.pid)
    finally:
        await admin.close()
    await _check(postgres, told)
    await postgres.drop_database("round")
    rate = count / seconds
    out.print(f"{rate:,.0f} events/s")
    return CatchUp(rate, own, postgres_cpu, kafka_cpu, memory)


async def _check(postgres: EmbeddedPostgres, told: Counter[str]) -> None:
    """Everything that was told is there."""
    written = told.total() - told[RunProgressed.__name__]
    assert await _execute(postgres, f"SELECT count(*) FROM {SERVICE}.events", "round") == written
    shown = f"SELECT count(*) FROM {SERVICE}.executions WHERE title IS NOT NULL"
    assert await _execute(postgres, shown, "round") == told[RunRequested.__name__]


async def _execute(postgres: EmbeddedPostgres, statement: str, database: str = "postgres") -> object:
    connection = await asyncpg.connect(postgres.dsn(database))
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


# --- each in a process of its own -------------------------------------------------------------------------------------


def past(count: int) -> Iterator[Event]:
    """`count` events of the last 60 days."""
    now = datetime.now(UTC)
    return lives(count, now - SPAN, now - LONGEST, LONGEST)


def fill(bootstrap: str, count: int) -> Counter[str]:
    """Publish what happened in the past, as the services do; how many of each kind."""
    told: Counter[str] = Counter()

    async def run() -> None:
        events = past(count)
        started, size = time.monotonic(), 0
        async with producer(Cluster(bootstrap), "bench", PATIENCE) as kafka:
            while some := list(islice(events, PUBLISHED_AT_ONCE)):
                records = [Record.of(event) for event in some]
                await kafka.publish(records)
                told.update(type(event).__name__ for event in some)
                size += sum(len(record.value) for record in records)
        out.print(f"{count:,} events of {size / count:.0f} bytes published in {time.monotonic() - started:.0f} s")

    uvloop.run(run())
    return told


def consume(bootstrap: str, count: int) -> float:
    """Decode `count` records and drop them; events per second, from when it is connected."""

    async def run() -> float:
        consumer = AIOKafkaConsumer(
            *(topic.name for topic in TOPICS), bootstrap_servers=bootstrap, group_id=None,
            auto_offset_reset="earliest", max_partition_fetch_bytes=MAX_RECORD_BYTES,
        )  # fmt: skip
        await consumer.start()
        try:
            seen, started = 0, time.monotonic()
            while seen < count:
                for records in (await consumer.getmany(timeout_ms=1000, max_records=DECODED_AT_ONCE)).values():
                    for record in records:
                        decode(record)
                    seen += len(records)
            return count / (time.monotonic() - started)
        finally:
            await consumer.stop()

    return uvloop.run(run())
