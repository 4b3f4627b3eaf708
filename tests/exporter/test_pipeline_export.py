import asyncio
import csv
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jsonschema_rs
import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from deploy.local.postgres import FAST_AND_UNSAFE, EmbeddedPostgres
from services.exporter.pipeline import (
    Cancelled,
    Content,
    Encryption,
    ObjectStore,
    Output,
    PipelineError,
    Result,
    SourceRefused,
    SourceUnavailable,
    StoreFailed,
    export,
)
from services.exporter.pipeline.cms import unseal
from services.exporter.pipeline.content import AS_IT_IS
from tests.conftest import fresh_database
from tests.exporter.queries import query
from tests.exporter.test_pipeline_cms import identity, openssl_decrypt, write_key
from tests.exporter.test_pipeline_smime import decrypt as openssl_smime_decrypt
from tests.exporter.test_pipeline_storage import files

RUN = "9c5b94b1-35ad-49bb-b118-8e8fc24abf80"
WRITTEN = datetime(2026, 3, 1, tzinfo=UTC)
ROWS = 5_000

# Wide rows of about 1.2 kB that shrink as real ones do; i stands for the row number.
WIDE = """
    SELECT i AS id, timestamptz '2026-01-01' + i * interval '1 second' AS at, 't1' AS tenant,
           (SELECT string_agg(md5(i::text || j), ' ') FROM generate_series(1, 12) j) AS hashes,
           repeat('Dear team, my parcel ' || i || ' is late. ', 15) AS text, jsonb_build_object('n', i) AS attributes
    FROM generate_series(1, {rows}) i
"""


@pytest.fixture(scope="module")
async def dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    async with fresh_database(postgres) as dsn:
        execute(
            dsn,
            "CREATE TABLE interaction AS" + WIDE.format(rows=ROWS),
            "CREATE VIEW long AS" + WIDE.format(rows=200_000),
            "CREATE VIEW stuck AS SELECT 1 AS id, timestamptz '2026-01-01' AS at, 't1' AS tenant "
            "FROM (SELECT pg_sleep(600) OFFSET 0) s",
        )
        yield dsn


@pytest.fixture(scope="module")
def recipient() -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    return identity("recipient")


def execute(dsn: str, *statements: Any) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@dataclass
class Attempt:
    """One export with the defaults of these tests; it remembers the progress that was reported."""

    dsn: str
    folder: Path
    recipients: tuple[x509.Certificate, ...]

    def __post_init__(self) -> None:
        self.store = ObjectStore(self.folder)
        self.progress: list[tuple[int, int, int | None]] = []

    def run(
        self,
        table: str = "interaction",
        *,
        split_bytes: int | None = None,
        encryption: Encryption = Encryption.GCM,
        content: Content = AS_IT_IS,
        at_progress: Callable[[], object] = lambda: None,
        cancelled: Callable[[], bool] = lambda: False,
        **changes: Any,
    ) -> Result:
        def report(rows: int, size: int, total: int | None) -> None:
            self.progress.append((rows, size, total))
            at_progress()

        return export(
            query(self.dsn, table, **changes),
            Output(RUN, split_bytes, WRITTEN, encryption, content),
            self.recipients,
            self.store,
            f"{RUN}/1",
            report,
            cancelled,
        )


@pytest.fixture
def attempt(dsn: str, tmp_path: Path, recipient: tuple[rsa.RSAPrivateKey, x509.Certificate]) -> Attempt:
    return Attempt(dsn, tmp_path / "store", (recipient[1],))


def opened(
    attempt: Attempt, result: Result, recipient: tuple[rsa.RSAPrivateKey, x509.Certificate]
) -> list[tuple[bytes, bytes]]:
    """Zip and content of each part, both checked against the record."""
    parts: list[tuple[bytes, bytes]] = []
    for part in result.parts:
        stored = b"".join(attempt.store.read(part.key))
        assert (len(stored), hashlib.sha256(stored).hexdigest()) == (part.stored_bytes, part.stored_sha256)
        zipped = b"".join(unseal(io.BytesIO(stored), *recipient))
        assert len(zipped) == part.zip_bytes
        with zipfile.ZipFile(io.BytesIO(zipped)) as file:
            assert file.testzip() is None
            assert file.namelist() == [part.entry]
            content = file.read(part.entry)
        assert (len(content), hashlib.sha256(content).hexdigest()) == (part.plain_bytes, part.plain_sha256)
        assert content.count(b"\n") == part.rows
        parts.append((zipped, content))
    return parts


