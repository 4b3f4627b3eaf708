"""A source that a test can stop at a chosen row, take away, and change under an export."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import asyncpg

from deploy.local.postgres import EmbeddedPostgres
from deploy.local.stack import Stack
from tests.system.driver import Row, Tenant, eventually, fetch

DATABASE = "lab"
ROWS = 300
# 8 kB that do not compress below 4 kB: a part of 64 KiB is about 14 rows.
WIDE_ROW = """i AS id, 'acme' AS tenant, timestamptz '2026-01-01' + i * interval '1 s' AS at,
              (SELECT string_agg(md5(i || '/' || j), '') FROM generate_series(1, 256) j) AS noise"""
NARROW_ROW = "i AS id, 'acme' AS tenant, timestamptz '2026-01-01' AS at, md5(i::text) AS note"


class Gate(IntEnum):
    """Where an export waits while the gate is closed."""

    MIDDLE = 1
    """Row 250 of `gated`: two batches were read, several parts are stored."""
    BEGIN = 2
    """Before the first row of `silent` and `counted`."""
    SMALL = 3
    """Row 10 of `changing`."""


TABLES = (
    # temp_file_limit is the server's answer to a query that would fill its disk.
    "CREATE ROLE reader LOGIN",
    "ALTER ROLE reader SET work_mem = '64kB'",
    "ALTER ROLE reader SET temp_file_limit = '128kB'",
    "CREATE SCHEMA lab",
    """CREATE FUNCTION lab.passes(gate int, number int, closed int) RETURNS boolean LANGUAGE plpgsql AS $$
       BEGIN
         IF number = closed THEN
           PERFORM pg_advisory_xact_lock_shared(gate);
         END IF;
         RETURN true;
       END $$""",
    f"CREATE TABLE lab.wide AS SELECT {WIDE_ROW} FROM generate_series(1, {ROWS}) i",
    f"CREATE TABLE lab.narrow AS SELECT {NARROW_ROW} FROM generate_series(1, 20000) i",
    f"CREATE TABLE lab.small AS SELECT {NARROW_ROW} FROM generate_series(1, 20) i",
    f"CREATE TABLE lab.changing AS SELECT {NARROW_ROW} FROM generate_series(1, 20) i",
    "ANALYZE",
    "GRANT USAGE ON SCHEMA lab TO reader",
    "GRANT SELECT ON ALL TABLES IN SCHEMA lab TO reader",
)

GATED = f"SELECT w.*, lab.passes({Gate.MIDDLE}, id, 250) AS passed FROM lab.wide w"
SILENT = f"SELECT * FROM lab.small WHERE lab.passes({Gate.BEGIN}, id, 1)"
CHANGING = f"SELECT c.*, lab.passes({Gate.SMALL}, id, 10) AS passed FROM lab.changing c"


def _type(name: str, rows: str, *more: str) -> str:
    return "\n".join(
        (
            f"types.{name}.title = 'Row'",
            f"types.{name}.{'query' if rows.startswith('SELECT') else 'table'} = '{rows}'",
            f"types.{name}.id_column = 'id'",
            f"types.{name}.time_column = 'at'",
            f"types.{name}.tenant_column = 'tenant'",
            *(f"types.{name}.{setting}" for setting in more),
        )
    )


def sources(dsn_file: Path) -> str:
    """The operator's file: `lab`, and `hasty`, the same without patience."""
    silent = _type("silent", SILENT)
    types = (
        _type("wide", "lab.wide"),
        _type("small", "lab.small"),
        _type("queried", "SELECT * FROM lab.small"),
        _type("changing", "lab.changing"),
        _type("sorted", "lab.narrow", "ordered = true"),
        _type("gated", GATED),
        silent,
        _type("counted", SILENT, "total = 'count'"),
        _type("gated_changing", CHANGING),
    )
    head = ("title = 'Laboratory'", f"dsn = 'file:{dsn_file}'")
    return "\n".join(
        ("[sources.lab]", *head, *types, "[sources.hasty]", *head, "statement_timeout = 'PT1S'", silent, "")
    )


