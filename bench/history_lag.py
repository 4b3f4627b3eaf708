"""How long an event takes from being published to being visible in PostgreSQL, at a steady rate."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final

import asyncpg
import uvloop
from aiokafka.admin import AIOKafkaAdminClient

from bench.harness import measured_beside, out, print_table, server_cpu_seconds, server_peak_rss_mib
from bench.history_catchup import PATIENCE
from bench.history_events import TENANTS, lives, paced
from bench.history_service import SERVICE, is_assigned, running, set_offsets
from deploy.local.kafka import Broker
from deploy.local.postgres import EmbeddedPostgres
from deploy.local.secrets import Secrets
from shared.cluster import Cluster
from shared.events import RunProgressed
from shared.messaging import Record, producer

WARM_UP_SECONDS: Final = 5
LONGEST: Final = timedelta(seconds=10)
"""Runs are short, so that from the warm-up on all kinds of events are told."""
PUBLISH_SECONDS: Final = 0.01
LOOK_SECONDS: Final = 0.005
SILENCE_SECONDS: Final = 5.0
"""How long the watcher looks on for events that come late; longer than that would be lag, and fail the count."""


async def measure(
    folder: Path, postgres: EmbeddedPostgres, broker: Broker, rate: int, seconds: int
) -> dict[str, float]:
    """Publish, and look every 5 ms at what is visible; a lag counts from when the event was meant to be published.

    Ticks of progress are published, too, but not looked for: they are overwritten, and may be lost.
    """
    out.print(f"{rate:,} events a second for {seconds} s …")
    await postgres.create_database("lag")
    await set_offsets(broker.bootstrap, to_end=True)
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        async with running(postgres, "lag", broker.bootstrap, Secrets(folder / "secrets")) as service:
            await service.until_ready()
            while not await is_assigned(admin):
                await asyncio.sleep(0.05)
            pids = service.pid, postgres.pid
            before = [server_cpu_seconds(pid) for pid in pids]
            published, watched = await asyncio.gather(
                measured_beside(publish, broker.bootstrap, rate, seconds + WARM_UP_SECONDS),
                measured_beside(watch, postgres.dsn("lag"), datetime.now(UTC)),
            )
            own, postgres_cpu = (server_cpu_seconds(pid) - b for pid, b in zip(pids, before, strict=True))
            memory = server_peak_rss_mib(service.pid)
    finally:
        await admin.close()
    await postgres.drop_database("lag")
    since, count = published.value
    assert len(watched.value) == count, f"{len(watched.value)} of {count} events were seen"
    measured_since = since + timedelta(seconds=WARM_UP_SECONDS)
    lags = sorted(1000 * lag for at, lag in watched.value if at >= measured_since)
    p50, p99 = lags[len(lags) // 2], lags[len(lags) * 99 // 100]
    print_table(
        f"From publishing to visible, {rate:,} events a second, {len(lags):,} looked for",
        ("p50 ms", "p99 ms", "max ms", "CPU s of history", "PostgreSQL's CPU s", "peak MiB"),
        [(f"{p50:.1f}", f"{p99:.1f}", f"{lags[-1]:.1f}", f"{own:.1f}", f"{postgres_cpu:.1f}", f"{memory:.0f}")],
    )
    return {"lag_p50_ms": p50, "lag_p99_ms": p99, "lag_max_ms": lags[-1], "lag_peak_rss_mib": memory}


# --- each in a process of its own -------------------------------------------------------------------------------------


def publish(bootstrap: str, rate: int, seconds: int) -> tuple[datetime, int]:
    """Publish events at the moment each says it occurred at; when that began, and how many are in the timeline."""
    whole = timedelta(seconds=seconds)
    now = datetime.now(UTC)
    events = list(lives(rate * seconds, now, now + whole, LONGEST))

    async def run() -> datetime:
        async with producer(Cluster(bootstrap), "bench", PATIENCE) as kafka:
            since = datetime.now(UTC) + timedelta(seconds=0.5)
            coming = paced(events, since, rate)
            while some := list(islice(coming, max(1, int(rate * PUBLISH_SECONDS)))):
                records = [Record.of(event) for event in some]
                await asyncio.sleep(some[-1].occurred_at.timestamp() - time.time())
                await kafka.publish(records)
            return since

    since = uvloop.run(run())
    return since, sum(not isinstance(event, RunProgressed) for event in events)


def watch(dsn: str, since: datetime) -> list[tuple[datetime, float]]:
    """When each event since `since` occurred, and how many seconds later it was seen."""
    seen: list[tuple[datetime, float]] = []

    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            position, newest = 0, time.time()
            while (now := time.time()) - newest < (SILENCE_SECONDS if seen else PATIENCE.total_seconds()):
                rows = await connection.fetch(
                    f"""SELECT occurred_at, position FROM {SERVICE}.events
                        WHERE tenant = ANY($1) AND position > $2 AND occurred_at >= $3""",
                    TENANTS, position, since,
                )  # fmt: skip
                at = time.time()
                seen.extend((row["occurred_at"], at - row["occurred_at"].timestamp()) for row in rows)
                position = max((row["position"] for row in rows), default=position)
                newest = at if rows else newest
                await asyncio.sleep(LOOK_SECONDS - (time.time() - now))
        finally:
            await connection.close()

    uvloop.run(run())
    return seen
