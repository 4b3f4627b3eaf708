"""What happens, as the service streams it, for as long as somebody wants to know."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import httpx
import orjson
from httpx_sse import EventSource, SSEError

from cli.client import Client, Interrupted, Refused

RETRY_SECONDS: Final = 2.0
_READ: Final = httpx.Timeout(35, connect=10)
"""Silence for longer than two heartbeats means that nothing comes any more."""
_NO_STREAM: Final = 404


@dataclass(frozen=True, slots=True)
class Happened:
    """An event by its name, with what its owner told; a heartbeat has neither."""

    type: str
    body: dict[str, Any]


def follow(client: Client, *, job: str | None = None) -> Iterator[Happened | None]:
    """Events of everything, or of one job, from now on; None means: look for yourself, now.

    That is so at the beginning, and after each break: then the stream goes on behind the last event that came, but
    progress is not repeated. Where no stream can be had, None comes every two seconds, so that looking is polling.
    """
    last = ""
    while True:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
        try:
            with client.open("/stream", {"job_id": job}, headers=headers, timeout=_READ) as answer:
                client.check(answer, "/stream")
                yield None
                for event in EventSource(answer).iter_sse():
                    last = event.id or last
                    yield Happened(event.event if event.data else "", orjson.loads(event.data or "{}"))
        except Refused as refused:
            if refused.status != _NO_STREAM:
                raise
        except (httpx.TransportError, SSEError, Interrupted, orjson.JSONDecodeError):
            pass
        yield None
        time.sleep(RETRY_SECONDS)
