"""Waiting for a store no longer than one has to, and saying in words why it failed."""

import asyncio
import errno
import os
import re
import threading
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from services.exporter.pipeline.errors import Cancelled, StoreFailed, StoreFull, StoreReadOnly, StoreUnreachable

T = TypeVar("T")

_POLL_SECONDS = 0.1
_FAREWELL_SECONDS = 1.0
"""With the poll and a busy machine, what is left of the 2 s that cancelling may take."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a store behind HTTP may take; a request ends after `retry_for`, a back-off and `request`: 130 s.

    Within that a store may restart, and 8 MiB may go at 140 kB/s. A run's own retries come after it.
    """

    connect: timedelta = timedelta(seconds=5)
    """obstore's own."""
    request: timedelta = timedelta(seconds=60)
    """From connecting to the last byte. obstore's 30 s would ask for 280 kB/s."""
    retries: int = 10
    """obstore's own. What can be repeated (all but bulk deletes) is, after 5xx, 429, time-outs and lost connections."""
    retry_for: timedelta = timedelta(seconds=60)
    """No retry begins later; obstore would go on for 180 s. Signatures are valid for 15 minutes."""
    longest_backoff: timedelta = timedelta(seconds=10)
    """Reached from 0.1 s by doubling with jitter; obstore's is 15 s."""

    def client_options(self) -> dict[str, Any]:
        return {"connect_timeout": self.connect, "timeout": self.request}

    def retry_config(self) -> dict[str, Any]:
        return {
            "max_retries": self.retries,
            "retry_timeout": self.retry_for,
            "backoff": {
                "init_backoff": min(timedelta(milliseconds=100), self.longest_backoff),
                "max_backoff": self.longest_backoff,
                "base": 2,
            },
        }


class Waiter:
    """Runs requests in an event loop beside the thread that waits for them, which may give up at any time.

    obstore's synchronous calls block in Rust where nothing reaches them; its futures can be dropped, and their
    connection with them. On leaving, what is still under way has a second, and then goes on behind.
    """

    def __init__(self, cancelled: Callable[[], bool]) -> None:
        self._cancelled = cancelled
        self._loop = asyncio.new_event_loop()
        # A daemon, so that a store that hangs can't keep the process.
        self._thread = threading.Thread(target=self._serve, name="object-store", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop_when_idle(), self._loop)
        self._thread.join(_FAREWELL_SECONDS)

    def wait(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` comes to; raises Cancelled, and drops it, as soon as that is asked for."""
        if self._cancelled():
            raise Cancelled
        future = self.start(work)
        while not wait([future], _POLL_SECONDS).done:
            if self._cancelled():
                future.cancel()
                raise Cancelled
        return future.result()

    def start(self, work: Callable[[], Awaitable[T]]) -> Future[T]:
        """Have `work` done without waiting for it."""

        async def run() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop)

    def _serve(self) -> None:
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()

    async def _stop_when_idle(self) -> None:
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)
        self._loop.stop()


@contextmanager
def explained(what: str) -> Generator[None]:
    """Raise StoreFailed for what the store or the disk says."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise _explanation(what, error) from error


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


def _explanation(what: str, error: Exception) -> StoreFailed:
    """The failure in words for people, without addresses: those stay in the cause, for the log.

    obstore has few types and puts the rest into its text: `(os error 28)`, `status code: 507`, `<Code>…</Code>`.
    """
    text = str(error)
    number = error.errno if isinstance(error, OSError) and error.errno else _number(r"\(os error (\d+)\)", text)
    status = _number(r"status code: (\d{3})", text)
    code = found.group(1) if (found := re.search(r"<Code>(\w+)</Code>", text)) else ""
    said = code or (f"HTTP {status}" if status else "")
    if number in _FULL:
        return StoreFull(f"{what}: {os.strerror(number)}")
    if number in _READ_ONLY:
        return StoreReadOnly(f"{what}: {os.strerror(number)}")
    if status == 507 or "StorageFull" in code or "Quota" in code:
        return StoreFull(f"{what}: {said}")
    if status in {401, 403} or isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return StoreReadOnly(f"{what}: {said or 'permission denied'}")
    if said == "NoSuchBucket":
        return StoreFailed(f"{what}: the bucket does not exist")
    if status in {429, 503} or code == "SlowDown":
        return StoreFailed(f"{what}: the file store is overloaded and asks to try again later ({said})")
    if said:
        return StoreFailed(f"{what}: the file store answered {said}")
    if number:
        return StoreFailed(f"{what}: {os.strerror(number)}")
    if isinstance(error, FileNotFoundError):
        return StoreFailed(f"{what}: it is not there any more")
    if "HTTP error" in text or "error sending request" in text or isinstance(error, TimeoutError | ConnectionError):
        return StoreUnreachable(what)
    return StoreFailed(f"{what}: {re.sub(r'https?://[^ )]+', '…', text.partition(chr(10))[0])}")


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found.group(1)) if found else 0
