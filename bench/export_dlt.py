"""The way of `make bench-export` by dlt, in the configuration that was fastest here; importing it needs dlt.

Of its backends, connectorx took 4.0 CPU s for 50,000 rows, sqlalchemy 5.0 and pyarrow 5.7; with two normalising
processes instead of one, each took longer. Importing dlt takes a second, so it happens before the clock starts.
"""

import os
from pathlib import Path
from typing import Any

# Unless told otherwise before it is imported, it reports its use, compresses, and warns of its own conversions.
os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
os.environ["DATA_WRITER__DISABLE_COMPRESSION"] = "true"
os.environ["NORMALIZE__DATA_WRITER__DISABLE_COMPRESSION"] = "true"
os.environ["NORMALIZE__WORKERS"] = "1"
os.environ["RUNTIME__LOG_LEVEL"] = "ERROR"

import dlt  # pyright: ignore[reportMissingImports] - an extra of its own
from dlt.sources.sql_database import sql_table  # pyright: ignore[reportMissingImports]

from bench.export_source import TENANT, Slice
from deploy.local.data import START

VERSION = dlt.__version__


def run_dlt(dsn: str, rows: Slice, folder: Path) -> None:
    """Plain JSON Lines by dlt."""

    def narrowed(query: Any, table: Any) -> Any:
        time = table.c["startDate"]
        return query.where(table.c["tenantId"] == TENANT, time >= START, time < rows.until)

    interactions = sql_table(
        dsn.replace("postgresql:", "postgresql+psycopg:"), "interactions", "ucs",
        backend="connectorx", backend_kwargs={"conn": dsn}, query_adapter_callback=narrowed,
    )  # fmt: skip
    interactions.max_table_nesting = 0
    target = dlt.destinations.filesystem(f"file://{folder / 'rows'}")
    pipeline = dlt.pipeline("bench", pipelines_dir=str(folder / "dlt"), destination=target, dataset_name="bench")
    pipeline.run(interactions, loader_file_format="jsonl")
