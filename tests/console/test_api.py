"""Forwarding, over real connections on both sides."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from deploy.local.processes import free_port
from services.console import api
from shared.http import MAX_BODY_BYTES, create_app

OWNERS = {"jobs": "job_api", "files": "exporter", "executions": "history"}
MEBIBYTE = 1024**2


@asynccontextmanager
async def served(app: Any, port: int = 0) -> AsyncGenerator[str]:
    """The base URL of `app`, reachable at once: connections wait in the socket until the server takes them."""
    with socket.create_server(("127.0.0.1", port)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", server_header=False))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


class Upstream:
    """A service that repeats what it was sent, or streams as the test directs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.go_on = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["raw_path"].decode()
        if path.endswith("/large"):
            await self._stream(send, [bytes([n]) * MEBIBYTE for n in range(16)])
        elif path.endswith("/slow"):
            await self._slow(send)
        elif path.endswith("/broken"):
            await self._broken(send)
        elif path.endswith("/endless"):
            await self._endless(receive, send)
        else:
            await self._repeat(scope, receive, send)

    async def _repeat(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        query = dict(part.split("=") for part in scope["query_string"].decode().split("&") if "=" in part)
        told = {
            "service": self.name,
            "method": scope["method"],
            "path": scope["raw_path"].decode(),
            "query": scope["query_string"].decode(),
            "headers": [(name.decode(), value.decode()) for name, value in scope["headers"]],
            "body": body.decode(),
        }
        headers = [(b"content-type", b"application/x-told"), (b"etag", b'"7"'), (b"x-hop", b"1"), (b"x-end", b"1")]
        headers += [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"connection", b"x-hop")]
        await send({"type": "http.response.start", "status": int(query.get("status", 200)), "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(told).encode()})

    async def _stream(self, send: Any, chunks: list[bytes]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})

    async def _slow(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await self.go_on.wait()
        await send({"type": "http.response.body", "body": b"second"})

    async def _broken(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})

    async def _endless(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left.set()


@pytest.fixture(scope="module")
async def upstreams() -> dict[str, Upstream]:
    return {name: Upstream(name) for name in OWNERS.values()}


@pytest.fixture(scope="module")
async def console(upstreams: dict[str, Upstream]) -> AsyncIterator[str]:
    """The base URL of a console before three services."""
    async with (
        served(upstreams["job_api"]) as jobs,
        served(upstreams["exporter"]) as files,
        served(upstreams["history"]) as executions,
        forwarding({"jobs": jobs, "files": files, "executions": executions}) as address,
    ):
        yield address


@asynccontextmanager
async def forwarding(owners: dict[str, str]) -> AsyncGenerator[str]:
    async with httpx.AsyncClient() as client:
        app = create_app("CDDS console", None, {})
        app.include_router(api.router(client, owners))
        async with served(app) as address:
            yield address


@pytest.fixture
async def client(console: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=console) as client:
        yield client


def assert_problem(answer: httpx.Response, status: int, slug: str) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["type"].rpartition("/")[2] == slug


def headers_of(answer: httpx.Response) -> dict[str, str]:
    """The request's headers as the service saw them."""
    return dict(answer.json()["headers"])


@pytest.mark.parametrize(("prefix", "service"), OWNERS.items())
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_a_request_reaches_the_owner_of_its_prefix_unchanged(
    client: httpx.AsyncClient, prefix: str, service: str, method: str
) -> None:
    body = "" if method in ("GET", "DELETE") else '{"title": "Zürich"}'
    sent = {"Authorization": "Bearer t", "If-Match": '"7"', "Idempotency-Key": "k", "Content-Type": "application/json"}

    answer = await client.request(
        method, f"/api/v1/{prefix}/a%2Fb%20c?limit=2&after=x%3D%3D&status=209", content=body.encode(), headers=sent
    )

    told = answer.json()
    assert answer.status_code == 209
    assert (told["service"], told["method"], told["body"]) == (service, method, body)
    assert (told["path"], told["query"]) == (f"/api/v1/{prefix}/a%2Fb%20c", "limit=2&after=x%3D%3D&status=209")
    assert headers_of(answer).items() >= {name.lower(): value for name, value in sent.items()}.items()
    assert (answer.headers["content-type"], answer.headers["etag"]) == ("application/x-told", '"7"')


@pytest.mark.parametrize("status", [201, 204, 302, 304, 404, 412, 500])
async def test_the_status_is_the_services(client: httpx.AsyncClient, status: int) -> None:
    answer = await client.get(f"/api/v1/jobs?status={status}")

    assert answer.status_code == status


async def test_headers_of_one_connection_stay_there(client: httpx.AsyncClient, console: str) -> None:
    answer = await client.get(
        "/api/v1/jobs",
        headers={"Connection": "keep-alive, X-Private", "X-Private": "1", "Keep-Alive": "9", "TE": "trailers"}
        | {"Proxy-Authorization": "Basic YTpi", "Upgrade": "h2c", "X-Public": "1"},
    )

    seen = headers_of(answer)
    assert seen["x-public"] == "1"
    assert not {"x-private", "keep-alive", "te", "proxy-authorization", "upgrade"} & seen.keys()
    assert f"http://{seen['host']}" != console
    assert "x-hop" not in answer.headers
    assert answer.headers["x-end"] == "1"


async def test_headers_that_come_twice_arrive_twice(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/jobs", headers=[("X-Many", "1"), ("X-Many", "2")])

    assert [value for name, value in answer.json()["headers"] if name == "x-many"] == ["1", "2"]
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert len(answer.headers.get_list("date")) == 1


async def test_nothing_is_asked_for_in_the_callers_name(client: httpx.AsyncClient) -> None:
    request = httpx.Request("GET", client.base_url.join("/api/v1/jobs"))

    seen = headers_of(await client.send(request))

    assert not {"accept", "accept-encoding", "user-agent"} & seen.keys()


async def test_a_large_answer_comes_whole(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/files/large")

    assert answer.content == b"".join(bytes([n]) * MEBIBYTE for n in range(16))


async def test_an_answer_is_passed_on_while_it_is_made(
    client: httpx.AsyncClient, upstreams: dict[str, Upstream]
) -> None:
    async with client.stream("GET", "/api/v1/executions/slow") as answer:
        pieces = answer.aiter_raw()
        assert await anext(pieces) == b"first"
        upstreams["history"].go_on.set()
        assert b"".join([piece async for piece in pieces]) == b"second"


async def test_a_caller_that_leaves_frees_the_service(
    client: httpx.AsyncClient, upstreams: dict[str, Upstream]
) -> None:
    async with client.stream("GET", "/api/v1/executions/endless") as answer:
        assert await anext(answer.aiter_raw()) == b"first"

    await upstreams["history"].left.wait()


async def test_a_body_is_passed_on_up_to_the_limit(client: httpx.AsyncClient) -> None:
    async def pieces(size: int) -> AsyncIterator[bytes]:
        for _ in range(size // MEBIBYTE):
            yield b"x" * MEBIBYTE

    answer = await client.post("/api/v1/jobs", content=pieces(MAX_BODY_BYTES))

    assert len(answer.json()["body"]) == MAX_BODY_BYTES
    assert_problem(await client.post("/api/v1/jobs", content=pieces(2 * MAX_BODY_BYTES)), 413, "too-large")


async def test_a_service_that_is_away_is_a_problem_and_the_others_answer(upstreams: dict[str, Upstream]) -> None:
    async with (
        served(upstreams["job_api"]) as jobs,
        forwarding({"jobs": jobs, "files": f"http://127.0.0.1:{free_port()}"}) as console,
        httpx.AsyncClient(base_url=console) as client,
    ):
        answer = await client.get("/api/v1/files/1")

        assert_problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"] == "5"
        assert (await client.get("/api/v1/jobs")).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/unknown/1",
        "/api/v1/",
        "/api/v1/job",
        "/metrics/jobs",
        "/api/v1/jobs/../../../metrics",
        "/api/v1/jobs/%2e%2e/%2e%2e/%2e%2e/metrics",
        "/api/v1/jobs/..%2f..%2f..%2fmetrics",
        "/api/v1/jobs/./1",
    ],
)
async def test_what_belongs_to_no_service_is_not_found(console: str, path: str) -> None:
    # Written by hand, because every client tidies paths up before it sends them.
    reader, writer = await asyncio.open_connection(*console.removeprefix("http://").split(":"))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: console\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()

    assert answer.startswith("HTTP/1.1 404 ")
    assert "application/problem+json" in answer
    assert "/not-found" in answer


async def test_an_answer_that_breaks_off_is_not_passed_on_as_whole(client: httpx.AsyncClient) -> None:
    async with client.stream("GET", "/api/v1/files/broken") as answer:
        assert (answer.status_code, answer.headers["content-length"]) == (200, "10")
        with pytest.raises(httpx.RemoteProtocolError):
            await answer.aread()

    assert (await client.get("/api/v1/files/7")).status_code == 200


async def test_the_head_of_a_file_is_passed_on_without_a_body(client: httpx.AsyncClient) -> None:
    answer = await client.head("/api/v1/files/7")

    assert (answer.status_code, answer.headers["etag"], answer.content) == (200, '"7"', b"")
