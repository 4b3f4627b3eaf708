"""The service's HTTP API as every command uses it: queries that are repeated, and commands that may be.

A command is repeated like a query when its answer is lost, because it can't be done twice: what is posted carries an
`Idempotency-Key`, and what changes a version carries that version in `If-Match`.
"""

import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias, TypeVar
from uuid import uuid4

import httpx
import orjson

from cli.console import Exit, Failure

PAUSES_SECONDS: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Before each repetition; about a quarter of a minute, which covers the restart of a service."""
CHUNK_BYTES: Final = 1024**2
PAGE: Final = 200
"""As many as a list gives at once."""
_TIMEOUT: Final = httpx.Timeout(60, connect=10)
_SMALL_BYTES: Final = 256 * 1024**2
_AGAIN: Final = frozenset({429, 502, 503, 504})
_TELLS_WHAT_TO_DO: Final = frozenset({400, 409, 412, 413, 422, 428})
_GONE: Final = frozenset({404, 410})
_REMEDIES: Final = {
    401: "the access token is missing, expired or of another installation: get a new one and give it with --token or"
    " CDDS_TOKEN",
    403: "the access token may not do that: running, cancelling and downloading take the role operator, changing jobs"
    " and certificates the role admin",
    404: "there is no such thing for this tenant: check the id",
    410: "it was deleted when its retention ended: run the export again, or ask for a backfill",
}

_T = TypeVar("_T")
Parameter: TypeAlias = str | int | Sequence[str] | None
"""Of a query; None is none."""
Document: TypeAlias = Mapping[str, Any]
"""An object that the service answers."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A field that the service does not accept, and what to do about it."""

    pointer: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.pointer}: {self.message.rstrip('.')}. {self.remedy}"


class Refused(Failure):
    """The service answered that it won't: `slug` names the kind of problem, `problem` is all it said."""

    def __init__(self, what: str, status: int, problem: Document) -> None:
        self.status = status
        self.problem = problem
        self.slug = str(problem.get("type", "")).rpartition("/")[2]
        self.faults = _faults(problem.get("errors"))
        super().__init__(self._sentence(what))

    def _sentence(self, what: str) -> str:
        detail = str(self.problem.get("detail", ""))
        if self.faults:
            return "\n".join(map(str, self.faults))
        if detail and self.status in _TELLS_WHAT_TO_DO:
            return detail[:500]
        said = f" ({detail.rstrip('.')[:200]})" if detail else ""
        remedy = _REMEDIES.get(self.status, "check --url, or ask the operator")
        return f"{what}: the service answers {self.status}{said}: {remedy}"


class Interrupted(Exception):
    """Trying again may help."""


