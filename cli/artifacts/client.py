"""The service's HTTP API as a recipient uses it: queries that are repeated, and downloads that go on where they broke.

A download keeps what it has under `NAME.part` and asks for the rest (RFC 9110, Range with If-Range: a service that
has another file by then, or that knows no ranges, sends all of it). The hash says whether it is the right file before
it gets its name.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import httpx
import orjson

from cli.artifacts.unnamed import publish
from cli.console import Advance, Exit, Failure

PAUSES_SECONDS: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Before each repetition; about a quarter of a minute, which covers the restart of a service."""
_TIMEOUT: Final = httpx.Timeout(60, connect=10)
_CHUNK_BYTES: Final = 1024**2
_SMALL_BYTES: Final = 256 * 1024**2
_AGAIN: Final = frozenset({429, 502, 503, 504})
_REMEDIES: Final = {
    401: "the access token is missing, expired or of another installation: get a new one and give it with --token or"
    " CDDS_TOKEN",
    403: "the access token may not do that: downloading takes the role operator",
    404: "there is no such thing for this tenant: check the id",
    410: "it was deleted when its retention ended: run the export again, or ask for a backfill",
}


@dataclass(frozen=True, slots=True)
class Remote:
    """A file of the service; what is stored has this size and SHA-256."""

    id: str
    name: str
    size: int
    sha256: str


class Refused(Failure):
    """The service answered that it won't; `status` is the answer's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _Interrupted(Exception):
    """Trying again may help."""


class Client(AbstractContextManager["Client"]):
    """One service, one tenant. Raises Failure for whatever it answers otherwise than it should."""

    def __init__(self, url: str, token: str, pauses: Sequence[float] | None = None) -> None:
        if not re.match(r"https?://[^/]", url):
            raise Failure(f"{url} is no address: give one that begins with http:// or https://")
        self._url = url.rstrip("/").removesuffix("/api/v1")
        self._pauses = PAUSES_SECONDS if pauses is None else pauses
        self._client = httpx.Client(
            base_url=f"{self._url}/api/v1",
            headers={"Authorization": f"Bearer {token.strip()}", "Accept-Encoding": "identity"},
            timeout=_TIMEOUT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def json(self, path: str, **parameters: str | int) -> Mapping[str, Any]:
        """The object that answers a query."""
        content = self.content(path, **parameters)
        try:
            answer = orjson.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Failure(f"{self._url} does not answer like CDDS: check --url")
        return answer

    def items(self, path: str, **parameters: str | int) -> Iterator[Mapping[str, Any]]:
        """The items of all pages of a list."""
        after: dict[str, str] = {}
        while True:
            page = self.json(path, **parameters, **after)
            yield from page["items"]
            if not page["next"]:
                return
            after = {"after": page["next"]}

    def content(self, path: str, **parameters: str | int) -> bytes:
        """A small answer as it is."""
        pauses = iter((*self._pauses, None))
        while True:
            try:
                with self._client.stream("GET", path, params=parameters) as answer:
                    self._check(answer, path)
                    content = bytearray()
                    for chunk in answer.iter_raw(_CHUNK_BYTES):
                        content += chunk
                        if len(content) > _SMALL_BYTES:
                            raise Failure(f"{self._url}{path}: the answer is far too large: check --url")
                    return bytes(content)
            except (httpx.TransportError, _Interrupted) as error:
                self._wait(next(pauses), error)

    def download(self, remote: Remote, folder: Path, advance: Advance) -> Path:
        """Bring a file into the folder; it has its name only when it is complete and its SHA-256 is right."""
        temporary = folder / f"{remote.name}.part"
        with temporary.open("ab+") as file:
            partial = _Partial(file, advance)
            partial.resume(remote.size)
            kept = partial.size
            self._complete(partial, remote)
            if kept and partial.sha256 != remote.sha256:  # what was kept may have been damaged here
                partial.restart()
                self._complete(partial, remote)
            file.flush()
            os.fsync(file.fileno())
        if partial.sha256 != remote.sha256:
            temporary.unlink()
            raise Failure(
                f"{remote.name}: what the service sends has another SHA-256 than it should; nothing was kept: try"
                " again, then tell the operator",
                Exit.VERIFICATION,
            )
        final = folder / remote.name
        publish(temporary, final)
        return final

    def _complete(self, partial: "_Partial", remote: Remote) -> None:
        pauses, before = iter((*self._pauses, None)), partial.size
        while partial.size < remote.size:
            try:
                self._append(partial, remote)
            except (httpx.TransportError, _Interrupted) as error:
                if partial.size >= before + _CHUNK_BYTES:
                    pauses, before = iter((*self._pauses, None)), partial.size
                self._wait(next(pauses), error)

    def _append(self, partial: "_Partial", remote: Remote) -> None:
        have = partial.size
        headers = {"Range": f"bytes={have}-", "If-Range": f'"{remote.sha256}"'} if have else {}
        with self._client.stream("GET", f"/files/{remote.id}", headers=headers) as answer:
            continues = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if have and (answer.status_code == 416 or (answer.status_code == 206 and not continues)):
                partial.restart()
                raise _Interrupted("it does not have the rest of the file")
            self._check(answer, remote.name)
            if have and answer.status_code != 206:
                partial.restart()
            for (
                chunk
            ) in answer.iter_raw():  # as it comes: what waits for a larger chunk would be lost with the connection
                if partial.size + len(chunk) > remote.size:
                    partial.restart()
                    raise Failure(
                        f"{remote.name}: the service sends more than the {remote.size} bytes that it should: tell its"
                        " operator",
                        Exit.VERIFICATION,
                    )
                partial.add(chunk)
        if partial.size < remote.size:
            raise _Interrupted(f"{remote.name} ended after {partial.size} of {remote.size} bytes")

    def _check(self, answer: httpx.Response, what: str) -> None:
        status = answer.status_code
        if status in _AGAIN:
            raise _Interrupted(f"it answers {status}")
        if status not in (200, 206):
            remedy = _REMEDIES.get(status, "check --url, or ask the operator")
            raise Refused(f"{what}: the service answers {status}{_detail(answer)}: {remedy}", status)

    def _wait(self, pause: float | None, error: Exception) -> None:
        if pause is None:
            reason = str(error) or type(error).__name__
            raise Failure(
                f"{self._url} does not answer ({reason}): check the address and the network, then try again; what was"
                " fetched is kept",
                Exit.UNREACHABLE,
            ) from error
        time.sleep(pause)


class _Partial:
    """A file that grows at its end, and the SHA-256 of what it holds."""

    def __init__(self, file: BinaryIO, advance: Advance) -> None:
        self._file = file
        self._advance = advance
        self._digest = sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def resume(self, limit: int) -> None:
        """Take up what an earlier call left, unless that is more than the file will have."""
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK_BYTES):
            self._count(chunk)
        if self.size > limit:
            self.restart()

    def add(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._count(chunk)

    def restart(self) -> None:
        """Begin again with nothing."""
        self._file.truncate(0)
        self._advance(-self.size)
        self._digest = sha256()
        self.size = 0

    def _count(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self.size += len(chunk)
        self._advance(len(chunk))


def _detail(answer: httpx.Response) -> str:
    """What problem details (RFC 9457) say, in brackets."""
    try:
        detail = orjson.loads(answer.read())["detail"]
    except (ValueError, KeyError, TypeError, httpx.TransportError):
        return ""
    return f" ({str(detail).rstrip('.')[:200]})"
