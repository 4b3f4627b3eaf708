"""The whole system on one machine: embedded servers, the five services as child processes, one data folder.

<data>/postgres      PostgreSQL, unless a DSN was given
<data>/kafka-…       the broker's records, unless an address was given
<data>/objects       artifacts
<data>/secrets       the keys that sign tokens and manifests, mask fields, and seal sessions
<data>/stack.json    addresses, process ids and settings while it runs; readable by its owner only
<data>/unclean       there from start to clean stop: found at a start, it means that the last run was killed
"""

import asyncio
import fcntl
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, Self, TextIO

import asyncpg
import httpx
import orjson

from deploy.local.kafka import ApacheKafka, Broker, EmbeddedKafka
from deploy.local.postgres import EmbeddedPostgres
from deploy.local.processes import Child, Output, Restartable, StartFailed, Supervised, free_port
from deploy.local.secrets import ISSUER, Secrets, write_private
from shared import outbox
from shared.cluster import Cluster
from shared.messaging import ensure_topics

DATABASE: Final = "cdds"
SOURCES_DATABASE: Final = "cdds_sources"
SERVICES: Final = ("job_api", "scheduler", "exporter", "history", "console")
PUBLISHERS: Final = ("job_api", "scheduler", "exporter")
PARTITIONS: Final = 6
READY_WITHIN: Final = timedelta(seconds=60)