def re_exported(dsn: str, table: str = "interaction") -> bytes:
    with psycopg.connect(dsn) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        statement: Any = f"SELECT row_to_json(t.*)::text || E'\\n' FROM {table} t ORDER BY at, id"
        return "".join(text for (text,) in connection.execute(statement)).encode()


def test_one_part_holds_every_row_of_an_independent_export(
    attempt: Attempt, recipient: tuple[rsa.RSAPrivateKey, x509.Certificate]
) -> None:
    result = attempt.run()

    ((_, content),) = opened(attempt, result, recipient)
    assert content == re_exported(attempt.dsn)
    assert (result.rows, result.total, result.bytes) == (ROWS, ROWS, len(content))
    assert result.snapshot.count(":") == 2
    (part,) = result.parts
    assert part.name == f"export-{RUN}-0001-of-0001.zip.p7m"
    assert part.entry == f"Interaction-{RUN}-0001.jsonl"
    assert part.key == f"{RUN}/1/0001"
    assert attempt.progress[-1] == (ROWS, result.bytes, ROWS)


@pytest.mark.parametrize("split_bytes", [20_000, 300_000])
def test_parts_keep_the_split_size_and_hold_every_row_once(
    attempt: Attempt, recipient: tuple[rsa.RSAPrivateKey, x509.Certificate], split_bytes: int
) -> None:
    result = attempt.run(split_bytes=split_bytes)

    parts = opened(attempt, result, recipient)
    assert len(parts) > 3
    assert all(len(zipped) <= split_bytes for zipped, _ in parts)
    assert b"".join(content for _, content in parts) == re_exported(attempt.dsn)
    assert result.parts[1].name == f"export-{RUN}-0002-of-{len(parts):04}.zip.p7m"
    assert len(files(attempt.folder)) == len(parts)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
@pytest.mark.skipif(shutil.which("unzip") is None, reason="needs the unzip program")
def test_stock_openssl_and_unzip_open_the_parts(
    attempt: Attempt, recipient: tuple[rsa.RSAPrivateKey, x509.Certificate], tmp_path: Path
) -> None:
    result = attempt.run(split_bytes=300_000)
    key = write_key(tmp_path, recipient[0])

    for part in result.parts:
        zipped = tmp_path / "part.zip"
        decrypted = openssl_decrypt(attempt.folder / part.key, key, zipped)
        assert decrypted.returncode == 0, decrypted.stderr
        tested = subprocess.run(["unzip", "-t", zipped], capture_output=True, check=False)
        assert tested.returncode == 0, tested.stdout
        subprocess.run(["unzip", "-q", zipped, "-d", tmp_path / "out"], check=True)

    contents = b"".join(path.read_bytes() for path in sorted((tmp_path / "out").iterdir()))
    assert contents == re_exported(attempt.dsn)


def test_no_rows_give_one_part_with_an_empty_file(
    attempt: Attempt, recipient: tuple[rsa.RSAPrivateKey, x509.Certificate]
) -> None:
    result = attempt.run(tenant="nobody")

    ((_, content),) = opened(attempt, result, recipient)
    assert content == b""
    assert (result.rows, result.total, len(result.parts)) == (0, 0, 1)
    assert attempt.progress == [(0, 0, 0)]


def test_a_row_of_20_megabytes_gets_its_own_part(
    attempt: Attempt, recipient: tuple[rsa.RSAPrivateKey, x509.Certificate]
) -> None:
    execute(
        attempt.dsn,
        "CREATE TABLE large AS SELECT i AS id, timestamptz '2026-01-01' AS at, 't1' AS tenant, "
        "repeat('x', CASE i WHEN 2 THEN 20000000 ELSE 10 END) AS text FROM generate_series(1, 3) i",
    )

    result = attempt.run("large", split_bytes=1_000_000)

    parts = opened(attempt, result, recipient)
    assert [part.rows for part in result.parts] == [1, 1, 1]
    assert len(json.loads(parts[1][1])["text"]) == 20_000_000


