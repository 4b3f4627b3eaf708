"""`make bench-scheduler`: many jobs due at one boundary, from the boundary to a consumer, among a million stored ones.

Everything runs on this machine: PostgreSQL with its default durability, Apache Kafka, the scheduler as production
starts it, and a consumer in a process of its own. Beside it, in the same run, what people take otherwise: APScheduler
with its store in the same PostgreSQL.
"""

import asyncio
import math
import os
import pickle
import statistics
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

import asyncpg
import httpx
import orjson
import typer
import uvloop
from aiokafka import AIOKafkaConsumer
from apscheduler.events import EVENT_JOB_EXECUTED, JobExecutionEvent
from apscheduler.job import Job
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from bench.harness import (
    Measured,
    measured_beside,
    out,
    print_result,
    print_table,
    server_cpu_seconds,
    server_peak_rss_mib,
)
from deploy.local import kafka
from deploy.local.kafka import ApacheKafka
from deploy.local.postgres import EmbeddedPostgres
from deploy.local.processes import Child, free_port, until_ready
from deploy.local.secrets import Secrets
from services.scheduler.store import Store
from shared import database, migration
from shared.cluster import Cluster
from shared.events import SCHEDULED_RUNS, RunRequested
from shared.jobs import JobSettings
from shared.messaging import ensure_topics

SERVICE: Final = "scheduler"
PARTITIONS: Final = 6
FEW: Final = 1000
TICKS: Final = 1000
WARM_UP: Final = 1000
"""Jobs due a little earlier, so that no part meets its first record at the boundary."""
WARM_UP_BEFORE: Final = timedelta(seconds=5)
SILENCE_SECONDS: Final = 1.0
"""How long the consumer listens on for a run that comes twice."""
PATIENCE_SECONDS: Final = 60.0

OURS: Final = "this scheduler"
APSCHEDULER: Final = "APScheduler 3, PostgreSQL store"
WHAT_APSCHEDULER_DOES: Final = (
    "APScheduler only calls a function (here time.time) in its own process; it writes down the next time, and nothing "
    "of the call: no outbox, no message, no ledger. A crash between call and update calls again, and two of them on "
    "one store call everything twice. Its misfire_grace_time is unlimited here; with its default of 1 s it drops what "
    "is later."
)

_COMMON: Final[Mapping[str, Any]] = {
    "title": "Interactions of the day, all media",
    "description": "Feeds the warehouse; asks for the whole history once and then hour by hour.",
    "source": "ucs",
    "type": "interaction",
    "recipients": ["3f0a1c" * 10 + "0000"],
    "labels": {"team": "analytics", "stage": "production"},
}
_SINCE: Final[Mapping[str, Any]] = {"kind": "since_last_run", "from": "2026-01-01T00:00:00Z"}
_KINDS: Final[Sequence[Mapping[str, Any]]] = (
    {"schedule": {"kind": "hourly", "every": 1}, "timeframe": {"kind": "last", "unit": "hour"}},
    {"schedule": {"kind": "hourly", "every": 4}, "timeframe": _SINCE, "media_types": ["voice", "chat"]},
    {"schedule": {"kind": "daily", "at": "06:00"}, "timeframe": {"kind": "last", "unit": "day"}, "format": "csv"},
    {
        "schedule": {"kind": "weekly", "days": ["mon", "thu"], "at": "06:00"},
        "timeframe": {"kind": "last", "unit": "week"},
        "fields": ["ixnId", "startDate", "mediaTypeId", "customerPhone"],
        "masking": {"customerPhone": "hash"},
    },
    {"schedule": {"kind": "monthly", "day": "last", "at": "23:30"}, "timeframe": {"kind": "last", "unit": "month"}},
    {"schedule": {"kind": "cron", "expression": "15 6-20/2 * * 1-5"}, "timeframe": {"kind": "all"}},
)
"""Jobs of every kind, in turns; as JSON they take about 900 bytes."""


@dataclass(frozen=True, slots=True)
class Lags:
    """Seconds from the boundary to each arrival, sorted, and what that cost."""

    seconds: Sequence[float]
    cpu_seconds: float
    peak_rss_mib: float
    postgres_cpu_seconds: float
    kafka_cpu_seconds: float | None = None

    def at(self, share: float) -> float:
        """The lag that `share` of the jobs did not exceed."""
        return self.seconds[min(len(self.seconds) - 1, int(len(self.seconds) * share))]

    def result(self) -> dict[str, object]:
        """What the last line says."""
        return {
            "due": len(self.seconds),
            "lag_p50_s": self.at(0.5),
            "lag_p99_s": self.at(0.99),
            "lag_max_s": self.seconds[-1],
            "cpu_s": self.cpu_seconds,
            "peak_rss_mib": self.peak_rss_mib,
        }


