"""`make bench-outbox`: how fast the relay drains an outbox, and how long a commit takes to reach a consumer.

Everything runs on this machine: PostgreSQL with its default durability, the broker, and each role in a process of its
own. Throughput is compared, in the same run, with the same records sent straight from memory (the limit of the client
library) and with a relay that publishes, waits and marks one event at a time.
"""

import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Final
from uuid import UUID

import asyncpg
import typer
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.harness import (
    Measured,
    measured_beside,
    median,
    out,
    print_result,
    print_table,
    server_cpu_seconds,
)
from deploy.local.kafka import ApacheKafka, Broker, EmbeddedKafka
from deploy.local.postgres import EmbeddedPostgres
from shared import database, migration, outbox
from shared.cluster import Cluster
from shared.database import Connection, Database, Pool
from shared.events import JOBS, Job, JobCreated, JobState, JobUpdated, new_event_id
from shared.jobs import AllData, Hourly, JobSettings
from shared.messaging import Record, ensure_topics, producer
from shared.observability import PUBLISHED
from shared.outbox import Relay

SERVICE: Final = "job_api"
PARTITIONS: Final = 6
PATIENCE: Final = timedelta(minutes=1)
EVENTS_PER_KEY: Final = 20
NAIVE_EVENTS: Final = 2000
WARM_UP_SECONDS: Final = 5
WRITERS: Final = 32
"""Connections that commit; one alone may not reach 1,000 durable commits a second."""


class Kafka(StrEnum):
    """Which broker to start."""

    APACHE = "apache"
    EMBEDDED = "embedded"


def main(
    kafka: Annotated[Kafka, typer.Option(help="The broker to start.")] = Kafka.APACHE,
    events: Annotated[int, typer.Option(help="How many wait in the outbox.")] = 200_000,
    rounds: Annotated[int, typer.Option(help="Throughput is the median of so many.")] = 3,
    rate: Annotated[int, typer.Option(help="Commits per second while latency is measured.")] = 1000,
    seconds: Annotated[int, typer.Option(help="How long latency is measured, after 5 s of warming up.")] = 20,
) -> None:
    """Measure the outbox relay on PostgreSQL and Kafka started for it."""
    uvloop.run(_main(kafka, events, rounds, rate, seconds))


async def _main(kafka: Kafka, events: int, rounds: int, rate: int, seconds: int) -> None:
    # Not ignoring errors would hide the result behind a log file that a server writes while it ends.
    with TemporaryDirectory(prefix="cdds-bench-", ignore_cleanup_errors=True) as folder:
        broker_type = ApacheKafka if kafka is Kafka.APACHE else EmbeddedKafka
        async with (
            EmbeddedPostgres(Path(folder) / "postgres") as postgres,
            broker_type(Path(folder) / "kafka") as broker,
        ):
            await ensure_topics(Cluster(broker.bootstrap), PARTITIONS, 1)
            # First, because its consumer reads the topics from their beginning.
            latencies = await _latency(postgres, broker, rate, seconds)
            throughput = await _throughput(postgres, broker, events, rounds)
    print_result(throughput | latencies)


# --- throughput -----------------------------------------------------------------------------------------------------


