"""What a customer does with a stack, in few words: submit, wait, download, verify, decrypt, unpack, read.

Nothing here trusts the services: signatures, hashes and counts are checked with other libraries than theirs, and the
files are opened with stock tools where the machine has them.
"""

import asyncio
import base64
import json
import shutil
import subprocess
import zipfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import asyncpg
import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)
from cryptography.x509.oid import NameOID

from deploy.local.data import END, START
from deploy.local.stack import DATABASE, Stack
from services.exporter.pipeline.cms import unseal
from shared.clock import utc_text

T = TypeVar("T")
Row = dict[str, Any]

PATIENCE = timedelta(seconds=60)
TERMINAL = ("succeeded", "failed", "cancelled")

JOB: Row = {
    "title": "Interactions of the quarter",
    "source": "ucs",
    "type": "interaction",
    "schedule": {"kind": "once"},
    "start": "immediately",
    "timeframe": {"kind": "fixed", "from": utc_text(START), "to": utc_text(END)},
    "retry": {"attempts": 10, "backoff": "PT0.5S"},
}
"""A one-time job over all generated interactions; patient enough for several kills."""


async def eventually(
    look: Callable[[], Awaitable[T | None]], *, within: timedelta = PATIENCE, what: str = "the condition"
) -> T:
    """What `look` gives as soon as it is neither None nor false; fails after `within`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within.total_seconds()
    while True:
        if found := await look():
            return found
        assert loop.time() < deadline, f"{what}: not within {within.total_seconds():g} s"
        await asyncio.sleep(0.1)


class Recipient:
    """Somebody with an RSA key and its certificate, for whom exports are encrypted."""

    def __init__(self, name: str, valid_for: timedelta = timedelta(days=90)) -> None:
        self.key = rsa.generate_private_key(65537, 3072)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + valid_for)
            .sign(self.key, hashes.SHA256())
        )
        self.pem = self.certificate.public_bytes(Encoding.PEM)
        self.fingerprint = self.certificate.fingerprint(hashes.SHA256()).hex()

    def open(self, sealed: bytes) -> bytes:
        """The zip inside a sealed part."""
        if shutil.which("openssl") is None:
            return b"".join(unseal(BytesIO(sealed), self.key, self.certificate))
        with TemporaryDirectory(prefix="cdds-test-") as folder:
            key, source, target = (Path(folder) / name for name in ("key.pem", "part.p7m", "part.zip"))
            key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            source.write_bytes(sealed)
            command = ["openssl", "cms", "-decrypt", "-binary", "-inform", "DER", "-in", source, "-inkey", key]
            ended = subprocess.run([*command, "-out", target], capture_output=True, check=False)
            assert ended.returncode == 0, ended.stderr
            return target.read_bytes()


@dataclass(frozen=True, slots=True)
class Export:
    """A downloaded, verified and decrypted run."""

    manifest: Row
    parts: list[Row]
    lines: list[bytes]
    attachments: list[bytes]

    def rows(self) -> Iterator[Row]:
        """The exported rows, in order; numbers with a point keep their digits."""
        decode = json.JSONDecoder(parse_float=Decimal).decode
        return (decode(line.decode()) for line in self.lines)


class Tenant:
    """One tenant's administrator at the console."""

    def __init__(self, name: str, recipient: Recipient, api: httpx.AsyncClient) -> None:
        self.name = name
        self.recipient = recipient
        self.api = api

    async def read(self, path: str, **parameters: Any) -> httpx.Response:
        """The answer of a read that must succeed; asked again while the service is away, as its clients are told to."""

        async def ask() -> httpx.Response | None:
            answer = await self.api.get(path, params=parameters)
            return None if answer.status_code == 503 else answer

        answer = await eventually(ask, what=f"GET {path}")
        assert answer.status_code == 200, answer.text
        return answer

    async def get(self, path: str, **parameters: Any) -> Any:
        """The JSON answer of a read that must succeed."""
        return (await self.read(path, **parameters)).json()

    async def submit(self, **changes: Any) -> Row:
        """Submit `JOB` with `changes`, again while the service is away, as clients are told to; the accepted job.

        What is a function is called at each try.
        """

        async def ask() -> httpx.Response | None:
            now = {name: value() if callable(value) else value for name, value in changes.items()}
            answer = await self.api.post("/jobs", json={**JOB, **now})
            return None if answer.status_code == 503 else answer

        answer = await eventually(ask, what="POST /jobs")
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def shown(self, job: Row, **expected: object) -> Row:
        """The job once it shows `expected`; `run` is the state of its latest run."""

        async def look() -> Row | None:
            read: Row = await self.get(f"/jobs/{job['id']}")
            seen = {**read, "run": read["latest_run"] and read["latest_run"]["state"]}
            return read if all(seen[name] == value for name, value in expected.items()) else None

        return await eventually(look, what=f"{expected} of {job['settings']['title']!r}")

    async def run_id(self, job: Row) -> str:
        """The only run of a job, as soon as it was requested."""

        async def look() -> str | None:
            latest = (await self.get(f"/jobs/{job['id']}"))["latest_run"]
            return latest and latest["id"]

        return await eventually(look, what=f"a run of {job['settings']['title']!r}")

    async def cancel(self, run_id: str) -> bool:
        """Order that a run shall end; False when it had ended before."""
        answer = await self.api.post(f"/runs/{run_id}/cancel")
        assert answer.status_code in (202, 409), answer.text
        return answer.status_code == 202

    async def executions(self, job_id: str) -> list[Row]:
        """All executions of a job that history knows, newest first."""
        return (await self.get("/executions", job_id=job_id, limit=200))["items"]

    async def finished(self, job: Row, *, count: int = 1, within: timedelta = PATIENCE) -> list[Row]:
        """The executions of `job` once `count` of them have ended."""

        async def look() -> list[Row] | None:
            ended = [e for e in await self.executions(job["id"]) if e["state"] in TERMINAL]
            return ended if len(ended) >= count else None

        return await eventually(look, within=within, what=f"{count} execution(s) of {job['settings']['title']!r}")

    async def succeeded(self, job: Row, *, within: timedelta = PATIENCE) -> Row:
        """The only execution of `job`, which must succeed."""
        executions = await self.finished(job, within=within)
        assert [(e["state"], e["message"]) for e in executions if e["state"] != "succeeded"] == []
        assert len(executions) == 1
        return executions[0]

    async def download(self, execution: Row) -> Export:
        """All files of a succeeded execution, held against the manifest in every respect."""
        manifest = await self._manifest(execution)
        artifacts = (await self.get(f"/executions/{execution['run_id']}"))["artifacts"]
        assert [a["file_name"] for a in artifacts] == [part["name"] for part in manifest["parts"]]
        assert sum(part["rows"] for part in manifest["parts"]) == manifest["rows"] == execution["rows"]
        lines: list[bytes] = []
        attachments: list[bytes] = []
        for artifact, part in zip(artifacts, manifest["parts"], strict=True):
            answer = await self.read(f"/files/{artifact['artifact_id']}")
            assert sha256(answer.content).hexdigest() == artifact["sha256"] == part["stored_sha256"]
            assert len(answer.content) == artifact["size_bytes"] == part["stored_bytes"]
            content = await asyncio.to_thread(self._content, answer.content, part)
            (attachments if part["entity"].endswith("-Attachment") else lines).extend(content.splitlines(keepends=True))
        return Export(manifest, manifest["parts"], lines, attachments)

    def _content(self, sealed: bytes, part: Row) -> bytes:
        archive = self.recipient.open(sealed)
        assert len(archive) == part["zip_bytes"]
        with zipfile.ZipFile(BytesIO(archive)) as unpacked:
            assert unpacked.namelist() == [part["entry"]]
            content = unpacked.read(part["entry"])
        assert sha256(content).hexdigest() == part["plain_sha256"]
        assert len(content) == part["plain_bytes"]
        assert content.count(b"\n") == part["rows"]
        return content

    async def _manifest(self, execution: Row) -> Row:
        answer = await self.read(f"/files/{execution['manifest_id']}")
        assert sha256(answer.content).hexdigest() == execution["manifest_sha256"]
        manifest: Row = answer.json()
        signature = manifest["signature"]
        unsigned = {name: value for name, value in manifest.items() if name != "signature"}
        canonical = json.dumps(unsigned, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        (pem,) = [
            key["pem"]
            for key in (await self.get("/files/signing-keys"))["items"]
            if key["key_id"] == signature["key_id"]
        ]
        key = load_pem_public_key(pem.encode())
        assert isinstance(key, Ed25519PublicKey)
        key.verify(base64.b64decode(signature["value"]), canonical)
        assert (manifest["run"], manifest["tenant"]) == (execution["run_id"], self.name)
        assert (manifest["attempt"], manifest["snapshot"]) == (execution["attempt"], execution["snapshot"])
        assert self.recipient.fingerprint in manifest["recipients"]
        return manifest


@asynccontextmanager
async def tenant(stack: Stack, name: str = "acme", valid_for: timedelta = timedelta(days=90)) -> AsyncGenerator[Tenant]:
    """An administrator of tenant `name`, whose certificate is known to every service."""
    recipient = Recipient(name, valid_for)
    token = stack.secrets.token(tenant=name, role="admin", subject=f"tester@{name}")
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=f"{stack.url}/api/v1", headers=headers, timeout=30) as api:
        answer = await api.post("/certificates", content=recipient.pem)
        assert answer.status_code == 201, answer.text
        yield Tenant(name, recipient, api)