def test_1600_columns_with_a_cell_of_50_megabytes_come_whole_and_fulfil_the_schema(
    attempt: Attempt, recipient: tuple[rsa.RSAPrivateKey, x509.Certificate]
) -> None:
    columns = ", ".join(f"{number} AS c{number}" for number in range(1596))
    execute(
        attempt.dsn,
        "CREATE OR REPLACE VIEW widest AS SELECT 1 AS id, timestamptz '2026-01-01' AS at, 't1' AS tenant, "
        f"repeat('Zürich ', 6250000) AS large, {columns}",
    )

    result = attempt.run("widest")

    ((_, content),) = opened(attempt, result, recipient)
    assert len(content) > 50_000_000
    assert content == re_exported(attempt.dsn, "widest")
    assert len(result.entities["Interaction"].fields) == 1600
    assert jsonschema_rs.Draft7Validator(json.loads(result.schema)).is_valid(json.loads(content))


def test_plaintext_only_when_asked_for_and_never_with_recipients(attempt: Attempt) -> None:
    with pytest.raises(ValueError, match="none with 1 recipients"):
        attempt.run(encryption=Encryption.NONE)
    attempt.recipients = ()
    with pytest.raises(ValueError, match="gcm with 0 recipients"):
        attempt.run()

    (part,) = attempt.run(encryption=Encryption.NONE).parts

    assert part.name.endswith("-0001-of-0001.zip")
    with zipfile.ZipFile(attempt.folder / part.key) as file:
        assert file.read(part.entry) == re_exported(attempt.dsn)


def test_each_csv_part_begins_with_the_header_and_holds_whole_records(
    attempt: Attempt, recipient: tuple[rsa.RSAPrivateKey, x509.Certificate]
) -> None:
    execute(attempt.dsn, "CREATE OR REPLACE VIEW broken AS SELECT *, E'two\\nlines' AS lines FROM interaction")
    columns = ["id", "lines", "hashes"]

    result = attempt.run("broken", split_bytes=100_000, content=Content("csv"), fields=columns)

    ids: list[int] = []
    for part in result.parts:
        stored = io.BytesIO(b"".join(attempt.store.read(part.key)))
        with zipfile.ZipFile(io.BytesIO(b"".join(unseal(stored, *recipient)))) as file:
            content = file.read(part.entry)
        assert part.zip_bytes <= 100_000
        assert part.entry.endswith(".csv")
        assert (len(content), hashlib.sha256(content).hexdigest()) == (part.plain_bytes, part.plain_sha256)
        header, *records = csv.reader(io.StringIO(content.decode(), newline=""))
        assert header == columns
        assert len(records) == part.rows
        ids += [int(record[0]) for record in records]
    assert len(result.parts) > 3
    assert ids == list(range(1, ROWS + 1))
    assert result.entities["Interaction"].fields == columns


def test_no_rows_give_a_csv_with_only_its_header(
    attempt: Attempt, recipient: tuple[rsa.RSAPrivateKey, x509.Certificate]
) -> None:
    result = attempt.run(tenant="nobody", content=Content("csv"), fields=["id", "at"])

    (part,) = result.parts
    assert (part.rows, part.plain_bytes, result.rows) == (0, len(b"id,at\n"), 0)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
@pytest.mark.skipif(shutil.which("unzip") is None, reason="needs the unzip program")
def test_stock_openssl_smime_and_unzip_open_the_parts_of_the_old_profile(
    attempt: Attempt, recipient: tuple[rsa.RSAPrivateKey, x509.Certificate], tmp_path: Path
) -> None:
    result = attempt.run(split_bytes=300_000, encryption=Encryption.SMIME)
    key = write_key(tmp_path, recipient[0])

    for part in result.parts:
        assert part.name.endswith(f"-of-{len(result.parts):04}.zip.smime")
        decrypted = openssl_smime_decrypt(attempt.folder / part.key, key, tmp_path / "part.zip")
        assert decrypted.returncode == 0, decrypted.stderr
        subprocess.run(["unzip", "-q", tmp_path / "part.zip", "-d", tmp_path / "out"], check=True)

    contents = b"".join(path.read_bytes() for path in sorted((tmp_path / "out").iterdir()))
    assert contents == re_exported(attempt.dsn)


def test_progress_grows_and_knows_the_total(attempt: Attempt) -> None:
    attempt.run("long", interval_to=datetime(2026, 1, 1, 10, tzinfo=UTC))

    assert len(attempt.progress) > 2
    assert attempt.progress == sorted(attempt.progress)
    assert {total for _, _, total in attempt.progress} == {attempt.progress[-1][0]}


def test_cancelling_while_rows_flow_leaves_nothing(attempt: Attempt) -> None:
    with pytest.raises(Cancelled):
        attempt.run("long", split_bytes=1_000_000, cancelled=lambda: bool(attempt.progress))

    assert attempt.progress[-1][0] < 200_000
    assert files(attempt.folder) == []


