"""`make bench-api`: how long `POST /jobs` and `GET /jobs` take at a steady rate, with many jobs stored.

The real service (its relay and consumer at work, against Apache Kafka) and a bare FastAPI application with asyncpg,
which checks nothing but a token's presence and the shape of the body, inserts the same JSON into one table and lists
it, get the same requests in the same run. Requests leave at an even pace whether or not earlier ones have been
answered, and a latency counts from the moment its request was meant to leave.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import asyncpg
import httptools
import httpx
import orjson
import typer
import uvicorn
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from fastapi import FastAPI, Request

from bench.harness import measured_beside, out, print_result, print_table, server_cpu_seconds
from deploy.local.kafka import ApacheKafka
from deploy.local.postgres import EmbeddedPostgres
from deploy.local.processes import free_port
from deploy.local.secrets import ISSUER, Secrets
from shared.jobs import JobSettings

CONNECTIONS: Final = 64
WARM_UP_SECONDS: Final = 3
SETTINGS: Final[dict[str, Any]] = {
    "title": "Interactions of the hour",
    "description": "Feeds the warehouse",
    "source": "ucs",
    "type": "interaction",
    "media_types": ["voice", "chat"],
    "schedule": {"kind": "hourly", "every": 1},
    "timeframe": {"kind": "last", "unit": "hour"},
    "labels": {"team": "analytics"},
}
SOURCES: Final = Path(__file__).parents[1] / "deploy" / "local" / "sources.toml"


def main(
    stored: Annotated[int, typer.Option(help="Jobs stored beforehand.")] = 100_000,
    rate: Annotated[int, typer.Option(help="Requests a second, half of them POST and half GET.")] = 500,
    seconds: Annotated[int, typer.Option(help="How long latency is measured, after 3 s of warming up.")] = 20,
    rounds: Annotated[int, typer.Option(help="The round with the median p99 of POST is told.")] = 3,
) -> None:
    """Measure the HTTP edge of job_api on PostgreSQL and Apache Kafka started for it."""
    uvloop.run(_main(stored, rate, seconds, rounds))


async def _main(stored: int, rate: int, seconds: int, rounds: int) -> None:
    with TemporaryDirectory(prefix="cdds-bench-", ignore_cleanup_errors=True) as folder:
        async with (
            EmbeddedPostgres(Path(folder) / "postgres") as postgres,
            ApacheKafka(Path(folder) / "kafka") as broker,
        ):
            await postgres.create_database("cdds")
            await postgres.create_database("bare")
            secrets = Secrets(Path(folder) / "secrets")
            token = secrets.token(tenant="acme", role="admin", subject="bench")
            ours: list[Load] = []
            bare: list[Load] = []
            async with _service(postgres.dsn("cdds"), broker.bootstrap, secrets) as service:
                await prepare(service.url, postgres.dsn("cdds"), token, stored)
                for number in range(rounds):
                    out.print(f"round {number + 1} of {rounds} …")
                    ours.append(await _loaded(service, token, rate, seconds))
            async with _bare(postgres.dsn("bare")) as service:
                await _fill_bare(postgres.dsn("bare"), stored)
                for _ in range(rounds):
                    bare.append(await _loaded(service, token, rate, seconds))
    mine, plain = (sorted(loads, key=lambda load: load.create_p99_ms)[len(loads) // 2] for loads in (ours, bare))
    print_table(
        f"{rate} requests a second for {seconds} s, {stored:,} jobs stored, median of {rounds}",
        ("", "answered", "POST p50 ms", "p99 ms", "GET p50 ms", "p99 ms", "CPU of the process", "peak MiB"),
        [load.row(name) for name, load in (("job_api", mine), ("bare FastAPI and asyncpg", plain))],
    )
    print_result(
        {
            "create_p99_ms": mine.create_p99_ms,
            "list_p99_ms": mine.list_p99_ms,
            "ratio_bare": mine.create_p99_ms / plain.create_p99_ms,
            "bare_create_p99_ms": plain.create_p99_ms,
            "bare_list_p99_ms": plain.list_p99_ms,
        }
    )


# --- the load ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """What one round measured; times in milliseconds."""

    answered: int
    create_p50_ms: float
    create_p99_ms: float
    list_p50_ms: float
    list_p99_ms: float
    cpu: float
    peak_rss_mib: float

    def row(self, name: str) -> Sequence[str]:
        """A line of the table."""
        times = (self.create_p50_ms, self.create_p99_ms, self.list_p50_ms, self.list_p99_ms)
        return (
            name, f"{self.answered:,}", *(f"{ms:.1f}" for ms in times), f"{self.cpu:.0%}", f"{self.peak_rss_mib:.0f}",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Service:
    """A server under load."""

    url: str
    pid: int

    @property
    def peak_rss_mib(self) -> float:
        """The most memory it ever had."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