class Load:
    """Jobs submitted at a steady pace, whatever happens to the stack meanwhile."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.refused = 0
        """Answers that said: away, try again."""
        self.wrong: list[str] = []
        """Answers that must not be."""

    def note(self, answer: httpx.Response) -> None:
        if answer.status_code == 201:
            self.accepted.append(answer.json()["id"])
        elif answer.status_code == 503 and answer.headers["content-type"] == "application/problem+json":
            self.refused += 1
        else:
            self.wrong.append(f"{answer.status_code} {answer.text}")

    async def assert_all_succeeded(self, stack: Stack) -> None:
        """Every accepted job has exactly one run, which succeeded, and nothing was answered wrongly."""
        assert self.wrong == []
        assert self.accepted != []

        async def look() -> bool:
            ended = await fetch(
                stack,
                "SELECT job_id::text FROM exporter.runs WHERE state = 'succeeded' AND job_id = ANY($1::uuid[])",
                self.accepted,
            )
            return sorted(row["job_id"] for row in ended) == sorted(self.accepted)

        try:
            await eventually(look, within=timedelta(minutes=3), what=f"{len(self.accepted)} jobs under load")
        except AssertionError as error:
            raise AssertionError(f"{error}; {await self._how_far(stack)}") from None

    async def _how_far(self, stack: Stack) -> str:
        """How many of the accepted jobs have come how far, with one of each."""
        stages = await fetch(
            stack,
            """SELECT stage, count(*) AS jobs, min(id::text) AS one FROM (
                 SELECT id, CASE
                   WHEN NOT EXISTS (SELECT FROM job_api.jobs j WHERE j.id = accepted.id) THEN 'not stored'
                   WHEN NOT EXISTS (SELECT FROM scheduler.schedules s WHERE s.job_id = accepted.id)
                     THEN 'unknown to the scheduler'
                   WHEN NOT EXISTS (SELECT FROM scheduler.slots s WHERE s.job_id = accepted.id) THEN 'without slot'
                   ELSE coalesce(
                     (SELECT string_agg(r.state, ' and ') FROM exporter.runs r WHERE r.job_id = accepted.id),
                     'without run'
                   ) END AS stage
                 FROM unnest($1::uuid[]) accepted (id)) told GROUP BY stage ORDER BY stage""",
            self.accepted,
        )
        return ", ".join(f"{row['jobs']} {row['stage']} (as {row['one']})" for row in stages)


@asynccontextmanager
async def load(who: Tenant, pause: timedelta = timedelta(seconds=0.3), **changes: Any) -> AsyncGenerator[Load]:
    """Submit a job every `pause` while inside."""
    submitted = Load()
    over = asyncio.Event()

    async def submit() -> None:
        while not over.is_set():
            submitted.note(await who.api.post("/jobs", json={**JOB, **changes}))
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), pause.total_seconds())

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(submit())
        try:
            yield submitted
        finally:
            over.set()


async def fetch(stack: Stack, query: str, *arguments: object, database: str = DATABASE) -> list[asyncpg.Record]:
    """Rows of the stack's PostgreSQL, as its superuser; `SOURCES_DATABASE` has the sources."""
    connection = await asyncpg.connect(stack.dsn(database))
    try:
        return await connection.fetch(query, *arguments)
    finally:
        await connection.close()


async def execute(stack: Stack, *statements: str, database: str = DATABASE) -> None:
    """Run statements in the stack's PostgreSQL, as its superuser."""
    connection = await asyncpg.connect(stack.dsn(database))
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