class AlreadyRunning(Exception):
    """Another stack runs on this data folder."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a stack is made of; `kafka` is a kind of embedded broker or the address of one that exists."""

    data: Path
    kafka: Literal["embedded", "apache"] | str = "embedded"
    postgres: str | None = None
    console_port: int | None = None
    sources: Path | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Settings of services beyond the computed ones, as `CDDS_EXPORTER_LEASE`."""


def running(data: Path, child: int | None = None) -> dict[str, Any] | None:
    """What the stack that is up on this folder tells of itself; None when there is none.

    Its lock says so, since its process id may belong to a zombie by now, or to somebody else; our own `child` needs no
    such proof.
    """
    try:
        described: dict[str, Any] = orjson.loads((data / "stack.json").read_bytes())
        if child is not None:
            return described if described["pid"] == child else None
        with (data / "lock").open() as lock:
            return None if _locked(lock) else described
    except FileNotFoundError:
        return None


def _locked(file: TextIO) -> bool:
    """Take the lock on `file` until it is closed; False when another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Stack:
    """Starts everything in order, keeps the services running, stops everything in reverse."""

    def __init__(self, options: Options, output: Output = None) -> None:
        self.options = options
        self.data = options.data.resolve()
        self.data.mkdir(parents=True, exist_ok=True)
        self.secrets = Secrets(self.data / "secrets")
        self.ports = {name: free_port() for name in SERVICES}
        if options.console_port is not None:
            self.ports["console"] = options.console_port
        self.postgres = (
            None if options.postgres else EmbeddedPostgres(self.data / "postgres", output=self._log("postgres"))
        )
        self.broker = self._broker()
        self.services: dict[str, Child] = {}
        self._output = output
        self._supervisors: dict[str, Supervised] = {}
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._exit.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    # --- addresses ---------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The one address for people and programs: the console."""
        return self.url_of("console")

    def url_of(self, service: str) -> str:
        """The base URL of one service."""
        return f"http://127.0.0.1:{self.ports[service]}"

    @property
    def kafka(self) -> str:
        """The bootstrap address."""
        return self.options.kafka if self.broker is None else self.broker.bootstrap

    def dsn(self, database: str = DATABASE) -> str:
        """The DSN of a database; with a given PostgreSQL there is one database for everything."""
        return self.options.postgres or self._embedded_postgres.dsn(database)

    def describe(self) -> dict[str, object]:
        """What `stack.json` tells other processes."""
        told = {name: value for name, value in self.options.environment.items() if not name.endswith("_KAFKA_PASSWORD")}
        return {
            "pid": os.getpid(),
            "url": self.url,
            "kafka": self.kafka,
            "postgres": self.dsn(),
            "sources": self.dsn(SOURCES_DATABASE),
            "services": {name: {"url": self.url_of(name), "pid": child.pid} for name, child in self.services.items()},
            "settings": {name: {**self._settings(name), **told} for name in SERVICES},
        }

    # --- control -----------------------------------------------------------------------------------------------

    async def restart(self, service: str, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        """Stop one service in order and start it again, with more settings if given."""
        await self.stop(service)
        await self._start_service(service, environment)
        await self._ready(service)

    async def stop(self, name: str) -> None:
        """Stop a service, `postgres` or `kafka` in order; it stays away until `start`."""
        await self._supervisors[name].stop()

    async def start(self, name: str) -> None:
        """Start what was stopped, on its old address, and keep it running."""
        await self._supervisors[name].start()
        if name in SERVICES:
            await self._ready(name)

    @asynccontextmanager
    async def replica(self, service: str) -> AsyncGenerator[Child]:
        """One more process of a service, with an HTTP port of its own that nobody is told of."""
        port = free_port()
        prefix = f"CDDS_{service.upper()}"
        environment = {f"{prefix}_HTTP_PORT": str(port)}
        async with AsyncExitStack() as afterwards:
            if isinstance(self.broker, EmbeddedKafka) and service != "console":
                environment[f"{prefix}_KAFKA_MEMBER"] = f"{service}-2"
                afterwards.push_async_callback(self.broker.forget, service, f"{service}-2")
            child = self._child(service, environment)
            await afterwards.enter_async_context(Supervised(child, report=self._report))
            await self._ready(service, f"http://127.0.0.1:{port}")
            yield child

    async def _start(self) -> None:
        lock = self._exit.enter_context((self.data / "lock").open("a"))
        # A stack that was just killed lets go of its files a moment after it is gone from the list of processes.
        for _ in range(10):
            if _locked(lock):
                break
            await asyncio.sleep(0.1)
        else:
            raise AlreadyRunning(f"another stack runs on {self.data}; stop it with `cdds down`")
        # A killed stack could not remove it; a stopping one does so last, for `cdds down` waits for that.
        (self.data / "stack.json").unlink(missing_ok=True)
        self._exit.callback((self.data / "stack.json").unlink, missing_ok=True)
        if self.postgres is not None:
            await self._supervise("postgres", self.postgres)
            for database in (DATABASE, SOURCES_DATABASE):
                await self.postgres.create_database(database)
        if self.broker is not None:
            await self._supervise("kafka", _Refilled(self.broker, self.dsn()))
        self._exit.push_async_callback(self._stop_services)
        for name in SERVICES:
            await self._start_service(name, {})
        await asyncio.gather(*(self._ready(name) for name in SERVICES))
        unfinished = self.data / "stack.json.new"
        # Its DSNs may hold passwords.
        unfinished.unlink(missing_ok=True)
        write_private(unfinished, orjson.dumps(self.describe(), option=orjson.OPT_INDENT_2))
        unfinished.rename(self.data / "stack.json")

    async def _supervise(self, name: str, server: Restartable) -> None:
        self._supervisors[name] = await self._exit.enter_async_context(Supervised(server, report=self._report))

    async def _start_service(self, name: str, environment: Mapping[str, str]) -> None:
        child = self.services[name] = self._child(name, environment)
        supervised = self._supervisors[name] = Supervised(child, report=self._report)
        await supervised.start()

    def _child(self, service: str, environment: Mapping[str, str]) -> Child:
        return Child(
            service,
            [sys.executable, "-m", f"services.{service}"],
            output=self._output,
            env={
                **os.environ,
                **self._settings(service),
                **self.secrets.settings(service),
                **self.options.environment,
                **environment,
            },
        )

    async def _stop_services(self) -> None:
        await asyncio.gather(*(self.stop(name) for name in self.services))

    def _settings(self, service: str) -> dict[str, str]:
        """What a service reads from its environment, the secrets apart."""
        common: dict[str, str] = {
            "http_port": str(self.ports[service]),
            "log_format": "console",
            "stop_with_parent": "true",
            "local": "true",
        }
        believes = {"auth_issuer": ISSUER, "auth_public_key": str(self.secrets.token_public_key)}
        stateful = {
            **believes,
            "postgres": self.dsn(),
            "kafka": self.kafka,
            "kafka_partitions": str(PARTITIONS),
            "kafka_fetch_pause": "PT0.1S" if isinstance(self.broker, EmbeddedKafka) else "PT0S",
        }
        if isinstance(self.broker, EmbeddedKafka):
            # It never forgets a member that died, and waits for it as long as it runs; one that returns it knows.
            stateful["kafka_member"] = f"{service}-1"
        sources = {"sources": str(self.options.sources or Path(__file__).with_name("sources.toml"))}
        own = {
            "job_api": {**stateful, **sources},
            "scheduler": {**stateful, **sources},
            "exporter": {
                **stateful,
                **sources,
                "objects": str(self.data / "objects"),
                "signing_key": str(self.secrets.signing_key),
                "grace": "PT5S",  # a child is killed 10 s after it was told to stop
            },
            "history": stateful,
            "console": {
                **believes,
                **{name: self.url_of(name) for name in ("job_api", "exporter", "history")},
            },
        }
        prefixed = {
            f"CDDS_{service.upper()}_{name.upper()}": value for name, value in {**common, **own[service]}.items()
        }
        dsns = {f"CDDS_SOURCE_{name}": self.dsn(SOURCES_DATABASE) for name in ("UCS", "CONTACT_HISTORY", "FLIGHTS")}
        return {**prefixed, **(dsns if service == "exporter" else {})}

    async def _ready(self, name: str, url: str | None = None) -> None:
        async with httpx.AsyncClient(base_url=url or self.url_of(name)) as client:
            try:
                async with asyncio.timeout(READY_WITHIN.total_seconds()):
                    while not await _answers_ready(client):  # noqa: ASYNC110 - another process's state
                        await asyncio.sleep(0.05)
            except TimeoutError:
                raise StartFailed(name, f"is not ready after {READY_WITHIN}", self.services[name].last_lines) from None

    def _broker(self) -> Broker | None:
        match self.options.kafka:
            case "embedded":
                return EmbeddedKafka(self.data / "kafka-embedded", output=self._log("kafka"))
            case "apache":
                return ApacheKafka(self.data / "kafka-apache", output=self._log("kafka"))
            case _:
                return None

    @property
    def _embedded_postgres(self) -> EmbeddedPostgres:
        assert self.postgres is not None
        return self.postgres

    def _log(self, name: str) -> Path:
        return self.data / "logs" / f"{name}.log"

    def _report(self, name: str, line: str) -> None:
        if isinstance(self._output, Path):
            with self._output.open("a", encoding="utf-8") as file:
                file.write(f"{name}: {line}\n")
        elif self._output is not None:
            self._output(name, line)


class _Refilled:
    """A broker that gets its topics and all events again whenever it may have lost some."""

    def __init__(self, broker: Broker, dsn: str) -> None:
        self.name = broker.name
        self.wait = broker.wait
        self.stop = broker.stop
        self._broker = broker
        self._dsn = dsn

    async def start(self) -> None:
        """Start it; one that crashed, is new, or keeps its records in memory is refilled."""
        is_new = not self._broker.data.exists()
        await self._broker.start()
        # Even a clean stop of the embedded broker lost what it had acknowledged while it wrote its snapshot (seen).
        if is_new or self._broker.started_after_crash or isinstance(self._broker, EmbeddedKafka):
            await ensure_topics(Cluster(self._broker.bootstrap), PARTITIONS, replication=1)
            await republish(self._dsn)


async def republish(dsn: str) -> int:
    """Make every event in the outboxes due again, so that a broker that lost records is refilled; says how many."""
    connection = await asyncpg.connect(dsn)
    try:
        return sum(
            [
                await outbox.republish(connection, schema)
                for schema in PUBLISHERS
                if await connection.fetchval("SELECT to_regclass($1)", f"{schema}.outbox")
            ]
        )
    finally:
        await connection.close()


async def _answers_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health/ready")).status_code == 200
    except httpx.TransportError:
        return False