async def _loaded(service: Service, token: str, rate: int, seconds: int) -> Load:
    before = server_cpu_seconds(service.pid)
    measured = await measured_beside(send, service.url, token, rate, seconds)
    cpu = (server_cpu_seconds(service.pid) - before) / (seconds + WARM_UP_SECONDS)
    create, listed = (sorted(times) for times in measured.value)

    def percentile(times: Sequence[float], share: float) -> float:
        return 1000 * times[min(len(times) - 1, int(len(times) * share))]

    return Load(
        len(create) + len(listed), percentile(create, 0.5), percentile(create, 0.99), percentile(listed, 0.5),
        percentile(listed, 0.99), cpu, service.peak_rss_mib,
    )  # fmt: skip


def send(url: str, token: str, rate: int, seconds: int) -> tuple[list[float], list[float]]:
    """Send POST and GET in turn, `rate` a second; how long each took in seconds, the first 3 s left out."""
    count, warm_up = rate * (seconds + WARM_UP_SECONDS), rate * WARM_UP_SECONDS
    took: tuple[list[float], list[float]] = ([], [])

    async def run() -> None:
        address = urlsplit(url)
        assert address.hostname
        assert address.port
        tickets = iter(range(count))
        started = time.monotonic() + 0.5

        async def work() -> None:
            connection = await Connection.open(str(address.hostname), int(address.port or 0))
            try:
                for ticket in tickets:
                    meant = started + ticket / rate
                    await asyncio.sleep(meant - time.monotonic())
                    posting = ticket % 2 == 0
                    status = await connection.ask(_request(token, ticket if posting else None))
                    assert status == (201 if posting else 200), status
                    if ticket >= warm_up:
                        took[0 if posting else 1].append(time.monotonic() - meant)
            finally:
                connection.close()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(CONNECTIONS):
                tasks.create_task(work())

    uvloop.run(run())
    return took


def _request(token: str, number: int | None) -> bytes:
    head = f"Host: bench\r\nAuthorization: Bearer {token}\r\n"
    if number is None:
        return f"GET /api/v1/jobs?limit=50 HTTP/1.1\r\n{head}\r\n".encode()
    body = orjson.dumps({**SETTINGS, "title": f"Interactions of the hour, {number}"})
    kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"POST /api/v1/jobs HTTP/1.1\r\n{head}{kind}\r\n".encode() + body


class Connection:
    """One HTTP/1.1 connection, one request at a time; a whole client library would be what is measured."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._complete = False

    @classmethod
    async def open(cls, host: str, port: int) -> "Connection":
        """Connect."""
        return cls(*await asyncio.open_connection(host, port))

    async def ask(self, request: bytes) -> int:
        """The status of the answer, once all of it has arrived."""
        self._writer.write(request)
        self._complete = False
        parser = httptools.HttpResponseParser(self)
        while not self._complete:
            received = await self._reader.read(256 * 1024)
            assert received, "the server closed the connection"
            parser.feed_data(received)
        return parser.get_status_code()

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._complete = True

    def close(self) -> None:
        """Disconnect."""
        self._writer.close()


# --- job_api ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _service(dsn: str, kafka: str, secrets: Secrets) -> AsyncGenerator[Service]:
    port = free_port()
    environment = {
        "HTTP_PORT": str(port), "POSTGRES": dsn, "KAFKA": kafka, "AUTH_ISSUER": ISSUER, "LOG_LEVEL": "warning",
        "AUTH_PUBLIC_KEY": str(secrets.token_public_key), "SOURCES": str(SOURCES), "LOCAL": "true",
    }  # fmt: skip
    async with _process(
        port, "services.job_api", {f"CDDS_JOB_API_{name}": value for name, value in environment.items()}
    ) as service:
        yield service


@asynccontextmanager
async def _process(port: int, module: str, environment: Mapping[str, str]) -> AsyncGenerator[Service]:
    """A Python module as a server in a process of its own, ready to answer."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, env={**os.environ, **environment}, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url) as client, asyncio.timeout(60):
            while not await _ready(client):
                assert process.returncode is None, f"{module} ended with {process.returncode}"
                await asyncio.sleep(0.1)
        yield Service(url, process.pid)
    finally:
        process.terminate()
        await process.wait()


