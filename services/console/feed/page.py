"""An open page and what is sent to it."""

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import orjson
from prometheus_client import Counter

from shared.observability import log
from shared.streaming import Queue

DROPPED: Final = Counter("cdds_live_pages_dropped", "Open pages that were let go because they were too slow")

RECONNECT_MILLISECONDS: Final = 2000
_LINE_BREAK: Final = re.compile(r"\r\n|\r|\n")
"""Only these: what else Unicode calls a line break may be in the middle of a title."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What open pages may cost, and how patient they are."""

    pages: int = 2000
    """At once, of this process."""
    waiting_frames: int = 100
    """For one page; the frames themselves are shared by all."""
    heartbeat: timedelta = timedelta(seconds=15)
    """Shorter than the minute after which most proxies give an idle connection up."""
    coalesce: timedelta = timedelta(milliseconds=250)
    linger: timedelta = timedelta(seconds=10)
    """How long a tenant is followed without a page: from one page to the next it takes less."""
    silence: timedelta = timedelta(seconds=45)
    """Three heartbeats of history; a connection that says nothing for so long is dead."""
    longest_backoff: timedelta = timedelta(seconds=15)


class Page(Queue):
    """One open page: what waits for its connection."""

    def __init__(
        self, tenant: str, token: str, zone: str, until: datetime, limits: Limits, leave: Callable[["Page"], None]
    ) -> None:
        super().__init__(limits.waiting_frames, until)
        self.tenant = tenant
        self.token = token
        self.zone = zone
        self._heartbeat = limits.heartbeat
        self._leave = leave

    def close(self) -> None:
        """Leave the feed."""
        self.clear()
        self._leave(self)

    def offer(self, data: bytes) -> None:
        """Let a frame wait for the connection; a page for which too many wait is let go."""
        if not self.ended.done() and not self.put(data):
            DROPPED.inc()
            log.info("a page is too slow for the live feed", tenant=self.tenant)
            self.end()

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The body of the response, without an end."""
        yield b"retry: %d\n\n" % RECONNECT_MILLISECONDS
        while True:
            yield self.take() if await self.filled(self._heartbeat) else b": still connected\n\n"


def happened(concerned: Sequence[str], *, everything: bool = False) -> bytes:
    """Lets pages read again what is about these jobs and runs, or all of it."""
    return frame("runs", orjson.dumps({"concerned": concerned, "everything": everything}).decode())


def frame(event: str, data: str = "") -> bytes:
    """An event as Server-Sent Events has it: each line of its data is a line of its own."""
    lines = "".join(f"data: {line}\n" for line in _LINE_BREAK.split(data))
    return f"event: {event}\n{lines}\n".encode()
