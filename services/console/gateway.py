"""The services behind console: calls of theirs in the name of who is signed in, and answers that pass through."""

import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import httpx
import orjson
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse
from starlette.types import Send

from shared.observability import log

TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)

HOP_BY_HOP: Final = frozenset(
    {
        *("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
        *("proxy-authenticate", "proxy-authorization", "proxy-connection"),
        *("host", "date"),
    }
)
"""Headers that belong to one connection (RFC 9110, 7.6.1), and the two that our client and server write themselves."""

Headers = list[tuple[bytes, bytes]]
SOURCES_KEPT_SECONDS: Final = 60.0

Query = Mapping[str, Any]


class Away(Exception):
    """The service that answers this does not answer."""


class Refused(Exception):
    """A service refused; `problem` is its RFC 9457 body."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail", f"The service answered {status}.")))
        self.status = status
        self.problem = problem

    @property
    def slug(self) -> str:
        """What kind of problem it is, as `version-mismatch`."""
        return str(self.problem.get("type", "")).rpartition("/")[2]

    @property
    def errors(self) -> list[dict[str, str]]:
        """What is wrong with each field: pointer, message and remedy."""
        return list(self.problem.get("errors", []))


class Gateway:
    """Asks the owners of the API's prefixes; raises Away and Refused."""

    def __init__(self, client: httpx.AsyncClient, owners: Mapping[str, str]) -> None:
        self._client = client
        self._owners = owners
        self._sources: dict[str, tuple[float, list[dict[str, Any]]]] = {}

    async def get(self, token: str, path: str, query: Query | None = None) -> Any:
        """What a query answers; parameters that are None or empty are left out."""
        return _content(await self._request("GET", token, path, query))

    async def sources(self, tenant: str, token: str) -> list[dict[str, Any]]:
        """What a tenant may export, as it was within the last minute, for its owner asks each source for its fields.

        While the owner is away, what was known last; empty when nothing was.
        """
        asked_at, known = self._sources.get(tenant, (-SOURCES_KEPT_SECONDS, []))
        if time.monotonic() - asked_at >= SOURCES_KEPT_SECONDS:
            try:
                known = list((await self.get(token, "/sources"))["items"])
            except Away:
                return known
            self._sources[tenant] = time.monotonic(), known
        return known

    def titles(self, tenant: str) -> dict[str, str]:
        """The names that operators gave to the sources that this tenant's pages have shown."""
        return {source["name"]: source["title"] for source in self._sources.get(tenant, (0, []))[1]}

    async def send(
        self,
        method: str,
        token: str,
        path: str,
        body: object = None,
        *,
        content: bytes | None = None,
        version: int | None = None,
        key: str | None = None,
    ) -> Any:
        """What a command answers; `version` is the one that was read, `content` a body that is no JSON.

        The command is sent once, under an idempotency key of its own, unless `key` says which commands are the same.
        """
        headers = {"Idempotency-Key": key or str(uuid4())} if method == "POST" else {}
        if version is not None:
            headers["If-Match"] = f'"{version}"'
        if content is None and body is not None:
            content, headers["Content-Type"] = orjson.dumps(body), "application/json"
        return _content(await self._request(method, token, path, None, headers, content))

    async def stream(
        self,
        token: str,
        path: str,
        headers: Mapping[str, str],
        query: Query | None = None,
        *,
        silence: timedelta | None = None,
    ) -> httpx.Response:
        """An answer whose body is still to come; whoever gets it closes it. Raises Refused as every call does.

        A connection that says nothing for longer than `silence` is given up with httpx.ReadTimeout.
        """
        seconds = None if silence is None else silence.total_seconds()
        timeout = httpx.Timeout(None, connect=5.0, read=seconds)
        request = self._built("GET", token, path, query, headers, None, timeout=timeout)
        try:
            answer = await self._client.send(request, stream=True)
            if answer.is_success:
                return answer
            await answer.aread()
            await answer.aclose()
        except httpx.TransportError as error:
            raise Away(path) from error
        raise _refused(answer)

    async def _request(
        self,
        method: str,
        token: str,
        path: str,
        query: Query | None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        try:
            answer = await self._client.send(self._built(method, token, path, query, headers or {}, content))
        except httpx.TransportError as error:
            raise Away(path) from error
        if answer.is_success:
            return answer
        raise _refused(answer)

    def _built(
        self,
        method: str,
        token: str,
        path: str,
        query: Query | None,
        headers: Mapping[str, str],
        content: bytes | None,
        timeout: httpx.Timeout = TIMEOUT,
    ) -> httpx.Request:
        owner = self._owners[path.split("/")[1]]
        asked = {name: value for name, value in (query or {}).items() if value not in (None, "", [])}
        return self._client.build_request(
            method, f"{owner}/api/v1{path}", params=asked, content=content, timeout=timeout,
            headers={**headers, "Authorization": f"Bearer {token}"},
        )  # fmt: skip


class Passing(StreamingResponse):
    """Passes an answer on; when its service breaks off, so does the connection, and the client sees that."""

    async def stream_response(self, send: Send) -> None:
        """Send what comes; returning early makes the server close the connection."""
        try:
            await super().stream_response(send)
        except httpx.TransportError as error:
            log.warning("answer broke off", error=repr(error))


def passing(answer: httpx.Response) -> Passing:
    """A streamed answer as it is passed on."""
    response = Passing(answer.aiter_raw(), answer.status_code, background=BackgroundTask(answer.aclose))
    response.raw_headers = end_to_end(answer.headers.raw)
    return response


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers to pass on, each as often as it came; `Connection` may name more that belong to the connection."""
    found = [(name.lower(), value) for name, value in headers]
    named = {option.strip().lower() for name, value in found if name == b"connection" for option in value.split(b",")}
    return [(name, value) for name, value in found if name.decode("latin-1") not in HOP_BY_HOP and name not in named]


def _content(answer: httpx.Response) -> Any:
    return orjson.loads(answer.content) if answer.content else None


def _refused(answer: httpx.Response) -> Exception:
    if answer.status_code in (502, 503, 504):
        return Away(answer.url.path)
    try:
        problem = orjson.loads(answer.content)
    except ValueError:
        problem = {}
    return Refused(answer.status_code, problem if isinstance(problem, dict) else {})
