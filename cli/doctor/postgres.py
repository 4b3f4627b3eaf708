"""PostgreSQL: reachable, recent enough, with the roles and schemas of this version, its clock like ours."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

import asyncpg

from cli.doctor import state
from cli.doctor.checking import CONNECT_SECONDS, address, bounded, explained
from cli.doctor.findings import Finding, Status, failed, ok, warning
from cli.installation import STATEFUL, Installation
from deploy.local.stack import PUBLISHERS
from shared import connecting, migration
from shared.database import DirectConnection
from shared.migration import Migration

CHECK: Final = "postgresql"
OLDEST_VERSION: Final = 15
SKEW_WARNING: Final = timedelta(seconds=1)
"""Where replicas race PostgreSQL's clock counts; ours stamps tokens and logs."""
SKEW_FAILED: Final = timedelta(seconds=60)
"""Tokens are refused that seem to be from the future, or expired."""
_AT_ONCE: Final = 4
"""Connections."""

ServerCheck: TypeAlias = Callable[[DirectConnection, Sequence[str]], Awaitable[Iterable[Finding]]]


async def check(installation: Installation) -> list[Finding]:
    """All checks on every database that the services use."""
    databases: dict[str, list[str]] = {}
    for service in STATEFUL:
        if (dsn := installation.dsn(service)) is not None:
            databases.setdefault(dsn, []).append(service)
    if not databases:
        message = "no DSN is known here, so nothing that is stored was checked"
        return [warning(CHECK, "server", message, "give --postgres DSN, or set CDDS_JOB_API_POSTGRES and the others")]
    local = installation.is_local
    found = await asyncio.gather(*(_database(dsn, services, local=local) for dsn, services in databases.items()))
    return [finding for findings in found for finding in findings]


async def _database(dsn: str, services: Sequence[str], *, local: bool) -> list[Finding]:
    where = address(dsn)
    remedy = (
        "is the stack's PostgreSQL running? its log is in logs/ of the stack's folder"
        if local
        else f"see that PostgreSQL runs, that this machine may connect, and CDDS_{services[0].upper()}_POSTGRES"
    )
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await _connect(dsn)
            await connection.close()
    except Exception as error:
        refused = isinstance(error, asyncpg.PostgresError | ValueError | asyncpg.InterfaceError)
        if isinstance(error, asyncpg.CannotConnectNowError):
            refused = False
        if isinstance(error, connecting.NoTrust):
            remedy = (
                f"correct the TLS parameters of CDDS_{services[0].upper()}_POSTGRES, see docs/operate/postgresql.md"
            )
        finding = failed(CHECK, "server", f"no connection to {where}: {explained(error)}", remedy, reached=refused)
        return [finding]
    several = asyncio.Semaphore(_AT_ONCE)

    async def one(about: str, run: ServerCheck) -> list[Finding]:
        async with several:
            return await bounded(CHECK, about, _on_own_connection(dsn, run, services))

    found = await asyncio.gather(*(one(about, run) for about, run in _CHECKS.items()))
    reached = ok(CHECK, "server", f"{where} answers", reached=True)
    return [reached, *(finding for findings in found for finding in findings)]


async def _on_own_connection(dsn: str, run: ServerCheck, services: Sequence[str]) -> Iterable[Finding]:
    connection = await _connect(dsn)
    try:
        return await run(connection, services)
    finally:
        connection.terminate()


async def _connect(dsn: str) -> DirectConnection:
    return await connecting.connect(
        dsn,
        timeout=CONNECT_SECONDS,
        command_timeout=10,
        server_settings={"timezone": "UTC", "application_name": "cdds-doctor"},
    )


async def _version(connection: DirectConnection, services: Sequence[str]) -> list[Finding]:
    """Whether the server is one that the migrations are written for."""
    number = int(await connection.fetchval("SELECT current_setting('server_version_num')"))
    name = await connection.fetchval("SELECT current_setting('server_version')")
    if number < OLDEST_VERSION * 10_000:
        return [failed(CHECK, "version", f"it is {name}", f"upgrade PostgreSQL to {OLDEST_VERSION} or later")]
    return [ok(CHECK, "version", name)]


async def _clock(connection: DirectConnection, services: Sequence[str]) -> list[Finding]:
    """How far this machine's clock is from PostgreSQL's, as well as the way to it lets us know."""
    await connection.fetchval("SELECT 1")
    before, started = datetime.now(UTC), time.monotonic()
    there: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return [skew("PostgreSQL", there, there, before, timedelta(seconds=time.monotonic() - started))]


