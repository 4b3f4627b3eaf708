"""What the services' tables say: events that do not leave, runs and schedules that are stuck, what will expire."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import asyncpg

from cli.doctor.checking import counted, span
from cli.doctor.findings import Finding, Status, failed, ok, warning
from deploy.local.stack import PUBLISHERS
from shared.database import DirectConnection

UNSENT_WARNING: Final = timedelta(seconds=10)
UNSENT_FAILED: Final = timedelta(minutes=1)
"""As the alert CddsOutboxOld has it; the relay takes milliseconds."""
LEASE_OVERDUE: Final = timedelta(minutes=1)
"""A run whose lease has expired is claimed again within seconds by whoever has a free hand."""
QUEUED_LONG: Final = timedelta(minutes=15)
SCHEDULE_LATE: Final = timedelta(minutes=1)
EXPIRES_WITHIN: Final = (timedelta(days=7), timedelta(days=14), timedelta(days=30))
_NAMED: Final = 5
"""So many tenants or tables are named in a line."""


async def _outboxes(connection: DirectConnection, services: Sequence[str]) -> list[Finding]:
    """Whether what was committed reaches Kafka."""
    findings: list[Finding] = []
    for service in (name for name in services if name in PUBLISHERS):
        async with acting_as(connection, f"{service}_worker"):
            row = await connection.fetchrow(
                f"""SELECT count(*) AS unsent,
                           coalesce(clock_timestamp() - (
                             SELECT occurred_at FROM {service}.outbox WHERE published_at IS NULL ORDER BY id LIMIT 1
                           ), '0') AS age
                    FROM {service}.outbox WHERE published_at IS NULL"""
            )
        assert row is not None
        age: timedelta = row["age"]
        if age <= UNSENT_WARNING:
            findings.append(ok("outbox", service, "everything is sent" if not row["unsent"] else "is being sent"))
            continue
        status = Status.FAILED if age > UNSENT_FAILED else Status.WARNING
        message = f"{counted(row['unsent'], 'event')} not on Kafka, the oldest for {span(age)}"
        remedy = f"see that {service} runs and reaches Kafka; its log says what the relay waits for"
        findings.append(Finding("outbox", service, status, message, remedy))
    return findings


async def _runs(connection: DirectConnection, services: Sequence[str]) -> list[Finding]:
    """Whether runs are left behind by their worker, or by everybody."""
    if "exporter" not in services:
        return []
    async with acting_as(connection, "exporter_worker"):
        row = await connection.fetchrow(
            """SELECT count(*) FILTER (WHERE state = 'running') AS running,
                      count(*) FILTER (WHERE state = 'queued') AS queued,
                      count(*) FILTER (WHERE lease_until < clock_timestamp()) AS expired,
                      coalesce(clock_timestamp() - min(lease_until), '0') AS overdue,
                      coalesce(clock_timestamp() - min(greatest(queued_at, not_before))
                               FILTER (WHERE state = 'queued'), '0') AS waiting
               FROM exporter.runs WHERE state IN ('queued', 'running')"""
        )
    assert row is not None
    findings: list[Finding] = []
    if row["expired"]:
        status = Status.FAILED if row["overdue"] > LEASE_OVERDUE else Status.WARNING
        message = f"{counted(row['expired'], 'run')} under a lease that expired, the first {span(row['overdue'])} ago"
        remedy = "see that an exporter runs: any of them takes such runs over, within seconds if it has a free hand"
        findings.append(Finding("runs", "leases", status, message, remedy))
    if row["waiting"] > QUEUED_LONG:
        message = f"{counted(row['queued'], 'run')} queued, the first could have started {span(row['waiting'])} ago"
        remedy = "see that exporters run; add replicas, or raise CDDS_EXPORTER_CONCURRENT_RUNS, if they are busy"
        findings.append(warning("runs", "queue", message, remedy))
    return findings or [ok("runs", "exporter", f"{row['running']:,} running, {row['queued']:,} queued, none stuck")]


async def _schedules(connection: DirectConnection, services: Sequence[str]) -> list[Finding]:
    """Whether what is due is decided."""
    if "scheduler" not in services:
        return []
    async with acting_as(connection, "scheduler_worker"):
        row = await connection.fetchrow(
            """SELECT count(*) AS late, coalesce(clock_timestamp() - min(due_at), '0') AS first
               FROM scheduler.schedules WHERE due_at < clock_timestamp() - $1::interval""",
            SCHEDULE_LATE,
        )
    assert row is not None
    if not row["late"]:
        return [ok("schedules", "scheduler", "none is overdue")]
    message = f"{counted(row['late'], 'schedule')} overdue, the first for {span(row['first'])}"
    return [failed("schedules", "scheduler", message, "see that the scheduler runs; its log says what it waits for")]


async def _certificates(connection: DirectConnection, services: Sequence[str]) -> list[Finding]:
    """Which tenants cannot export any more, or soon."""
    if "job_api" not in services:
        return []
    async with acting_as(connection, "job_api_worker"):
        rows = await connection.fetch(
            """SELECT tenant, max(not_after) - now() AS last,
                      min(not_after) FILTER (WHERE not_after >= now()) - now() AS next,
                      count(*) FILTER (WHERE not_after < now()) AS expired
               FROM job_api.certificates GROUP BY tenant ORDER BY tenant"""
        )
    findings: list[Finding] = []
    if without := [row["tenant"] for row in rows if row["last"] < timedelta(0)]:
        message = f"all certificates have expired of {_names(without)}: encrypted runs fail"
        remedy = "let the tenant add a new one: POST /api/v1/certificates, or the console"
        findings.append(failed("certificates", "expired", message, remedy))
    if partly := [row["tenant"] for row in rows if row["expired"] and row["tenant"] not in without]:
        message = f"some certificates have expired of {_names(partly)}: files are not encrypted for them any more"
        findings.append(warning("certificates", "expired", message, "let the tenant replace or remove them"))
    sooner = timedelta(0)
    for limit in EXPIRES_WITHIN:
        soon = [row["tenant"] for row in rows if row["next"] is not None and sooner <= row["next"] < limit]
        if soon:
            message = f"a certificate expires within {limit.days} days of {_names(soon)}"
            findings.append(warning("certificates", f"{limit.days} days", message, "let the tenant add its successor"))
        sooner = limit
    return findings or [ok("certificates", "tenants", f"none of {len(rows)} tenants has one that expires in 30 days")]


async def _partitions(connection: DirectConnection, services: Sequence[str]) -> list[Finding]:
    """Whether history has a place for this month's rows, and for the next one's."""
    if "history" not in services:
        return []
    async with acting_as(connection, "history_worker"):
        rows = await connection.fetch(
            """SELECT month, array_agg(parent.relname::text ORDER BY parent.relname) AS tables
               FROM pg_partitioned_table
               JOIN pg_class parent ON parent.oid = partrelid AND parent.relnamespace = 'history'::regnamespace
               CROSS JOIN (VALUES (0), (1)) AS ahead (month)
               WHERE to_regclass(format('history.%I', parent.relname || '_'
                       || to_char(date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => month),
                                  'YYYY_MM'))) IS NULL
               GROUP BY month ORDER BY month"""
        )
    remedy = "see that history runs: it makes them every 10 min, two months ahead, unless a reader locks the table"
    this, following = "this month's rows", "next month's rows"
    return [
        failed("history", "partitions", f"there is no place for {this} in {_names(row['tables'])}", remedy)
        if row["month"] == 0
        else warning(
            "history", "partitions", f"there is no place yet for {following} in {_names(row['tables'])}", remedy
        )
        for row in rows
    ] or [ok("history", "partitions", "this month and the next have theirs")]


@asynccontextmanager
async def acting_as(connection: DirectConnection, role: str) -> AsyncGenerator[None]:
    """See the rows of all tenants, as the service's loops do: row-level security binds the owner of the tables, too."""
    async with connection.transaction(readonly=True):
        await connection.execute(f"SET LOCAL ROLE {role}")
        yield


def _where_there_is_a_schema(check: str, run: "Run") -> "Run":
    """Leave it to the check of the schema to say that there is none."""

    async def checked(connection: DirectConnection, services: Sequence[str]) -> Iterable[Finding]:
        try:
            return await run(connection, services)
        except NO_SCHEMA:
            return [warning(check, "tables", "not checked: tables or roles are missing", "see the schema's finding")]

    return checked


Run = Callable[[DirectConnection, Sequence[str]], Awaitable[Iterable[Finding]]]
NO_SCHEMA: Final = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.InvalidParameterValueError,  # SET ROLE says so of a role that does not exist
    asyncpg.UndefinedObjectError,
)


def _names(found: Sequence[str]) -> str:
    named = ", ".join(found[:_NAMED])
    return f"{named} and {len(found) - _NAMED:,} more" if len(found) > _NAMED else named


CHECKS: Final[Mapping[str, Run]] = {
    check: _where_there_is_a_schema(check, run)
    for check, run in (
        ("outbox", _outboxes),
        ("runs", _runs),
        ("schedules", _schedules),
        ("certificates", _certificates),
        ("history", _partitions),
    )
}
"""By what their findings are called."""