class Client(AbstractContextManager["Client"]):
    """One service, one tenant. Raises Failure for whatever it answers otherwise than it should.

    Threads may share one.
    """

    def __init__(self, url: str, token: str, pauses: Sequence[float] | None = None) -> None:
        if not re.match(r"https?://[^/]", url):
            raise Failure(f"{url} is no address: give one that begins with http:// or https://")
        token = token.strip()
        if not (token.isascii() and token.isprintable()):
            raise Failure("the access token has characters that no token has: check --token or CDDS_TOKEN")
        self._url = url.rstrip("/").removesuffix("/api/v1")
        self._pauses = PAUSES_SECONDS if pauses is None else pauses
        try:
            self._client = httpx.Client(
                base_url=f"{self._url}/api/v1",
                headers={"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"},
                timeout=_TIMEOUT,
            )
        except httpx.InvalidURL as error:
            raise Failure(f"{url} is no address: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    # --- queries ------------------------------------------------------------------------------------------------

    def json(self, path: str, **parameters: Parameter) -> Document:
        """The object that answers a query."""
        return self._object(self.content(path, **parameters))

    def items(self, path: str, *, first: int | None = None, **parameters: Parameter) -> Iterator[Document]:
        """The items of all pages of a list, or only the `first` of them."""
        after: dict[str, str] = {}
        left = first
        while left is None or left > 0:
            limit = PAGE if left is None else min(left, PAGE)
            page = self.json(path, **{"limit": limit, **parameters, **after})
            if not isinstance(page.get("items"), list) or "next" not in page:
                raise self.unlike()
            yield from page["items"] if left is None else page["items"][:left]
            if not page["next"]:
                return
            left = None if left is None else left - len(page["items"])
            after = {"after": page["next"]}

    def content(self, path: str, **parameters: Parameter) -> bytes:
        """A small answer as it is."""

        def read() -> bytes:
            with self.open(path, parameters) as answer:
                self.check(answer, path)
                return self._small(answer, path)

        return self.repeated(read)

    @contextmanager
    def open(
        self, path: str, parameters: Mapping[str, Parameter] | None = None, *,
        headers: Mapping[str, str] | None = None, timeout: httpx.Timeout = _TIMEOUT,
    ) -> Generator[httpx.Response]:  # fmt: skip
        """An answer to check, then to read as it comes; asked for once. Raises httpx.TransportError."""
        given = {name: value for name, value in (parameters or {}).items() if value is not None}
        with self._client.stream("GET", path, params=given, headers=headers, timeout=timeout) as answer:
            yield answer

    # --- commands -----------------------------------------------------------------------------------------------

    def post(self, path: str, body: object = None, *, version: int | None = None) -> Document:
        """What answers a command, which is done once however often it has to be sent."""
        return self._command("POST", path, body, {"Idempotency-Key": str(uuid4()), **_match(version)})

    def put(self, path: str, body: object, *, version: int) -> Document:
        """What answers the replacement of this version."""
        return self._command("PUT", path, body, _match(version))

    def patch(self, path: str, body: object, *, version: int) -> Document:
        """What answers a change of this version, a merge patch."""
        return self._command("PATCH", path, body, _match(version))

    def delete(self, path: str, *, version: int | None = None) -> Document:
        """What answers a deletion; one whose answer was lost may have been done, and is not sent for another answer."""
        return self._command("DELETE", path, None, _match(version))

    def _command(
        self, method: Literal["POST", "PUT", "PATCH", "DELETE"], path: str, body: object, headers: Mapping[str, str]
    ) -> Document:
        content = body if isinstance(body, bytes) else _encoded(body)
        types = {} if body is None or isinstance(body, bytes) else {"Content-Type": "application/json"}
        sent = 0

        def send() -> Document:
            nonlocal sent
            sent += 1
            with self._client.stream(method, path, content=content, headers={**headers, **types}) as answer:
                if method == "DELETE" and sent > 1 and answer.status_code in _GONE:
                    return {}
                self.check(answer, path)
                received = self._small(answer, path)
                return self._object(received) if received else {}

        return self.repeated(send)

    # --- what can go wrong --------------------------------------------------------------------------------------

    def repeated(self, ask: Callable[[], _T]) -> _T:
        """What `ask` gives, which is called again when it was interrupted."""
        pauses = self.pauses()
        while True:
            try:
                return ask()
            except (httpx.TransportError, Interrupted) as error:
                self.wait(next(pauses), error)

    def pauses(self) -> Iterator[float | None]:
        """What to give to `wait` after each interruption; None after the last that is waited for."""
        return iter((*self._pauses, None))

    def wait(self, pause: float | None, error: Exception) -> None:
        """Wait before the next attempt. Raises Failure when there is to be none."""
        if pause is None:
            reason = str(error) or type(error).__name__
            raise Failure(
                f"{self._url} does not answer ({reason}): check the address and the network, then try again",
                Exit.UNREACHABLE,
            ) from error
        time.sleep(pause)

    def check(self, answer: httpx.Response, what: str) -> None:
        """Raise Refused or Interrupted unless the answer is a good one."""
        status = answer.status_code
        if status in _AGAIN:
            raise Interrupted(f"it answers {status}")
        if not answer.is_success:
            raise Refused(what, status, _problem(answer))

    def unlike(self) -> Failure:
        """The failure when an answer has not the form that it should have."""
        return Failure(f"{self._url} does not answer like CDDS: check --url and the version of cdds")

    def _small(self, answer: httpx.Response, what: str) -> bytes:
        content = bytearray()
        for chunk in answer.iter_raw(CHUNK_BYTES):
            content += chunk
            if len(content) > _SMALL_BYTES:
                raise Failure(f"{self._url}{what}: the answer is far too large: check --url")
        return bytes(content)

    def _object(self, content: bytes) -> Document:
        try:
            answer = orjson.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self.unlike()
        return answer


def _match(version: int | None) -> Mapping[str, str]:
    return {} if version is None else {"If-Match": f'"{version}"'}


def _encoded(body: object) -> bytes:
    if body is None:
        return b""
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise Failure(f"this can't be sent to the service: {error}") from error


def _faults(errors: object) -> list[Fault]:
    if not isinstance(errors, list):
        return []
    told = [fault for fault in errors if isinstance(fault, dict)]
    return [Fault(*(str(fault.get(name, "")) for name in ("pointer", "message", "remedy"))) for fault in told]


def _problem(answer: httpx.Response) -> Document:
    """What problem details (RFC 9457) say; nothing when there are none."""
    try:
        problem = orjson.loads(answer.read())
    except (ValueError, httpx.TransportError):
        return {}
    return problem if isinstance(problem, dict) else {}