async def _throughput(postgres: EmbeddedPostgres, broker: Broker, events: int, rounds: int) -> dict[str, float]:
    await postgres.create_database("full")
    await _fill(postgres.dsn("full"), events)
    relayed: list[Measured[float]] = []
    raw: list[Measured[float]] = []
    naive: list[Measured[float]] = []
    servers: list[tuple[float, float]] = []
    for number in range(rounds):
        out.print(f"round {number + 1} of {rounds} …")
        await postgres.create_database("round", "full")
        await _execute(postgres.dsn("round"), "CHECKPOINT")
        before = server_cpu_seconds(postgres.pid), server_cpu_seconds(broker.pid)
        relayed.append(await measured_beside(relay, postgres.dsn("round"), broker.bootstrap, events))
        after = server_cpu_seconds(postgres.pid), server_cpu_seconds(broker.pid)
        servers.append((after[0] - before[0], after[1] - before[1]))
        unmarked = await _execute(
            postgres.dsn("round"), f"SELECT count(*) FROM {SERVICE}.outbox WHERE published_at IS NULL"
        )
        assert unmarked == 0, unmarked
        raw.append(await measured_beside(send_from_memory, postgres.dsn("full"), broker.bootstrap))
        await postgres.drop_database("round")
        await postgres.create_database("round", "full")
        naive.append(await measured_beside(relay_naively, postgres.dsn("round"), broker.bootstrap))
        await postgres.drop_database("round")
    postgres_cpu, broker_cpu = (statistics.median(cpu) for cpu in zip(*servers, strict=True))

    def rate(results: Sequence[Measured[float]], count: int) -> float:
        return count / statistics.median(result.value for result in results)

    rates = {
        "the relay": (rate(relayed, events), median(relayed), events),
        "the same records from memory": (rate(raw, events), median(raw), events),
        "publish one, wait, mark one": (rate(naive, NAIVE_EVENTS), median(naive), NAIVE_EVENTS),
    }
    print_table(
        f"Throughput, {events:,} events, median of {rounds}",
        ("", "events", "events/s", "CPU s of the process", "peak MiB"),
        [
            (name, f"{count:,}", f"{per_s:,.0f}", f"{cost.cpu_seconds:.1f}", f"{cost.peak_rss_mib:.0f}")
            for name, (per_s, cost, count) in rates.items()
        ],
    )
    out.print(f"During the relay's run, PostgreSQL took {postgres_cpu:.1f} CPU s and the broker {broker_cpu:.1f}.")
    events_per_s, raw_per_s, naive_per_s = (per_s for per_s, _, _ in rates.values())
    return {
        "events_per_s": events_per_s,
        "raw_per_s": raw_per_s,
        "ratio_raw": events_per_s / raw_per_s,
        "ratio_naive": events_per_s / naive_per_s,
        "peak_rss_mib": median(relayed).peak_rss_mib,
    }


async def _fill(dsn: str, events: int) -> None:
    """Put `events` into an outbox; as the superuser, because COPY does not pass row-level security."""
    await migration.migrate(dsn, SERVICE, outbox=True)
    connection = await asyncpg.connect(dsn)
    columns = ("event_id", "topic", "key", "type", "tenant", "occurred_at", "value")
    started = time.monotonic()
    await connection.copy_records_to_table(
        "outbox",
        schema_name=SERVICE,
        columns=columns,
        records=[
            (r.event_id, r.topic, r.key, r.type, r.tenant, r.occurred_at, r.value)
            for r in map(Record.of, _job_changes(events))
        ],
    )
    await connection.execute(f"VACUUM ANALYZE {SERVICE}.outbox")
    size = await connection.fetchval(f"SELECT avg(octet_length(value)) FROM {SERVICE}.outbox")
    await connection.close()
    out.print(f"{events:,} events of {size:.0f} bytes filled in {time.monotonic() - started:.0f} s")


