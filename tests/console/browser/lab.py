"""A source whose exports can be watched: one type gives a row every few milliseconds, one takes minutes, one fails."""

from pathlib import Path
from typing import Final

import asyncpg

from deploy.local import stack

SLOW_ROWS: Final = 300
NAP_SECONDS: Final = 0.05

SOURCES: Final = """
[sources.lab]
title = "Laboratory"
dsn = "env:CDDS_SOURCE_UCS"

[sources.lab.types.slow]
title = "Slow"
table = "lab.slow"
id_column = "id"
time_column = "at"
tenant_column = "tenant"

[sources.lab.types.long]
title = "Long"
table = "lab.long"
id_column = "id"
time_column = "at"
tenant_column = "tenant"

[sources.lab.types.broken]
title = "Broken"
table = "lab.broken"
id_column = "id"
time_column = "at"
tenant_column = "tenant"
"""

_TABLES: Final = (
    "CREATE SCHEMA lab",
    # 8 kB, so that PostgreSQL sends each row by itself.
    f"""CREATE TABLE lab.wide AS
        SELECT i AS id, tenant, timestamptz '2026-01-01' + i * interval '1 s' AS at, repeat(md5(i::text), 256) AS noise
        FROM generate_series(1, {SLOW_ROWS}) AS i,
             (SELECT 'acme' AS tenant UNION ALL SELECT 'tenant-' || n FROM generate_series(1, 60) AS n) AS tenants""",
    "CREATE UNIQUE INDEX ON lab.wide (tenant, at, id)",
    "ANALYZE lab.wide",
    f"CREATE VIEW lab.slow AS SELECT *, pg_sleep({NAP_SECONDS})::text AS nap FROM lab.wide",
    # Longer than a test takes: what is to be cancelled must not end before.
    "CREATE VIEW lab.long AS SELECT *, pg_sleep(0.5)::text AS nap FROM lab.wide",
    "CREATE VIEW lab.broken AS SELECT *, 1 / (id - 7) AS ratio FROM lab.wide",
    "GRANT USAGE ON SCHEMA lab TO PUBLIC",
    "GRANT SELECT ON ALL TABLES IN SCHEMA lab TO PUBLIC",
)


def sources(folder: Path) -> Path:
    """The sources of the local stack and the laboratory, in a file of their own."""
    file = folder / "sources.toml"
    file.write_text(Path(stack.__file__).with_name("sources.toml").read_text() + SOURCES)
    return file


async def build(dsn: str) -> None:
    """Make its tables in the database of the sources."""
    connection = await asyncpg.connect(dsn)
    try:
        database = await connection.fetchval("SELECT current_database()")
        for statement in _TABLES:
            await connection.execute(statement)
        # Sorted rows come only after the last nap; in the order of the index each comes after its own.
        await connection.execute(f'ALTER DATABASE "{database}" SET enable_sort = off')
    finally:
        await connection.close()
