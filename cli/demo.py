"""`cdds demo`: one export from a submitted job to compared rows, with nothing but stock tools on the receiving side.

It starts a stack of its own, or is told of an installation whose sample source it may fill.
"""

import asyncio
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import asyncpg
import httpx
import orjson
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cli.artifacts.manifests import KEYS_NAME
from cli.console import Exit, Failure, out
from cli.stack import IssuerOption, KeyOption, fill_sources, issued
from deploy.local import data as demo_data
from deploy.local.data import END, START
from deploy.local.processes import StartFailed
from deploy.local.secrets import ISSUER
from deploy.local.stack import SOURCES_DATABASE, AlreadyRunning, Options, Stack
from shared.clock import utc_text

EXPORT_PATIENCE_SECONDS = 120


def demo(
    data: Annotated[Path, typer.Option("--data", help="Folder for the demo; emptied first.")] = Path(".cdds/demo"),
    rows: Annotated[int, typer.Option(min=1, help="Interactions to generate.")] = 50_000,
    kafka: Annotated[str, typer.Option(help="embedded, apache, or HOST:PORT.")] = "embedded",
    url: Annotated[
        str | None, typer.Option(help="Address of an installation that runs, instead of a stack of its own.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help=f"There: a file with the DSN of its source `ucs`, in a database {SOURCES_DATABASE}."),
    ] = None,
    key: KeyOption = None,
    issuer: IssuerOption = ISSUER,
) -> None:
    """Export generated interactions and attachments, decrypt with stock tools, compare every row with the database.

    At an installation that runs (--url, --source and --key together), the sample data there is replaced.
    """
    _require_tools()
    if url is not None and (source is None or key is None):
        raise typer.BadParameter("--url needs --source and --key")
    shutil.rmtree(data, ignore_errors=True)
    started = time.monotonic()
    if url is not None and source is not None and key is not None:
        token = issued(key, issuer, tenant="acme", role="admin", subject="demo@acme", lifetime=timedelta(hours=1))
        asyncio.run(_demo_at(url, token, _sample(Path(source)), data, rows))
    else:
        try:
            asyncio.run(_demo(Options(data=data, kafka=kafka), rows))
        except (AlreadyRunning, StartFailed) as error:
            raise Failure(str(error)) from error
    out.print(
        f"\n[bold green]Done[/] in {time.monotonic() - started:.1f} s. Everything is in {data}/ .", highlight=False
    )


def _require_tools() -> None:
    """Fail clearly without OpenSSL 3 or unzip: the point of the demo is that stock tools read our files."""
    for tool in ("openssl", "unzip"):
        if shutil.which(tool) is None:
            raise Failure(f"the demo needs `{tool}`: install it with the system's package manager")
    version = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"OpenSSL (\d+)\.", version)
    if found is None or int(found[1]) < 3:
        raise Failure(f"the demo needs OpenSSL 3 or later; `openssl version` says: {version.strip()}")


async def _demo(options: Options, rows: int) -> None:
    async with _step("Starting PostgreSQL, Kafka and five services"):
        stack = await Stack(options, output=options.data / "logs" / "services.log").__aenter__()
    try:
        async with _step(f"Loading {rows:,} generated interactions"):
            await demo_data.create_schema(stack.dsn(SOURCES_DATABASE))
            await demo_data.load_interactions(stack.dsn(SOURCES_DATABASE), "ucs", rows=rows)
        token = stack.secrets.token(tenant="acme", role="admin", subject="demo@acme")
        await _export(stack.url, token, stack.dsn(SOURCES_DATABASE), options.data)
    finally:
        async with _step("Stopping"):
            await stack.__aexit__()


async def _demo_at(url: str, token: str, dsn: str, folder: Path, rows: int) -> None:
    async with _step(f"Loading {rows:,} generated interactions, contacts and flights"):
        await fill_sources(dsn, rows)
    await _export(url, token, dsn, folder)


def _sample(file: Path) -> str:
    """The DSN in the file; raises Failure for a database that is not there to be filled with sample data."""
    try:
        dsn = file.read_text().strip()
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}: name a file with the DSN of the sample source") from error
    if (database := urlsplit(dsn).path.removeprefix("/")) != SOURCES_DATABASE:
        raise Failure(f"{file} names the database {database!r}: the demo replaces rows in {SOURCES_DATABASE} only")
    return dsn


async def _export(url: str, token: str, dsn: str, folder: Path) -> None:
    """From a certificate to compared rows."""
    received = folder / "received"
    async with _step("Making a key pair and a certificate with openssl"):
        key, certificate = _key_pair(folder / "recipient")
    async with httpx.AsyncClient(
        base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=30
    ) as api:
        await _answer(api.post("/certificates", content=certificate.read_bytes()))
        job = await _answer(api.post("/jobs", json=_job()))
        out.print(f"  POST /jobs → job {job['id']}", highlight=False)
        execution = await _watch(api, job["id"])
        await _download(api, execution, received)
    async with _step("Verifying signature, hashes and row counts with `cdds artifacts verify`"):
        _run(sys.executable, "-m", "cli", "artifacts", "verify", received, "--key", key)
    async with _step("Decrypting with `openssl cms`, unpacking with `unzip`"):
        for sealed in sorted(received.glob("*.p7m")):
            _open(sealed, key)
    async with _step("Comparing every row with the database"):
        compared = await _compare(dsn, received)
    size = sum(file.stat().st_size for file in received.glob("*.p7m"))
    out.print(
        f"\n{compared:,} rows are equal. {execution['bytes'] / 1e6:,.1f} MB of JSON Lines travelled as"
        f" {size / 1e6:,.1f} MB in {execution['parts']} encrypted file(s).",
        highlight=False,
    )


