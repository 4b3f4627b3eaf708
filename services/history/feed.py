"""The feed: one hub per process that reads what is new once and hands it to everybody who reads the stream.

    PostgreSQL ── a look every 200 ms ──► channel of a tenant ──► queue of each reader ──► its connection
         └──────── pages of what was missed, as fast as the reader takes them ────────────────┘

An event becomes bytes once, however many read it. A reader first takes what it missed from PostgreSQL, page by page,
and joins its channel when it has caught up; what waits for it then are references to bytes that all readers share. So a
reader that is too slow costs as little as any other, and when too much waits for it, it is dropped: it comes back with
the id of the last event it got.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias
from uuid import UUID

import orjson
from prometheus_client import Counter, Gauge

from services.history.store import Store
from services.history.store.feed import Happened, Tick
from shared.clock import utc_text
from shared.database import is_outage, outlast
from shared.observability import log
from shared.runtime import every
from shared.streaming import Queue

READERS: Final = Gauge("cdds_stream_readers", "Readers of the event stream")
DROPPED: Final = Counter("cdds_stream_readers_dropped", "Readers that were dropped because they were too slow")

LOOK_INTERVAL: Final = timedelta(milliseconds=200)
PAGE_EVENTS: Final = 100
"""Some 70 KB: what each reader that catches up holds in memory."""
PAGES_AT_ONCE: Final = 3
RECONNECT_MILLISECONDS: Final = 2000

Filter: TypeAlias = tuple[UUID | None, UUID | None]
"""The job and the run that a reader wants; None means all."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What readers may cost, and how often they hear that they are still connected."""

    readers: int = 2000
    """At once, of this process."""
    waiting_frames: int = 1000
    """For one reader; the frames themselves are shared by all."""
    heartbeat: timedelta = timedelta(seconds=15)
    """Shorter than the minute after which most proxies give an idle connection up."""


class Full(Exception):
    """As many readers as this process takes are connected, or it is stopping."""


class Feed:
    """Reads what is new for the tenants that have readers."""

    def __init__(self, store: Store, patience: timedelta, limits: Limits | None = None) -> None:
        self._store = store
        self._patience = patience
        self._limits = limits or Limits()
        self._channels: dict[str, Channel] = {}
        self._readers: set[Reader] = set()
        self._stopping = False
        # Hundreds may come back at once, and must leave connections to the rest of the service.
        self._catching_up = asyncio.Semaphore(PAGES_AT_ONCE)

    async def run(self) -> None:
        """Look for new events until cancelled; then the readers' responses end."""
        try:
            await every(LOOK_INTERVAL, self.look, self._patience)
        finally:
            self._stopping = True
            for reader in list(self._readers):
                reader.end()

    async def open(self, tenant: str, wanted: Filter, after: int | None, until: datetime) -> "Reader":
        """A reader of what happens after the event with the position `after`, or from now on; raises Full.

        `until` is when the permission to read ends. Whoever gets the reader closes it.
        """
        self._admit()
        event, tick = await self._store.newest_position(tenant)
        self._admit()
        channel = self._channels.get(tenant)
        if channel is None:
            channel = self._channels[tenant] = Channel(tenant, event, tick)
        # A position that is still to come is none that we gave: the database was restored, or somebody made it up.
        position = event if after is None else min(after, event)
        reader = Reader(self, channel, wanted, position, until)
        channel.readers += 1
        self._readers.add(reader)
        READERS.set(len(self._readers))
        return reader

    def close(self, reader: "Reader") -> None:
        """Forget a reader, and its channel after the last one."""
        if reader not in self._readers:
            return
        self._readers.discard(reader)
        READERS.set(len(self._readers))
        reader.channel.leave(reader)
        reader.channel.readers -= 1
        if reader.channel.readers == 0:
            del self._channels[reader.channel.tenant]

    async def look(self) -> int:
        """Hand on what is new; says for how many tenants there may be more."""
        if not self._channels:
            return 0
        newest = await self._store.newest_positions(list(self._channels))
        unfinished = 0
        for tenant, (event, tick) in newest.items():
            channel = self._channels.get(tenant)
            if channel is None:
                continue
            if event > channel.position:
                events = await self._store.events_after(tenant, channel.position, PAGE_EVENTS)
                channel.hand_on(events)
                if len(events) == PAGE_EVENTS:
                    unfinished += 1
                    continue
            # Only now, because a tick must not overtake the start of its run.
            if tick > channel.tick_position:
                channel.hand_on_ticks(await self._store.ticks_after(tenant, channel.tick_position))
                # One that was committed out of order is lost, and one of a run that has ended is not looked for again.
                channel.tick_position = max(channel.tick_position, tick)
        return unfinished

    async def page(self, reader: "Reader") -> list[Happened]:
        """The next events that a reader missed; an outage is waited out."""

        async def read() -> list[Happened]:
            async with self._catching_up:
                return await self._store.events_after(
                    reader.channel.tenant, reader.position, PAGE_EVENTS, *reader.wanted
                )

        return await outlast(read, self._patience)

    @property
    def limits(self) -> Limits:
        """What readers may cost."""
        return self._limits

    def _admit(self) -> None:
        if self._stopping or len(self._readers) >= self._limits.readers:
            raise Full


