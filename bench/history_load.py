"""Millions of executions, written by SQL straight into the months, with all their indexes."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final
from uuid import UUID

import asyncpg
import orjson

from bench.harness import out
from bench.history_service import SERVICE
from deploy.local.postgres import EmbeddedPostgres
from services.history.store import Store
from shared import database, slots
from shared.database import DirectConnection
from shared.jobs import JobSettings

LARGE: Final = "large"
"""The tenant with a fifth of all executions."""
SMALL: Final = tuple(f"small-{number:03}" for number in range(100))
JOBS_OF_LARGE: Final = 400
JOBS_OF_SMALL: Final = 60
VERSIONS: Final = 3
SPAN: Final = timedelta(days=390)
"""Less than what history keeps."""
GOING_ON: Final = 2000
"""The last ones have not ended."""
CHUNK: Final = 250_000
LOADERS: Final = 2
REPORTED_EVERY: Final = 1_000_000
LOADING: Final = "loading"

TITLES: Final = ("Interactions", "Contact history", "Agent states", "Voice recordings", "Chat transcripts", "Surveys")
PLACES: Final = ("Köln", "Lisbon", "São Paulo", "Manila", "Kraków", "Denver", "Pune", "Dublin", "Osaka", "Austin")
SOURCES: Final = ("ucs", "contact_history", "flights")
TYPES: Final = ("interaction", "contact", "agent_state", "survey")
TEAMS: Final = ("analytics", "billing", "quality")


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job that executions are of."""

    id: UUID
    tenant: str
    title: str
    source: str
    type: str
    labels: dict[str, str]


async def load(postgres: EmbeddedPostgres, name: str, count: int) -> list[StoredJob]:
    """A database with `count` executions of the last 390 days, vacuumed and with statistics; their jobs."""
    jobs = list(_jobs(Random(1)))
    server: DirectConnection = await asyncpg.connect(postgres.dsn())
    try:
        if await server.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
            out.print(f"the executions in {name} are from before")
            return jobs
        # It gets its name when it is complete.
        await postgres.drop_database(LOADING)
        await postgres.create_database(LOADING)
        await _load(postgres.dsn(LOADING), jobs, count)
        await server.execute(f"ALTER DATABASE {LOADING} RENAME TO {name}")
    finally:
        await server.close()
    return jobs


async def _load(dsn: str, jobs: list[StoredJob], count: int) -> None:
    async with database.connect(dsn, SERVICE) as db:
        await Store(db).keep_partitions()
    started = time.monotonic()
    connections: list[DirectConnection] = [await asyncpg.connect(dsn) for _ in range(LOADERS)]
    try:
        await _store_jobs(connections[0], jobs)
        now = datetime.now(UTC)
        chunks = iter(range(0, count, CHUNK))
        loaded = 0

        async def work(connection: DirectConnection) -> None:
            nonlocal loaded
            for first in chunks:
                last = min(first + CHUNK, count)
                await _store_executions(connection, first, last, count, now)
                loaded += last - first
                if loaded % REPORTED_EVERY < CHUNK or loaded == count:
                    out.print(f"{loaded:,} executions stored after {time.monotonic() - started:.0f} s")

        async with asyncio.TaskGroup() as tasks:
            for connection in connections:
                tasks.create_task(work(connection))
        await _store_progress(connections[0])
        await connections[0].execute(f"VACUUM ANALYZE {SERVICE}.executions, {SERVICE}.job_versions", timeout=3600)
        await connections[0].execute("CHECKPOINT", timeout=600)
        size: str = await connections[0].fetchval("SELECT pg_size_pretty(pg_database_size(current_database()))")
        out.print(f"{count:,} executions take {size}; stored in {time.monotonic() - started:.0f} s")
    finally:
        for connection in connections:
            await connection.close()


def _jobs(random: Random) -> Iterator[StoredJob]:
    tenants = [LARGE] * JOBS_OF_LARGE + [tenant for tenant in SMALL for _ in range(JOBS_OF_SMALL)]
    for number, tenant in enumerate(tenants):
        yield StoredJob(
            UUID(int=random.getrandbits(128), version=4), tenant,
            f"{random.choice(TITLES)} {random.choice(PLACES)} {number}", random.choice(SOURCES), random.choice(TYPES),
            {"team": random.choice(TEAMS), "stage": "production"},
        )  # fmt: skip


async def _store_jobs(connection: DirectConnection, jobs: list[StoredJob]) -> None:
    """The jobs as the loading statement reads them, and their versions as history keeps them."""
    await connection.execute(
        """CREATE TABLE public.jobs (number integer PRIMARY KEY, id uuid, tenant text, title text, title_folded text,
                                     source text, type text, question json, settings json, labels jsonb)"""
    )
    now = datetime.now(UTC)
    await connection.copy_records_to_table(
        "jobs", schema_name="public", records=[_job_row(number, job, now) for number, job in enumerate(jobs)]
    )
    await connection.execute("ANALYZE public.jobs")
    await connection.execute(
        f"""INSERT INTO {SERVICE}.job_versions (job_id, version, tenant, title, title_folded, labels, settings,
                                                occurred_at)
            SELECT id, version, tenant, title, title_folded, labels, settings, $2::timestamptz
            FROM public.jobs, generate_series(1, $1) AS version""",
        VERSIONS, now - SPAN,
    )  # fmt: skip


