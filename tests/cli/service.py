"""A service that answers like CDDS: history's lists, the exporter's files with ranges, and faults on demand."""

import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Literal
from uuid import UUID, uuid5

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from shared.http import cursor, read_cursor
from tests.cli.exports import Installation, Run

TOKEN = "the token"
STORED = datetime.fromisoformat("2026-03-02T00:00:00Z")


@dataclass
class File:
    """What is served under an id; `etag` may be told otherwise than it is."""

    name: str
    content: bytes
    gone: bool = False


@dataclass
class Service:
    """The state of the service; tests change it, and look at `requests`."""

    installation: Installation
    also: list[Installation] = field(default_factory=list)
    """Whose keys are published, too."""
    files: dict[UUID, File] = field(default_factory=dict)
    executions: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    unknown: set[UUID] = field(default_factory=set)
    """Runs whose files are listed already."""
    ranges: bool = True
    answers: list[int] = field(default_factory=list)
    """Statuses of the next requests for files, before they are served again."""
    breaks: list[int] = field(default_factory=list)
    """After how many bytes the next downloads of parts break off."""
    arrived: list[Any] = field(default_factory=list)
    """The ids of artifacts in the order in which history heard of them."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range of every request."""
    url: str = ""

    def show(self, run: Run, *, stored_at: datetime = STORED, state: str = "succeeded") -> Run:
        """Publish a run: its files leave the folder it was made in."""
        artifacts: list[dict[str, Any]] = []
        for number, path in enumerate(run.parts, 1):
            artifact = uuid5(run.id, f"part/1/{number}")
            content = path.read_bytes()
            self.files[artifact] = File(path.name, content)
            artifacts.append(
                {
                    "artifact_id": artifact, "run_id": run.id, "job_id": run.job, "title": "Hourly", "source": "ucs",
                    "type": "interaction", "number": number, "file_name": path.name, "size_bytes": len(content),
                    "rows": 1, "sha256": sha256(content).hexdigest(), "stored_at": stored_at,
                    "expires_at": datetime.now(stored_at.tzinfo) + timedelta(days=30), "remaining_days": 30,
                    "deleted_at": None,
                }
            )  # fmt: skip
        self.files[uuid5(run.id, "manifest")] = File(run.manifest_path.name, run.manifest_path.read_bytes())
        self.files[uuid5(run.id, "schema")] = File(run.schema_path.name, run.schema_path.read_bytes())
        self.executions[run.id] = {
            "run_id": run.id, "job_id": run.job, "title": "Hourly", "state": state, "requested_at": stored_at,
            "manifest_id": uuid5(run.id, "manifest"), "manifest_sha256": run.sha256, "artifacts": artifacts,
        }  # fmt: skip
        return run

    def expire(self, run: Run) -> None:
        """Delete the parts of a run, as the exporter does; the manifest stays."""
        for artifact in self.executions[run.id]["artifacts"]:
            artifact["deleted_at"] = STORED
            self.files[artifact["artifact_id"]].gone = True

    def part_requests(self) -> list[tuple[str, str | None]]:
        """Downloads of parts: the id and the Range."""
        parts = {str(a["artifact_id"]) for e in self.executions.values() for a in e["artifacts"]}
        return [(path[-36:], range_) for path, range_ in self.requests if path[-36:] in parts]

    def _page(self, rows: list[dict[str, Any]], moment: str, key: str, limit: int, after: str | None) -> dict[str, Any]:
        rows = sorted(rows, key=lambda row: (row[moment], row[key]), reverse=True)
        if position := read_cursor(after):
            rows = [row for row in rows if (row[moment], row[key]) < position]
        last = rows[limit - 1] if len(rows) > limit else None
        return {"items": rows[:limit], "next": cursor(last[moment], last[key]) if last else None}

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def look(request: Request, follow: Any) -> Any:
            self.requests.append((request.url.path, request.headers.get("range")))
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                return problem(401, "The access token is not valid.")
            return await follow(request)

        @app.get("/api/v1/executions")
        async def list_executions(job_id: UUID, state: str, limit: int, after: str | None = None) -> Any:
            rows = [e for e in self.executions.values() if (e["job_id"], e["state"]) == (job_id, state)]
            return self._page(rows, "requested_at", "run_id", min(limit, 2), after)

        @app.get("/api/v1/executions/{run_id}")
        async def read_execution(run_id: UUID) -> Any:
            found = None if run_id in self.unknown else self.executions.get(run_id)
            return found or problem(404, "There is no such execution.")

        @app.get("/api/v1/artifacts")
        async def list_artifacts(order: Literal["arrival"], limit: int, after: int = 0) -> Any:
            known = {a["artifact_id"]: a for e in self.executions.values() for a in e["artifacts"]}
            self.arrived += [artifact for artifact in known if artifact not in self.arrived]
            page = self.arrived[after : after + min(limit, 3)]
            return {
                "items": [known[artifact] for artifact in page if artifact in known],
                "next": str(after + len(page)),
            }

        @app.get("/api/v1/files/signing-keys")
        async def list_signing_keys() -> Any:
            keys = [self.installation, *self.also]
            items = [{"key_id": key.key_id, "algorithm": "Ed25519", "pem": key.pem} for key in keys]
            return {"items": items, "next": None}

        @app.get("/api/v1/files/{file_id}")
        async def download_file(file_id: UUID, request: Request) -> Any:
            if self.answers and (status := self.answers.pop(0)) != 200:
                return problem(status, "As the test wants it.")
            file = self.files.get(file_id)
            if file is None:
                return problem(404, "There is no such file.")
            if file.gone:
                return problem(410, "The file was deleted when its retention ended.")
            return self._served(file, request)

        return app

    def _served(self, file: File, request: Request) -> Response:
        digest = sha256(file.content).hexdigest()
        headers = {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        content, status = file.content, 200
        asked = request.headers.get("range")
        if asked and "if-range" not in request.headers:
            return problem(400, "A range of which file?")
        if asked and self.ranges and request.headers.get("if-range", f'"{digest}"') == f'"{digest}"':
            first = int(asked.removeprefix("bytes=").removesuffix("-"))
            if first >= len(content):
                return Response(status_code=416, headers={"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            content, status = content[first:], 206
        headers["Content-Length"] = str(len(content))
        end = self.breaks.pop(0) if self.breaks and ".zip" in file.name else len(content)

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, min(end, len(content)), 1000):
                yield content[start : min(start + 1000, end)]
            # Fewer bytes than promised: the server closes the connection.

        return StreamingResponse(chunks(), status, headers, media_type="application/octet-stream")


def problem(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail, "status": status}, status, media_type="application/problem+json")


@contextmanager
def served(service: Service) -> Iterator[Service]:
    """The service on a free port, in a thread of its own."""
    config = uvicorn.Config(service.app(), port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    service.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield service
    finally:
        server.should_exit = True
        thread.join()