class Channel:
    """What the readers of one tenant hear: everything up to `position` has been handed on."""

    def __init__(self, tenant: str, position: int, tick_position: int) -> None:
        self.tenant = tenant
        self.position = position
        self.tick_position = tick_position
        self.readers = 0
        """Those that are still catching up included."""
        self._listening: dict[Filter, set[Reader]] = {}

    def join(self, reader: "Reader") -> None:
        """Hand on to `reader` from now on what it wants; it has all up to our position."""
        self._listening.setdefault(reader.wanted, set()).add(reader)

    def leave(self, reader: "Reader") -> None:
        """Hand nothing on to `reader` any more."""
        listening = self._listening.get(reader.wanted, set())
        listening.discard(reader)
        if not listening:
            self._listening.pop(reader.wanted, None)

    def hand_on(self, events: list[Happened]) -> None:
        """Give the events to whom they concern."""
        for event in events:
            frame = event_frame(event)
            for reader in self._concerned(event.job_id, event.run_id):
                reader.offer(frame, event.position)
            self.position = event.position

    def hand_on_ticks(self, ticks: list[Tick]) -> None:
        """Give the ticks to whom they concern."""
        for tick in ticks:
            frame = tick_frame(self.tenant, tick)
            for reader in self._concerned(tick.job_id, tick.run_id):
                reader.offer(frame, None)
            self.tick_position = tick.position

    def _concerned(self, job_id: UUID | None, run_id: UUID | None) -> "list[Reader]":
        wishes = {(job, run) for job in (None, job_id) for run in (None, run_id)}
        return [reader for wish in wishes for reader in self._listening.get(wish, ())]


class Reader(Queue):
    """One connection: what waits for it, and how far it is."""

    def __init__(self, feed: Feed, channel: Channel, wanted: Filter, position: int, until: datetime) -> None:
        super().__init__(feed.limits.waiting_frames, until)
        self.channel = channel
        self.wanted = wanted
        self.position = position
        """Of the last event that was offered, or passed over because it is not wanted."""
        self._feed = feed

    def close(self) -> None:
        """Leave the feed."""
        self.clear()
        self._feed.close(self)

    def offer(self, frame: bytes, position: int | None) -> None:
        """Let a frame wait for the connection; a reader for which too many wait is dropped."""
        if position is not None:
            if position <= self.position:
                return
            self.position = position
        if not self.put(frame):
            DROPPED.inc()
            log.info("a reader of the stream is too slow", tenant=self.channel.tenant)
            self.channel.leave(self)
            self.end()

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The body of the response, without an end unless PostgreSQL stays away."""
        # An id without data tells no event, but is where a reader that hears nothing comes back to.
        yield b"retry: %d\nid: %d\n\n" % (RECONNECT_MILLISECONDS, self.position)
        try:
            while self.position < self.channel.position:
                yield self._missed(await self._feed.page(self))
        except Exception as error:
            if not is_outage(error):
                raise
            log.warning("reader dropped", error=repr(error))
            return
        self.channel.join(self)
        while True:
            if await self.filled(self._feed.limits.heartbeat):
                yield self.take()
            else:
                # Nothing waits, so its position may be told.
                self.position = max(self.position, self.channel.position)
                yield heartbeat(self.position)

    def _missed(self, events: list[Happened]) -> bytes:
        """A page of what this reader missed; what it does not want takes it further, too."""
        self.position = events[-1].position if events else self.channel.position
        return b"".join(event_frame(event) for event in events if event.body is not None) or heartbeat(self.position)


def event_frame(event: Happened) -> bytes:
    """An event as Server-Sent Events has it; line breaks can only be between the tokens of its JSON."""
    body = (event.body or "").replace("\r", " ").replace("\n", " ")
    return f"id: {event.position}\nevent: {event.type}\ndata: {body}\n\n".encode()


def tick_frame(tenant: str, tick: Tick) -> bytes:
    """A tick: it has no id, because nobody comes back for it."""
    body = {
        "occurred_at": utc_text(tick.occurred_at),
        "tenant": tenant,
        "job_id": str(tick.job_id),
        "run_id": str(tick.run_id),
        "progress": tick.progress,
    }
    return b"event: RunProgressed\ndata: %b\n\n" % orjson.dumps(body)


def heartbeat(position: int) -> bytes:
    """A comment, and how far the reader is though it heard nothing."""
    return b": still connected\nid: %d\n\n" % position