def main(
    due: Annotated[list[int] | None, typer.Option(help="Jobs due at one boundary; give it once per round.")] = None,
    stored: Annotated[int, typer.Option(help="Schedules that are not due.")] = 1_000_000,
    alternative_due: Annotated[
        int | None, typer.Option(help="No more jobs than that are due in the alternative; 0 leaves it out.")
    ] = None,
) -> None:
    """Measure the scheduler on PostgreSQL and Apache Kafka started for it."""
    rounds = due or [10_000, 100_000]
    uvloop.run(_main(rounds, stored, max(rounds) if alternative_due is None else alternative_due))


async def _main(rounds: Sequence[int], stored: int, alternative_due: int) -> None:
    if missing := kafka.missing_for_apache():
        raise SystemExit(missing)
    with TemporaryDirectory(prefix="cdds-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with EmbeddedPostgres(folder / "postgres") as postgres, ApacheKafka(folder / "kafka") as broker:
            await ensure_topics(Cluster(broker.bootstrap), PARTITIONS, 1)
            few, many = [await _database(postgres, f"stored_{count}", count) for count in (FEW, stored)]
            idle_few, idle_many = (await measured_beside(idle_ticks, [few, many])).value
            ours: list[Lags] = []
            for due in rounds:
                seen = sum(len(lags.seconds) + WARM_UP for lags in ours)
                ours.append(await _round(folder, postgres, broker, many, due, seen))
            _, idle_after = (await measured_beside(idle_ticks, [few, many])).value
            others = {
                due: await _alternative(postgres, due)
                for due in dict.fromkeys(min(due, alternative_due) for due in rounds)
                if due
            }
    print_table(
        f"A tick of the loop when nothing is due, median of {TICKS:,}",
        ("schedules stored", "ms"),
        [
            (f"{FEW:,}", f"{idle_few:.2f}"),
            (f"{stored:,}", f"{idle_many:.2f}"),
            (f"{stored:,}, and many were due just before", f"{idle_after:.2f}"),
        ],
    )
    _report(stored, ours, list(others.values()))
    print_result(
        {
            **ours[0].result(),
            "idle_tick_ms_1k": idle_few,
            "idle_tick_ms_1m": idle_many,
            "idle_tick_ms_1m_after": idle_after,
            "rounds": [lags.result() for lags in ours],
            "alternatives": {APSCHEDULER: [lags.result() for lags in others.values()]},
        }
    )


def _report(stored: int, ours: Sequence[Lags], others: Sequence[Lags]) -> None:
    print_table(
        f"From the boundary on, among {stored:,} schedules",
        ("", "due", "p50 s", "p99 s", "last s", "CPU s", "peak MiB", "PostgreSQL's CPU s", "Kafka's CPU s"),
        [
            (
                name, f"{len(lags.seconds):,}", f"{lags.at(0.5):.2f}", f"{lags.at(0.99):.2f}",
                f"{lags.seconds[-1]:.2f}", f"{lags.cpu_seconds:.1f}", f"{lags.peak_rss_mib:.0f}",
                f"{lags.postgres_cpu_seconds:.1f}",
                "" if lags.kafka_cpu_seconds is None else f"{lags.kafka_cpu_seconds:.1f}",
            )
            for name, all_lags in ((OURS, ours), (APSCHEDULER, others))
            for lags in all_lags
        ],
    )  # fmt: skip
    if others:
        out.print(WHAT_APSCHEDULER_DOES)


# --- schedules --------------------------------------------------------------------------------------------------------


async def _database(postgres: EmbeddedPostgres, name: str, schedules: int) -> str:
    """A database with `schedules` due at some moment of the next year, vacuumed, with statistics and on disk."""
    await postgres.create_database(name)
    dsn = postgres.dsn(name)
    await migration.migrate(dsn, SERVICE, outbox=True)
    connection = await asyncpg.connect(dsn)
    try:
        started = time.monotonic()
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        await _store(connection, schedules, tomorrow, within=timedelta(days=364))
        await connection.execute(f"VACUUM ANALYZE {SERVICE}.schedules")
        await connection.execute("CHECKPOINT")
        out.print(f"{schedules:,} schedules stored in {time.monotonic() - started:.0f} s")
    finally:
        await connection.close()
    return dsn


async def _store(
    connection: "asyncpg.Connection[asyncpg.Record]", count: int, first: datetime, within: timedelta = timedelta(0)
) -> None:
    """Write `count` schedules due at random moments within `within` after `first`."""
    kinds = [
        JobSettings.model_validate({**_COMMON, **kind, "overlap": "buffer_all"}).model_dump_json() for kind in _KINDS
    ]
    await connection.execute(
        f"""INSERT INTO {SERVICE}.schedules (job_id, tenant, job_version, settings, active, next_slot_at, due_at)
            SELECT gen_random_uuid(), 'tenant-' || n % 50, 1,
                   ($1::jsonb[])[1 + n % cardinality($1::jsonb[])] || jsonb_build_object('key', 'job-' || n),
                   true, due_at, due_at
            FROM (SELECT n, date_trunc('milliseconds', $3::timestamptz + random() * $4::interval) AS due_at
                  FROM generate_series(1, $2) AS n) AS numbered""",
        kinds, count, first, within, timeout=600,
    )  # fmt: skip


# --- from the boundary to the consumer --------------------------------------------------------------------------------


async def _round(folder: Path, postgres: EmbeddedPostgres, broker: ApacheKafka, dsn: str, due: int, seen: int) -> Lags:
    """Let `due` jobs become due at one boundary; `seen` runs are on the topic already."""
    out.print(f"{due:,} jobs due at one boundary …")
    boundary = _whole_second(timedelta(seconds=15 + due / 5_000) + WARM_UP_BEFORE)
    connection = await asyncpg.connect(dsn)
    try:
        await _store(connection, due, boundary)
        await _store(connection, WARM_UP, boundary - WARM_UP_BEFORE)
        await connection.execute("CHECKPOINT")
        consuming = asyncio.create_task(measured_beside(consume, broker.bootstrap, seen + WARM_UP + due))
        scheduler = _scheduler(folder, dsn, broker.bootstrap, port := free_port())
        await scheduler.start()
        try:
            await until_ready(scheduler, lambda: _is_ready(port), timedelta(seconds=30))
            if datetime.now(UTC) > boundary - WARM_UP_BEFORE:
                raise SystemExit("The boundary came before everything was ready: this machine is too busy.")
            pids = scheduler.pid, postgres.pid, broker.pid
            before = [server_cpu_seconds(pid) for pid in pids]
            arrivals = (await consuming).value
            own, postgres_cpu, kafka_cpu = (server_cpu_seconds(p) - b for p, b in zip(pids, before, strict=True))
            memory = server_peak_rss_mib(scheduler.pid)
        finally:
            await scheduler.stop()
        arrived = [arrival for arrival in arrivals if arrival.slot_at == boundary]
        rows = await connection.fetch(
            f"SELECT run_id FROM {SERVICE}.slots WHERE slot_at = $1 AND run_state = 'open'", boundary
        )
        runs = {row["run_id"] for row in rows}
        assert len(runs) == due, f"{len(runs)} of {due} slots are in the ledger"
        assert len(arrived) == due, f"{len(arrived)} of {due} runs arrived"
        assert {arrival.run_id for arrival in arrived} == runs, "a run arrived twice"
    finally:
        await connection.close()
    lags = Lags(sorted(arrival.at - boundary.timestamp() for arrival in arrived), own, memory, postgres_cpu, kafka_cpu)
    out.print(f"Each of the {due:,} runs in the ledger arrived, none twice, and 99 % within {lags.at(0.99):.1f} s.")
    return lags


def _whole_second(ahead: timedelta) -> datetime:
    return datetime.fromtimestamp(math.ceil((datetime.now(UTC) + ahead).timestamp()), UTC)


def _scheduler(folder: Path, dsn: str, bootstrap: str, port: int) -> Child:
    """The service as production starts it."""
    settings = {
        "postgres": dsn,
        "kafka": bootstrap,
        "kafka_partitions": PARTITIONS,
        "http_port": port,
        "log_format": "console",
        "stop_with_parent": "true",
        "auth_issuer": "bench",
        "auth_public_key": Secrets(folder / "secrets").token_public_key,
        "sources": Path(kafka.__file__).with_name("sources.toml"),
    }
    environment = {f"CDDS_{SERVICE.upper()}_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", f"services.{SERVICE}"]
    return Child(SERVICE, command, output=out.print, env={**os.environ, **environment})


async def _is_ready(port: int) -> bool:
    async with httpx.AsyncClient() as client:
        try:
            return (await client.get(f"http://127.0.0.1:{port}/health/ready")).is_success
        except httpx.TransportError:
            return False


# --- the alternative --------------------------------------------------------------------------------------------------


async def _alternative(postgres: EmbeddedPostgres, due: int) -> Lags:
    out.print(f"{due:,} jobs due at one boundary in APScheduler …")
    name = f"apscheduler_{due}"
    await postgres.create_database(name)
    dsn = postgres.dsn(name)
    boundary = _whole_second(timedelta(seconds=10 + due / 2_000))
    await measured_beside(add_apscheduler_jobs, dsn, due, boundary)
    before = server_cpu_seconds(postgres.pid)
    called: Measured[list[float]] = await measured_beside(call_apscheduler_jobs, dsn, due, boundary)
    assert len(called.value) == due
    lags = sorted(at - boundary.timestamp() for at in called.value)
    return Lags(lags, called.cpu_seconds, called.peak_rss_mib, server_cpu_seconds(postgres.pid) - before)


# --- in a process of its own ------------------------------------------------------------------------------------------


def idle_ticks(dsns: Sequence[str]) -> list[float]:
    """Milliseconds that the loop of a scheduler takes to find out that nothing is due: the median for each database."""

    async def run(store: Store) -> float:
        started = time.perf_counter()
        assert await store.request_due_runs() == 0
        assert await store.next_due_in() is not None
        return (time.perf_counter() - started) * 1000

    async def run_all() -> list[float]:
        taken: list[list[float]] = [[] for _ in dsns]
        async with database.connect(dsns[0], SERVICE) as first, database.connect(dsns[1], SERVICE) as second:
            stores = [Store(db, lambda source: timedelta(0)) for db in (first, second)]
            for _ in range(TICKS):
                for ticks, store in zip(taken, stores, strict=True):
                    ticks.append(await run(store))
        return [statistics.median(ticks) for ticks in taken]

    return uvloop.run(run_all())


@dataclass(frozen=True, slots=True)
class Arrival:
    """A `RunRequested` that the consumer has seen, and when (seconds since 1970)."""

    run_id: UUID
    slot_at: datetime
    at: float


def consume(bootstrap: str, count: int) -> list[Arrival]:
    """Read the topic from its beginning until `count` runs were seen and no other one follows."""
    wanted = RunRequested.type_name().encode()
    seen: list[tuple[float, bytes | None]] = []

    async def run() -> None:
        consumer = AIOKafkaConsumer(
            SCHEDULED_RUNS.name, bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            newest = time.time()
            while time.time() - newest < (SILENCE_SECONDS if len(seen) >= count else PATIENCE_SECONDS):
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    newest = time.time()
                    seen.extend((newest, r.value) for r in records if dict(r.headers)["ce_type"] == wanted)
        finally:
            await consumer.stop()

    uvloop.run(run())
    events = ((at, orjson.loads(value or b"")) for at, value in seen)
    return [Arrival(UUID(e["run_id"]), datetime.fromisoformat(e["slot"]["at"]), at) for at, e in events]


def add_apscheduler_jobs(dsn: str, count: int, boundary: datetime) -> None:
    """Write jobs into APScheduler's table as it does itself, but all in one statement."""
    store = _apscheduler_store(dsn)
    scheduler = BackgroundScheduler(timezone=UTC)
    trigger = IntervalTrigger(days=1, start_date=boundary, timezone=UTC)
    store.jobs_t.create(store.engine)
    with store.engine.begin() as connection:
        rows: list[dict[str, object]] = []
        for _ in range(count):
            job = Job(
                scheduler, id=str(uuid4()), name="a job", func="time:time", args=(), kwargs={}, trigger=trigger,
                executor="default", misfire_grace_time=None, coalesce=True, max_instances=1, next_run_time=boundary,
            )  # fmt: skip
            state = pickle.dumps(job.__getstate__(), pickle.HIGHEST_PROTOCOL)
            rows.append({"id": job.id, "next_run_time": boundary.timestamp(), "job_state": state})
        connection.execute(store.jobs_t.insert(), rows)
    store.engine.dispose()


def call_apscheduler_jobs(dsn: str, count: int, boundary: datetime) -> list[float]:
    """Run APScheduler until each job was called and its next time written; when each was called."""
    called: list[float] = []
    finished = threading.Event()

    def note(event: JobExecutionEvent) -> None:
        assert isinstance(event.retval, float), event.exception
        called.append(event.retval)
        if len(called) == count:
            finished.set()

    scheduler = BackgroundScheduler(jobstores={"default": _apscheduler_store(dsn)}, timezone=UTC)
    scheduler.add_listener(note, EVENT_JOB_EXECUTED)
    scheduler.start()
    if datetime.now(UTC) > boundary:
        raise SystemExit("The boundary came before APScheduler was ready: this machine is too busy.")
    finished.wait()
    scheduler.shutdown()
    return called


def _apscheduler_store(dsn: str) -> SQLAlchemyJobStore:
    return SQLAlchemyJobStore(dsn.replace("postgresql:", "postgresql+psycopg:"))


if __name__ == "__main__":
    typer.run(main)