async def _ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health/ready")).status_code == 200
    except httpx.TransportError:
        return False


async def prepare(url: str, dsn: str, token: str, stored: int) -> None:
    """A certificate, one job over HTTP, and copies of it with other names and times until `stored` are there."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers=headers) as client:
        (await client.post("/certificates", content=_certificate())).raise_for_status()
        (await client.post("/jobs", json=SETTINGS)).raise_for_status()
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            f"""INSERT INTO job_api.jobs
                SELECT (jsonb_populate_record(job, jsonb_build_object(
                  'id', gen_random_uuid(), 'created_at', job.created_at - n * interval '1 minute',
                  'settings', job.settings || jsonb_build_object('title', 'Interactions of the hour ' || n)
                ))).*
                FROM job_api.jobs AS job, generate_series(1, {stored - 1}) AS n"""
        )
        await connection.execute("VACUUM ANALYZE job_api.jobs")
    finally:
        await connection.close()


def _certificate() -> bytes:
    key = rsa.generate_private_key(65537, 3072)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=90))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


# --- the bare application ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def _bare(dsn: str) -> AsyncGenerator[Service]:
    port = free_port()
    async with _process(port, "bench.api", {"CDDS_BENCH_BARE": dsn, "CDDS_BENCH_PORT": str(port)}) as service:
        yield service


async def _fill_bare(dsn: str, stored: int) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        body = JobSettings.model_validate(SETTINGS).model_dump_json()
        await connection.execute(
            f"""INSERT INTO jobs (id, settings, created_at)
                SELECT gen_random_uuid(), $1::text::jsonb, now() - n * interval '1 minute'
                FROM generate_series(1, {stored}) AS n""",
            body,
        )
        await connection.execute("VACUUM ANALYZE jobs")
    finally:
        await connection.close()


async def serve_bare(dsn: str, port: int) -> None:
    """An application as short as FastAPI allows: check the shape, insert, list."""
    async with asyncpg.create_pool(dsn, min_size=1, max_size=10) as pool:
        await pool.execute(
            "CREATE TABLE IF NOT EXISTS jobs (id uuid PRIMARY KEY, settings jsonb NOT NULL, created_at timestamptz)"
        )
        await pool.execute("CREATE INDEX IF NOT EXISTS jobs_created ON jobs (created_at DESC)")
        app = FastAPI()

        @app.get("/health/ready")
        async def ready() -> str:
            return "ready"

        @app.post("/api/v1/jobs", status_code=201)
        async def create(settings: JobSettings, request: Request) -> dict[str, Any]:
            assert "authorization" in request.headers
            row = await pool.fetchrow(
                """INSERT INTO jobs (id, settings, created_at) VALUES (gen_random_uuid(), $1, now())
                   RETURNING id, created_at""",
                settings.model_dump_json(),
            )
            assert row is not None
            return {"id": row["id"], "created_at": row["created_at"], "settings": settings}

        @app.get("/api/v1/jobs")
        async def listed(limit: int = 50) -> dict[str, Any]:
            rows = await pool.fetch(
                "SELECT id, settings, created_at FROM jobs ORDER BY created_at DESC LIMIT $1", limit
            )
            return {"items": [{**row, "settings": orjson.loads(row["settings"])} for row in rows]}

        server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False))
        await server.serve()


if __name__ == "__main__":
    if bare := os.environ.get("CDDS_BENCH_BARE"):
        uvloop.run(serve_bare(bare, int(os.environ["CDDS_BENCH_PORT"])))
    else:
        typer.run(main)