def _job_row(number: int, job: StoredJob, now: datetime) -> tuple[object, ...]:
    settings = JobSettings.model_validate(
        {
            "key": f"job-{number}", "title": job.title, "source": job.source, "type": job.type, "labels": job.labels,
            "description": "Feeds the warehouse; asked for by the reporting team.", "media_types": ["voice", "chat"],
            "schedule": {"kind": "hourly", "every": 1}, "timeframe": {"kind": "last", "unit": "hour"},
            "fields": ["ixnId", "startDate", "mediaTypeId", "customerPhone"], "masking": {"customerPhone": "hash"},
        }
    )  # fmt: skip
    question = slots.question(settings, now - timedelta(hours=1), now)
    return (
        number, job.id, job.tenant, job.title, job.title.casefold(), job.source, job.type,
        question.model_dump_json(), settings.model_dump_json(), orjson.dumps(job.labels).decode(),
    )  # fmt: skip


async def _store_executions(connection: DirectConnection, first: int, last: int, count: int, now: datetime) -> None:
    """Executions `first` to `last` of `count`: evenly over time, every fifth of the large tenant, some jobs often."""
    await connection.execute(
        f"""
        INSERT INTO {SERVICE}.executions
          (requested_at, run_id, tenant, job_id, job_version, title, title_folded, source, type, trigger, slot_key,
           slot_at, interval_from, interval_to, question, state, version, attempt, worker, worker_attempt, started_at,
           finished_at, rows, bytes, parts, snapshot, manifest_id, manifest_sha256, schema_id, reason, message,
           reason_version, cancelled_by)
        SELECT at, gen_random_uuid(), tenant, id, 1 + (n * {VERSIONS} / $3::bigint)::integer, title, title_folded,
               source, type, trigger, trigger || ':' || to_char(at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), at,
               date_trunc('hour', at) - interval '1 hour', date_trunc('hour', at), question, state,
               CASE WHEN ended THEN 4 ELSE 2 END, 1, 'exporter-1-7d9c4b', 1,
               CASE WHEN state IN ('succeeded', 'failed', 'cancelled', 'running') THEN at + waits END,
               CASE WHEN ended THEN at + waits + takes END,
               CASE WHEN state = 'succeeded' THEN exported END, CASE WHEN state = 'succeeded' THEN exported * 91 END,
               CASE WHEN state = 'succeeded' THEN 1 END, CASE WHEN state = 'succeeded' THEN '00000003-0000001B-1' END,
               CASE WHEN state = 'succeeded' THEN gen_random_uuid() END,
               CASE WHEN state = 'succeeded' THEN encode(sha256(n::text::bytea), 'hex') END,
               CASE WHEN state = 'succeeded' THEN gen_random_uuid() END,
               CASE WHEN state = 'failed' THEN 'source_unavailable' END,
               CASE WHEN state = 'failed' THEN 'The source did not answer: connection refused.' END,
               CASE WHEN state = 'failed' THEN 4 ELSE 0 END,
               CASE WHEN state = 'cancelled' THEN 'operator' END
        FROM (
          SELECT n, $4::timestamptz - $5::interval * (1 - n::double precision / $3::bigint) AS at,
                 n < $3::bigint - {GOING_ON} AS ended,
                 CASE WHEN n < $3::bigint - {GOING_ON}
                      THEN CASE WHEN luck < 0.95 THEN 'succeeded' WHEN luck < 0.99 THEN 'failed' ELSE 'cancelled' END
                      ELSE CASE WHEN luck < 0.5 THEN 'running' WHEN luck < 0.8 THEN 'queued' ELSE 'requested' END
                 END AS state,
                 CASE WHEN cause < 0.94 THEN 'schedule' WHEN cause < 0.98 THEN 'manual'
                      WHEN cause < 0.99 THEN 'retry' ELSE 'backfill' END AS trigger,
                 make_interval(secs => random_exponential) AS waits,
                 make_interval(secs => exp(random_normal(3, 1.5))) AS takes,
                 exp(random_normal(9, 2))::bigint AS exported,
                 CASE WHEN n % 5 = 0 THEN floor({JOBS_OF_LARGE} * chosen ^ 2)
                      ELSE {JOBS_OF_LARGE} + floor({len(SMALL) * JOBS_OF_SMALL} * chosen ^ 1.5)
                 END::integer AS job
          FROM (SELECT n, random() AS luck, random() AS cause, random() AS chosen,
                       -ln(1 - random()) * 4 AS random_exponential
                FROM generate_series($1::bigint, $2::bigint - 1) AS n) AS thrown
        ) AS lived
        JOIN public.jobs ON number = job
        ORDER BY at""",
        first, last, count, now, SPAN, timeout=3600,
    )  # fmt: skip


async def _store_progress(connection: DirectConnection) -> None:
    await connection.execute(
        f"""INSERT INTO {SERVICE}.progress (run_id, requested_at, tenant, job_id, attempt, sequence, rows, bytes, total,
                                            percent, remaining_seconds, position, occurred_at)
            SELECT run_id, requested_at, tenant, job_id, 1, 3, 500, 45500, 1000, 50, 12, nextval('{SERVICE}.positions'),
                   now()
            FROM {SERVICE}.executions WHERE state = 'running'"""
    )
