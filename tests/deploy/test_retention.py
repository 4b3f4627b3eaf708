"""What docs/operate/retention.md says is true: nothing of a tenant that left is left, and every table has its say."""

import re

import asyncpg

from deploy.local.postgres import EmbeddedPostgres
from shared import migration
from tests.conftest import PUBLISHES, fresh_database
from tests.deploy.panels import ROOT

DOCUMENTATION = (ROOT / "docs/operate/retention.md").read_text()
OF_TENANTS = """
  SELECT c.table_schema || '.' || c.table_name AS name
  FROM information_schema.columns AS c JOIN pg_class ON oid = (c.table_schema || '.' || c.table_name)::regclass
  WHERE c.column_name = 'tenant' AND c.table_schema = ANY($1) AND relkind IN ('r', 'p') AND NOT relispartition"""


async def test_the_rows_of_a_tenant_that_leaves_are_deleted_from_every_table(postgres: EmbeddedPostgres) -> None:
    waits, deletes = re.findall(r"```sql\n(.*?)```", DOCUMENTATION, re.DOTALL)
    async with fresh_database(postgres) as dsn:
        for service, outbox in PUBLISHES.items():
            await migration.migrate(dsn, service, outbox=outbox)
        connection = await asyncpg.connect(dsn)
        try:
            assert tuple(await connection.fetchrow(waits.replace(":'tenant'", "'acme'")) or ()) == (0, 0)
            await connection.execute(deletes.replace(":'tenant'", "'acme'"))
            tables = {row["name"] for row in await connection.fetch(OF_TENANTS, list(PUBLISHES))}
        finally:
            await connection.close()
    assert tables == set(re.findall(r"DELETE FROM (\S+)", deletes))


async def test_every_setting_of_a_retention_is_named() -> None:
    for service in ("job_api", "scheduler", "exporter"):
        settings = __import__(f"services.{service}.config", fromlist=["Settings"]).Settings
        for name in settings.model_fields:
            if "retention" in name:
                assert re.search(rf"[_`…]{name.upper()}\b", DOCUMENTATION), name