def _job_changes(count: int) -> Iterator[JobCreated | JobUpdated]:
    """Jobs that are created and then updated, their events interleaved."""
    now = datetime.now(UTC)
    jobs = [new_event_id() for _ in range(max(1, count // EVENTS_PER_KEY))]
    for number in range(count):
        job = _job(jobs[number % len(jobs)], number // len(jobs) + 1, now)
        event = JobCreated if job.version == 1 else JobUpdated
        yield event(occurred_at=now, tenant="acme", job_id=job.id, actor=job.created_by, job=job)


def _job(job_id: UUID, version: int, now: datetime) -> Job:
    return Job(
        id=job_id, version=version, state=JobState.ACTIVE, created_at=now, updated_at=now, created_by="operator@acme",
        settings=JobSettings(
            key=f"nightly-{job_id}", title="Interactions of the day, all media", source="ucs", type="interactions",
            description="Feeds the warehouse; asks for the whole history once and then hour by hour.",
            schedule=Hourly(kind="hourly", every=4), start="immediately", timeframe=AllData(kind="all"),
            recipients=("3f0a1c9e" * 8,), labels={"team": "analytics", "stage": "production"},
        ),
    )  # fmt: skip


async def _execute(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


# --- the roles, each in a process of its own --------------------------------------------------------------------------


def relay(dsn: str, bootstrap: str, count: int) -> float:
    """Run the relay as a service does until `count` events are acknowledged and marked; seconds to the last ack."""

    async def run() -> float:
        async with (
            database.connect(dsn, SERVICE, outbox=True) as db,
            producer(Cluster(bootstrap), "bench", PATIENCE) as kafka,
        ):
            started = time.monotonic()
            running = asyncio.create_task(Relay(db, kafka, PATIENCE).run())
            while _published() < count:
                await asyncio.wait({running}, timeout=0.005)
                if running.done():
                    running.result()
            seconds = time.monotonic() - started
            while not await _all_marked(db):
                await asyncio.sleep(0.05)
            running.cancel()
            await asyncio.wait({running})
            return seconds

    return uvloop.run(run())


def _published() -> float:
    return sum(sample.value for metric in PUBLISHED.collect() for sample in metric.samples if "_total" in sample.name)


async def _all_marked(db: Database) -> bool:
    async with db.session() as connection:
        return not await connection.fetchval("SELECT EXISTS (SELECT FROM outbox WHERE published_at IS NULL)")


def send_from_memory(dsn: str, bootstrap: str) -> float:
    """Send the records of an outbox as the client library's manual says, made ready before; seconds to the last ack."""

    async def run() -> float:
        connection = await asyncpg.connect(dsn)
        ready = [
            (r.topic, r.value.encode(), r.key.encode(), r.headers())
            for r in [Record(*row) for row in await connection.fetch(
                f"SELECT topic, key, type, tenant, event_id, occurred_at, value FROM {SERVICE}.outbox ORDER BY id"
            )]
        ]  # fmt: skip
        await connection.close()
        kafka = AIOKafkaProducer(
            bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=2, max_batch_size=256 * 1024
        )
        await kafka.start()
        try:
            started = time.monotonic()
            sent = [await kafka.send(topic, value, key=key, headers=headers) for topic, value, key, headers in ready]
            await asyncio.gather(*sent)
            return time.monotonic() - started
        finally:
            await kafka.stop()

    return uvloop.run(run())


def relay_naively(dsn: str, bootstrap: str) -> float:
    """The obvious relay: publish one event, wait, mark it."""

    async def run() -> float:
        async with (
            database.connect(dsn, SERVICE, outbox=True) as db,
            producer(Cluster(bootstrap), "bench", PATIENCE) as kafka,
            db.session() as connection,
        ):
            started = time.monotonic()
            for _ in range(NAIVE_EVENTS):
                row = await connection.fetchrow(
                    """SELECT id, topic, key, type, tenant, event_id, occurred_at, value
                       FROM outbox WHERE published_at IS NULL ORDER BY id LIMIT 1"""
                )
                assert row is not None
                number, *fields = row
                await kafka.publish([Record(*fields)])
                await connection.execute("UPDATE outbox SET published_at = now() WHERE id = $1", number)
            return time.monotonic() - started

    return uvloop.run(run())


def write(dsn: str, count: int, rate: int) -> dict[bytes, int]:
    """Create `count` jobs at an even pace, each with its event in one transaction; when each was committed (ns)."""
    committed: dict[bytes, int] = {}
    now = datetime.now(UTC)
    jobs = [_job(new_event_id(), 1, now) for _ in range(count)]
    events = [JobCreated(occurred_at=now, tenant="acme", job_id=job.id, actor="bench", job=job) for job in jobs]

    async def create(connection: Connection, event: JobCreated) -> None:
        async with connection.transaction():
            await connection.execute(
                """INSERT INTO jobs (id, tenant, version, state, key, settings, created_at, updated_at, created_by,
                                     title_folded, search_text, source, type)
                   VALUES ($1, 'acme', 1, 'active', $2, $3, $4, $4, 'bench', $5, $5, $6, $7)""",
                event.job_id, event.job.settings.key, event.job.settings.model_dump_json(), now,
                event.job.settings.title.lower(), event.job.settings.source, event.job.settings.type,
            )  # fmt: skip
            await outbox.append(connection, [event])
        committed[str(event.event_id).encode()] = time.monotonic_ns()

    async def write_each(pool: Pool, started: float, numbers: range) -> None:
        async with pool.acquire() as connection:
            for number in numbers:
                await asyncio.sleep(started + number / rate - time.monotonic())
                await create(connection, events[number])

    async def run() -> None:
        settings = {"role": f"{SERVICE}_worker", "search_path": SERVICE}
        async with (
            asyncpg.create_pool(dsn, min_size=WRITERS, max_size=WRITERS, server_settings=settings) as pool,
            asyncio.TaskGroup() as tasks,
        ):
            started = time.monotonic() + 0.5
            for first in range(WRITERS):
                tasks.create_task(write_each(pool, started, range(first, count, WRITERS)))

    uvloop.run(run())
    return committed


def consume(bootstrap: str, count: int, within: float) -> dict[bytes, int]:
    """Take `count` events; when each arrived first (ns). Raises TimeoutError when not all come in so many seconds."""
    arrived: dict[bytes, int] = {}

    async def run() -> None:
        consumer = AIOKafkaConsumer(JOBS.name, bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="earliest")
        await consumer.start()
        started = time.monotonic()
        try:
            while len(arrived) < count:
                if time.monotonic() > started + within:
                    raise TimeoutError(f"{len(arrived)} of {count} events came")
                for records in (await consumer.getmany(timeout_ms=1000)).values():
                    now = time.monotonic_ns()
                    for record in records:
                        arrived.setdefault(dict(record.headers)["ce_id"], now)
        finally:
            await consumer.stop()

    uvloop.run(run())
    return arrived


# --- latency ----------------------------------------------------------------------------------------------------------


async def _latency(postgres: EmbeddedPostgres, broker: Broker, rate: int, seconds: int) -> dict[str, float]:
    """From just after the commit in one process to the consumer in another; the monotonic clock is the machine's."""
    await postgres.create_database("paced")
    dsn = postgres.dsn("paced")
    await migration.migrate(dsn, SERVICE, outbox=True)
    warm_up = WARM_UP_SECONDS * rate
    count = warm_up + seconds * rate
    out.print(f"{count:,} commits at {rate:,} a second …")
    relayed, written, consumed = await asyncio.gather(
        measured_beside(relay, dsn, broker.bootstrap, count),
        measured_beside(write, dsn, count, rate),
        measured_beside(consume, broker.bootstrap, count, count / rate + 60),
    )
    committed = sorted(written.value.items(), key=lambda item: item[1])[warm_up:]
    span = (committed[-1][1] - committed[0][1]) / 1e9
    latencies = sorted((consumed.value[event] - at) / 1e6 for event, at in committed)
    p50, p99 = latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]
    print_table(
        f"Latency from commit to consumer, {len(latencies):,} events in {span:.1f} s",
        ("p50 ms", "p99 ms", "max ms", "relay: CPU s", "relay: peak MiB", "writer: CPU s"),
        [
            (
                f"{p50:.1f}",
                f"{p99:.1f}",
                f"{latencies[-1]:.1f}",
                f"{relayed.cpu_seconds:.1f}",
                f"{relayed.peak_rss_mib:.0f}",
                f"{written.cpu_seconds:.1f}",
            )
        ],
    )
    return {"p50_ms": p50, "p99_ms": p99, "max_ms": latencies[-1]}


if __name__ == "__main__":
    typer.run(main)