def _job() -> dict[str, object]:
    return {
        "title": "Demo: all interactions",
        "source": "ucs",
        "type": "interaction",
        "schedule": {"kind": "once"},
        "start": "immediately",
        "timeframe": {"kind": "fixed", "from": utc_text(START), "to": utc_text(END)},
        "split_bytes": 4 * 1024 * 1024,
    }


def _key_pair(folder: Path) -> tuple[Path, Path]:
    folder.mkdir(parents=True)
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    _run(
        "openssl", "req", "-x509", "-newkey", "rsa:3072", "-noenc", "-days", "365", "-subj", "/CN=CDDS demo",
        "-keyout", key, "-out", certificate,
    )  # fmt: skip
    return key, certificate


async def _watch(api: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    """Show the run's progress until it ends; history may need a moment to hear of it."""
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=out) as bar:
        task = bar.add_task("requested", total=100, rows=0)
        for _ in range(EXPORT_PATIENCE_SECONDS * 5):
            page = await _answer(api.get("/executions", params={"job_id": job_id}))
            for execution in page["items"]:
                progress = execution["progress"] or {"percent": 0, "rows": 0}
                done = execution["state"] == "succeeded"
                bar.update(
                    task,
                    description=execution["state"],
                    completed=100 if done else progress["percent"],
                    rows=execution["rows"] if done else progress["rows"],
                )
                if done:
                    return execution
                if execution["state"] in ("failed", "cancelled"):
                    raise Failure(f"the run {execution['state']}: {execution['message']}")
            await asyncio.sleep(0.2)
    raise Failure(f"the run did not end within {EXPORT_PATIENCE_SECONDS} s")


async def _download(api: httpx.AsyncClient, execution: dict[str, Any], folder: Path) -> None:
    folder.mkdir()
    details = await _answer(api.get(f"/executions/{execution['run_id']}"))
    files = {
        f"export-{execution['run_id']}.manifest.json": execution["manifest_id"],
        f"export-{execution['run_id']}.schema.json": execution["schema_id"],
    }
    files |= {artifact["file_name"]: artifact["artifact_id"] for artifact in details["artifacts"]}
    for name, file_id in files.items():
        async with api.stream("GET", f"/files/{file_id}") as answer:
            answer.raise_for_status()
            with (folder / name).open("wb") as file:
                async for chunk in answer.aiter_bytes():
                    file.write(chunk)
        out.print(f"  GET /files/… → {name}", highlight=False, soft_wrap=True)
    (folder / KEYS_NAME).write_bytes((await api.get("/files/signing-keys")).raise_for_status().content)


def _open(sealed: Path, key: Path) -> None:
    archive = sealed.with_suffix("")
    _run("openssl", "cms", "-decrypt", "-inform", "DER", "-binary", "-in", sealed, "-inkey", key, "-out", archive)
    _run("unzip", "-q", "-o", archive, "-d", sealed.parent)


INTERACTIONS: Final = """SELECT "ixnId", to_json(i)::text FROM ucs.interactions i WHERE "tenantId" = 'acme'"""
ATTACHMENTS: Final = """
    SELECT a.id, (to_jsonb(a) || jsonb_build_object('content', replace(encode(content, 'base64'), E'\\n', '')))::text
    FROM ucs.attachments a WHERE tenantid = 'acme'"""


async def _compare(dsn: str, folder: Path) -> int:
    """Read the source again, without our code, and hold every line against it, in both directions."""
    attachments = set(folder.glob("Interaction-Attachment-*.jsonl"))
    interactions = set(folder.glob("Interaction-*.jsonl")) - attachments
    connection = await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})
    try:
        return await _compared(connection, INTERACTIONS, _exported(interactions, "ixnId")) + await _compared(
            connection, ATTACHMENTS, _exported(attachments, "id")
        )
    finally:
        await connection.close()


def _exported(files: Iterable[Path], key: str) -> dict[str, Any]:
    exported: dict[str, Any] = {}
    for file in files:
        for line in file.read_bytes().splitlines():
            row = orjson.loads(line)
            if exported.setdefault(row[key], row) is not row:
                raise Failure(f"row {row[key]} was exported twice", Exit.VERIFICATION)
    return exported


async def _compared(connection: Any, query: str, exported: dict[str, Any]) -> int:
    count = 0
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        async for key, text in connection.cursor(query, prefetch=5000):
            count += 1
            if exported.get(key) != orjson.loads(text):
                raise Failure(f"row {key} differs from the database", Exit.VERIFICATION)
    if count != len(exported):
        raise Failure(f"{len(exported)} rows were exported, the database has {count}", Exit.VERIFICATION)
    return count


async def _answer(request: Any) -> Any:
    answer: httpx.Response = await request
    if answer.is_error:
        raise Failure(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}")
    return answer.json()


def _run(*command: str | Path) -> None:
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise Failure(f"`{command[0]} {command[1]}` failed: {ended.stderr.strip()}", Exit.VERIFICATION)


@asynccontextmanager
async def _step(what: str) -> AsyncGenerator[None]:
    started = time.monotonic()
    with out.status(what):
        yield
    out.print(f"[green]✓[/] {what}  [dim]{time.monotonic() - started:.1f} s[/]", highlight=False)