def skew(whose: str, earliest: datetime, latest: datetime, asked_at: datetime, took: timedelta) -> Finding:
    """What is sure about two clocks, when the other one showed something from `earliest` to `latest` meanwhile."""
    if latest < asked_at:
        apart, side = asked_at - latest, "behind"
    elif earliest > asked_at + took:
        apart, side = earliest - asked_at - took, "ahead of"
    else:
        apart, side = timedelta(0), ""
    if apart <= SKEW_WARNING:
        return ok("clocks", whose, "shows the same time as this machine, to the second")
    bad = apart > SKEW_FAILED
    message = f"its clock is {apart.total_seconds():.1f} s {side} this machine's"
    return Finding(
        "clocks", whose, Status.FAILED if bad else Status.WARNING, message,
        "let NTP (chrony, systemd-timesyncd) set the clocks of all machines",
    )  # fmt: skip


async def _roles(connection: DirectConnection, services: Sequence[str]) -> list[Finding]:
    """Whether the two roles of each service exist, may be taken, and are bound by row-level security."""
    names = [f"{service}_{kind}" for service in services for kind in ("worker", "tenant")]
    rows = await connection.fetch(
        """SELECT rolname, rolsuper OR rolbypassrls AS unbound, pg_has_role(current_user, oid, 'SET') AS may
           FROM pg_roles WHERE rolname = ANY($1)"""
        if int(await connection.fetchval("SELECT current_setting('server_version_num')")) >= 160_000
        else """SELECT rolname, rolsuper OR rolbypassrls AS unbound, pg_has_role(current_user, oid, 'MEMBER') AS may
                FROM pg_roles WHERE rolname = ANY($1)""",
        names,
    )
    known = {row["rolname"]: row for row in rows}
    findings = [
        failed(CHECK, "roles", f"the role {name} does not exist", "run `cdds migrate`, or deploy/postgres/roles.sql")
        for name in names
        if name not in known
    ]
    for name, row in known.items():
        if row["unbound"]:
            remedy = f"ALTER ROLE {name} NOSUPERUSER NOBYPASSRLS"
            findings.append(failed(CHECK, "roles", f"row-level security does not bind {name}", remedy))
        if not row["may"]:
            me = await connection.fetchval("SELECT current_user")
            findings.append(failed(CHECK, "roles", f"{me} may not act as {name}", f"GRANT {name} TO {me}"))
    return findings or [ok(CHECK, "roles", f"the {len(names)} roles are there and bound to their tenants")]


async def _migrations(connection: DirectConnection, services: Sequence[str]) -> list[Finding]:
    """Whether each schema is that of this version, and its migrations are as they were when they were applied."""
    findings: list[Finding] = []
    for service in services:
        wanted = migration.of_service(service, outbox=service in PUBLISHERS)
        try:
            # Those who migrate and those who may only work can both be who is asking.
            async with state.acting_as(connection, f"{service}_worker"):
                rows = await connection.fetch(f"SELECT name, sha256 FROM {service}.applied_migrations")
        except state.NO_SCHEMA:
            message = f"the schema {service} does not exist in this database"
            remedy = f"run `cdds migrate` or start {service}, or see whether this is its database"
            findings.append(failed(CHECK, "schema", message, remedy))
            continue
        findings += _compared(service, wanted, {row["name"]: row["sha256"] for row in rows})
    return findings


def _compared(service: str, wanted: Sequence[Migration], applied: Mapping[str, str]) -> list[Finding]:
    names = [file.name for file in wanted]
    changed = [file.name for file in wanted if file.name in applied and not file.is_the_one(applied[file.name])]
    missing = [name for name in names if name not in applied]
    unknown = [name for name in applied if name not in names]
    findings: list[Finding] = []
    if changed:
        message = f"{service}: {', '.join(changed)} is not what was applied"
        remedy = "install the version of CDDS that was here before; an applied migration is never edited"
        findings.append(failed(CHECK, "schema", message, remedy))
    if missing:
        message = f"{service}: {', '.join(missing)} is not applied"
        findings.append(failed(CHECK, "schema", message, "run `cdds migrate` of this version"))
    if unknown:
        message = f"{service}: a newer version of CDDS has applied {', '.join(unknown)}"
        findings.append(warning(CHECK, "schema", message, "run the doctor of that version"))
    return findings or [ok(CHECK, "schema", f"{service} is up to date, {len(wanted)} migrations unaltered")]


_CHECKS: Final[Mapping[str, ServerCheck]] = {
    "version": _version,
    "clock": _clock,
    "roles": _roles,
    "schema": _migrations,
    **state.CHECKS,
}