def test_cancelling_while_the_source_is_silent(attempt: Attempt) -> None:
    with pytest.raises(Cancelled):
        attempt.run("stuck", cancelled=lambda: True)


def test_a_missing_column_is_refused_and_leaves_nothing(attempt: Attempt) -> None:
    with pytest.raises(SourceRefused, match="subject"):
        attempt.run(fields=["id", "subject"])

    assert files(attempt.folder) == []


async def test_a_source_killed_on_the_way_is_unavailable_and_leaves_nothing(attempt: Attempt) -> None:
    with TemporaryDirectory(prefix="cdds-test-", ignore_cleanup_errors=True) as folder:
        async with EmbeddedPostgres(Path(folder) / "postgres", settings=FAST_AND_UNSAFE) as server:
            attempt.dsn = server.dsn()
            execute(attempt.dsn, "CREATE VIEW long AS" + WIDE.format(rows=200_000))
            with pytest.raises(SourceUnavailable):
                await asyncio.to_thread(attempt.run, "long", split_bytes=1_000_000, at_progress=server.kill)
            await server.wait()

    assert files(attempt.folder) == []


def test_a_session_ended_by_the_administrator_is_unavailable(attempt: Attempt) -> None:
    def terminate() -> None:
        execute(
            attempt.dsn,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'cdds-exporter' AND datname = current_database()",
        )

    with pytest.raises(SourceUnavailable):
        attempt.run("long", at_progress=terminate)


def test_an_order_ends_an_export_that_waits_for_a_lock_before_it_has_begun(attempt: Attempt, dsn: str) -> None:
    with psycopg.connect(dsn) as somebody, psycopg.connect(dsn, autocommit=True) as onlooker:
        somebody.execute("LOCK TABLE interaction")

        def waits() -> bool:
            return bool(onlooker.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall())

        with pytest.raises(Cancelled):
            attempt.run(cancelled=waits, type_query="SELECT * FROM interaction", statement_timeout=timedelta(minutes=1))


def test_an_order_that_comes_while_the_last_part_is_stored_leaves_nothing(attempt: Attempt) -> None:
    write = attempt.store.write
    ordered = threading.Event()

    def slow(key: str, chunks: Any, _: Any) -> Any:
        stored = write(key, chunks)
        ordered.set()
        return stored

    attempt.store.write = slow  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        attempt.run(cancelled=ordered.is_set)

    assert files(attempt.folder) == []


def test_a_store_that_fails_leaves_nothing_and_keeps_other_attempts(attempt: Attempt) -> None:
    attempt.store.write(f"{RUN}/2/0001", [b"of a later attempt"])
    stored: list[str] = []
    write = attempt.store.write

    def failing(key: str, chunks: Any, cancelled: Any) -> Any:
        if stored:
            raise StoreFailed("disk full")
        stored.append(key)
        return write(key, chunks, cancelled)

    attempt.store.write = failing  # type: ignore[method-assign]
    with pytest.raises(PipelineError, match="disk full"):
        attempt.run(split_bytes=300_000)

    assert stored == [f"{RUN}/1/0001"]
    assert files(attempt.folder) == [f"{RUN}/2/0001"]


MEASURED = """
import resource, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tests.exporter.test_pipeline_cms import identity
from tests.exporter.test_pipeline_export import Attempt

attempt = Attempt(sys.argv[1], Path(sys.argv[2]), (identity("recipient")[1],))
rows = int(sys.argv[3])
result = attempt.run("long", interval_to=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=rows + 1))
assert result.rows == rows
sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
"""


@pytest.mark.parametrize(("point", "left"), [("first_row", 0), ("part_stored", 1)])
def test_a_process_can_be_killed_at_the_points_that_matter(
    attempt: Attempt, tmp_path: Path, point: str, left: int
) -> None:
    command = [sys.executable, "-c", MEASURED, attempt.dsn, str(tmp_path / "killed"), "1000"]
    environment = os.environ | {"CDDS_FAILPOINT": f"exporter.{point}"}

    killed = subprocess.run(command, check=False, env=environment, capture_output=True)

    assert killed.returncode == -signal.SIGKILL
    assert len(files(tmp_path / "killed")) == left


def test_memory_does_not_grow_with_the_rows(attempt: Attempt, tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        command = [sys.executable, "-c", MEASURED, attempt.dsn, str(tmp_path / str(rows)), str(rows)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert peak(200_000) < 1.3 * peak(20_000)
