"""Neighbours in a batch of records that one handler gets together, decoded and gathered before it is called."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from shared.events import Event
from shared.messaging import RawRecord
from shared.tracing import HEADER


class Gathering(Protocol):
    """What a handler gets of many events: they are added one by one while it works on those before."""

    def add(self, event: Event, body: bytes, /) -> None:
        """Take an event in, which came as the JSON `body`."""
        ...


@dataclass(frozen=True, slots=True)
class Handler:
    """What to do with some types of events, and what it is to be called with."""

    gathering: Callable[[], Gathering]
    handle: Callable[[Any], Awaitable[None]]


class Stretch:
    """Neighbours in a batch that one handler gets together."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.records: list[RawRecord] = []
        self.gathered = handler.gathering()
        self._first: Event | None = None
        self._failed: Exception | None = None

    def add(self, record: RawRecord, event: Event) -> None:
        """Take the next record in; what goes wrong in that is raised by `handle`, as if it had gone wrong there."""
        self.records.append(record)
        self._first = self._first or event
        try:
            self.gathered.add(event, record.value or b"")
        except Exception as error:
            self._failed = self._failed or error

    async def handle(self) -> None:
        """Call the handler."""
        if self._failed is not None:
            raise self._failed
        await self.handler.handle(self.gathered)

    def ids(self) -> dict[str, str]:
        """What log lines of the handler say about the records it works on."""
        if len(self.records) > 1:
            return {"batch": str(len(self.records))}
        return ids_of(self._first)

    def contexts(self) -> list[str | None]:
        """The traces that the events came in."""
        return [
            next((value.decode("ascii", "replace") for name, value in record.headers if value and name == HEADER), None)
            for record in self.records
        ]


def ids_of(event: Event | None) -> dict[str, str]:
    """What log lines about an event say."""
    found = {name: getattr(event, name, None) for name in ("tenant", "job_id", "run_id", "attempt")}
    return {name: str(value) for name, value in found.items() if value}


class Events(list[Event]):
    """Events as they are, for handlers that take them one by one."""

    def add(self, event: Event, _: bytes) -> None:
        """Append it."""
        self.append(event)