@dataclass(frozen=True, slots=True)
class Lab:
    """A stack, a source server of its own, and a folder in which files hold the exporter at its failpoints."""

    stack: Stack
    server: EmbeddedPostgres
    holds: Path

    @property
    def dsn(self) -> str:
        """The source, for its owner."""
        return self.server.dsn(DATABASE)

    async def execute(self, *statements: str) -> None:
        """Run statements in the source, as its owner."""
        async with self.session() as connection:
            for statement in statements:
                await connection.execute(statement)

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Any]:
        """A connection of the source's owner; whatever it holds is let go, also when the server is gone."""
        connection: Any = await asyncpg.connect(self.dsn)
        try:
            yield connection
        finally:
            connection.terminate()

    @asynccontextmanager
    async def closed(self, gate: Gate) -> AsyncGenerator[None]:
        """Exports wait at `gate` while inside."""
        async with self.session() as connection:
            await connection.execute("SELECT pg_advisory_lock($1)", int(gate))
            yield

    async def waiting(self, kind: str) -> None:
        """Return once somebody waits for a lock of this kind in the source: `advisory` at a gate, or `relation`."""

        async def look() -> bool:
            async with self.session() as connection:
                return await connection.fetchval(
                    "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = $1 AND NOT granted)", kind
                )

        await eventually(look, what=f"somebody who waits for a lock: {kind}")

    @asynccontextmanager
    async def held(self, point: str) -> AsyncGenerator[None]:
        """Exports wait at a failpoint while inside; entered at once, see `arrived`."""
        (self.holds / point).touch()
        try:
            yield
        finally:
            (self.holds / point).unlink(missing_ok=True)
            (self.holds / f"{point}.held").unlink(missing_ok=True)

    async def arrived(self, point: str) -> None:
        """Return once an export waits at this failpoint."""

        async def look() -> bool:
            return (self.holds / f"{point}.held").exists()

        await eventually(look, what=f"somebody at {point}")

    def stored(self, run_id: str) -> list[Path]:
        """The objects of all attempts of a run."""
        return sorted(path for path in (self.stack.data / "objects" / run_id).glob("*/*") if path.is_file())

    async def parts(self, run_id: str) -> None:
        """Return once a part of the run is stored."""

        async def look() -> bool:
            return bool(self.stored(run_id))

        await eventually(look, what="a stored part")

    async def reaches(self, run_id: str, state: str) -> None:
        """Return once the exporter has the run in this state."""
        query = "SELECT FROM exporter.runs WHERE run_id = $1 AND state = $2"
        await eventually(lambda: fetch(self.stack, query, run_id, state), what=f"a run that is {state}")

    async def told(self, run_id: str, type_: str) -> list[Row]:
        """The events of one type that the exporter has written about a run, as rows with `reason` and `message`."""
        found = await fetch(
            self.stack,
            """SELECT value::json->>'reason' AS reason, value::json->>'message' AS message,
                      (value::json->>'attempt')::int AS attempt
               FROM exporter.outbox WHERE key = $1 AND type = $2 ORDER BY id""",
            run_id, f"cdds.{type_}.v1",
        )  # fmt: skip
        return [dict(row) for row in found]

    async def attempt_failed(self, run_id: str) -> Row:
        """How the first attempt of a run failed, as soon as it has."""

        async def look() -> list[Row]:
            return await self.told(run_id, "RunAttemptFailed")

        return (await eventually(look, what="a failed attempt"))[0]


async def submitted(acme: Tenant, type_: str, **changes: Any) -> Row:
    """A job over all rows of a type, that starts at once."""
    settings = {"source": "lab", "title": type_, "timeframe": {"kind": "all"}, "split_bytes": 64 * 1024, **changes}
    return await acme.submit(type=type_, **settings)


async def failed(acme: Tenant, job: Row) -> Row:
    """The only execution of a job, which must fail."""
    (execution,) = await acme.finished(job)
    assert execution["state"] == "failed", execution
    return execution
