"""The stack under soak: its settings, its sources, its tenants."""

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import deploy.local.stack
from deploy.local import data
from deploy.local.processes import Child
from deploy.local.stack import SOURCES_DATABASE, Options, Stack
from shared.database import is_outage
from tests.brokers import kind_of_broker
from tests.system.driver import Tenant, execute, tenant
from tests.system.stacks import QUICK, impatient

TENANTS: Final = ("acme", "globex", "initech")
LAPSED: Final = "lapsed"
"""A tenant whose only certificate has expired: its runs fail, and say so."""
CONTACTS: Final = 300
SLOW_ROWS: Final = 250
REPLICATED: Final = ("job_api", "scheduler", "exporter", "history")
"""A second process each; the console's would need an address of its own."""
LEASE: Final = timedelta(seconds=3)

# 10 ms and 2 kB a row: an export lasts long enough to be met by a fault in its middle.
SLOW: Final = (
    "CREATE SCHEMA lab",
    f"""CREATE TABLE lab.wide AS
        SELECT tenant || '-' || i AS id, tenant, timestamptz '2026-01-01' + i * interval '1 s' AS at,
               (SELECT string_agg(md5(i || '/' || j), '') FROM generate_series(1, 64) j) AS noise
        FROM generate_series(1, {SLOW_ROWS}) i, unnest(ARRAY{list(TENANTS)}) AS tenant""",
    "CREATE UNIQUE INDEX ON lab.wide (tenant, at, id)",
    "CREATE VIEW lab.slow AS SELECT *, pg_sleep(0.01)::text AS nap FROM lab.wide",
    # Sorted rows come only after the last nap; in the order of the index each comes after its own.
    f"ALTER DATABASE {SOURCES_DATABASE} SET enable_sort = off",
)
SOURCES: Final = """
[sources.lab]
title = "Laboratory"
dsn = "env:CDDS_SOURCE_UCS"

[sources.lab.types.slow]
title = "Row"
table = "lab.slow"
id_column = "id"
time_column = "at"
tenant_column = "tenant"
"""


@dataclass
class World:
    """What the parts of the soak share; what must not happen is added to `wrong` by whoever sees it."""

    stack: Stack
    tenants: list[Tenant]
    lapsed: Tenant
    replicas: dict[str, Child]
    folder: Path
    retention: timedelta
    doubled: AsyncExitStack
    """Ends the replicas when it is closed."""
    beginning: datetime = field(default_factory=lambda: datetime.now(UTC))
    wrong: list[str] = field(default_factory=list[str])
    counts: dict[str, int] = field(default_factory=dict[str, int])

    def count(self, what: str, number: int = 1) -> None:
        """Remember that it happened."""
        self.counts[what] = self.counts.get(what, 0) + number


@contextmanager
def away_is_fine() -> Generator[None]:
    """Let pass what PostgreSQL says while it is away."""
    try:
        yield
    except Exception as error:
        if not is_outage(error):
            raise


def retentions(events: timedelta) -> Mapping[str, str]:
    """Settings with which everything is forgotten soon: events after that long, what they did a quarter later."""
    settings = {
        "SHORT_RETENTIONS": "true",
        "EVENT_RETENTION": f"PT{events.total_seconds():g}S",
        "RECORD_RETENTION": f"PT{events.total_seconds() * 1.25:g}S",
        "PURGE_INTERVAL": "PT5S",
    }
    names = {
        f"CDDS_{s}_{name}": value for s in ("JOB_API", "SCHEDULER", "EXPORTER") for name, value in settings.items()
    }
    return {**names, "CDDS_EXPORTER_RETENTION": settings["EVENT_RETENTION"], "CDDS_EXPORTER_SWEEP": "PT1M"}


def kept() -> Mapping[str, str]:
    """The settings that end this again: everything is kept as long as by default, but for files."""
    return {
        f"CDDS_{service}_{name}": value
        for service in ("JOB_API", "SCHEDULER", "EXPORTER")
        for name, value in (("EVENT_RETENTION", "P432D"), ("RECORD_RETENTION", "P462D"))
    }


@asynccontextmanager
async def world(folder: Path, retention: timedelta) -> AsyncGenerator[World]:
    """The stack, filled and doubled; its output is in `folder`."""
    sources = folder / "sources.toml"
    sources.write_text(Path(deploy.local.stack.__file__).with_name("sources.toml").read_text() + SOURCES)
    options = Options(
        data=folder / "data", kafka=kind_of_broker(), sources=sources,
        environment={**QUICK, **impatient(timedelta(seconds=10)), **retentions(retention)},
    )  # fmt: skip
    async with Stack(options, output=folder / "output.log") as stack, AsyncExitStack() as exits:
        await data.create_schema(stack.dsn(SOURCES_DATABASE))
        weights = dict.fromkeys((*TENANTS, LAPSED), 1)
        await data.load_contacts(stack.dsn(SOURCES_DATABASE), "ucs", rows=CONTACTS, tenants=weights)
        await execute(stack, *SLOW, database=SOURCES_DATABASE)
        tenants = [await exits.enter_async_context(tenant(stack, name)) for name in TENANTS]
        lapsed = await exits.enter_async_context(tenant(stack, LAPSED, valid_for=timedelta(seconds=20)))
        doubled = await exits.enter_async_context(AsyncExitStack())
        replicas = {name: await doubled.enter_async_context(stack.replica(name)) for name in REPLICATED}
        yield World(stack, tenants, lapsed, replicas, folder, retention, doubled)
