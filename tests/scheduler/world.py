"""A scheduler with its own clock and a real database, told by events; whatever it hears, it hears twice."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast
from uuid import UUID, uuid4

from services.scheduler import consumers
from services.scheduler.domain import Decision
from services.scheduler.store import Store, reading
from services.scheduler.store.writing import save
from shared.database import Connection, Database
from shared.events import (
    EVENT_TYPES,
    BackfillCancelRequested,
    BackfillRequested,
    Event,
    JobCommand,
    JobEvent,
    RunCancelled,
    RunCancelOrdered,
    RunCancelRequested,
    RunEvent,
    RunFailed,
    RunNowRequested,
    RunRequested,
    RunRetryRequested,
    RunSucceeded,
    ScheduleComputed,
    SlotMissed,
    SlotSkipped,
    SlotWaiting,
)
from shared.inbox import Inbox

E = TypeVar("E", bound=Event)
Handler = Callable[[Any], Awaitable[None]]

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


class Handlers(dict[type[Event], Handler]):
    """What `consumers.register` connects, without Kafka in between."""

    def __init__(self, store: Store) -> None:
        consumers.register(cast(Inbox, self), store)

    def on(self, *types: type[Event]) -> Callable[[Handler], Handler]:
        def register(handle: Handler) -> Handler:
            self.update(dict.fromkeys(types, handle))
            return handle

        return register

    async def hear(self, event: Event) -> None:
        await self[type(event)](event)


async def save_and_find(connection: Connection, decisions: Sequence[Decision]) -> None:
    """Write decisions as the store does, and find them as they were decided."""
    await save(connection, decisions)
    for decision in decisions:
        assert await reading.lock_plan(connection, decision.plan.job_id) == decision.plan
        for entry in decision.entries.values():
            assert await reading.entry_of(connection, decision.plan.job_id, entry.run_id) == entry


class World:
    """One scheduler at `now`; it remembers what it heard, so that all of it can come again."""

    def __init__(self, database: Database, now: datetime = NOON) -> None:
        self.database = database
        self.now = now
        self.store = Store(database, lambda _: timedelta(0), self.clock)
        self.handlers = Handlers(self.store)
        self.heard: list[Event] = []
        self._told = 0

    async def clock(self, _: Connection) -> datetime:
        return self.now

    async def hear(self, *events: Event) -> list[str]:
        """What the scheduler says to each of `events`, which it hears twice, and then all that it ever heard."""
        said: list[str] = []
        for event in events:
            await self.handlers.hear(event)
            self.heard.append(event)
            said += await self.said()
            before = await self.everything()
            for again in (event, *self.heard):
                await self.handlers.hear(again)
            assert await self.everything() == before, f"{type(event).__name__} heard twice"
        return said

    async def wait_until(self, now: datetime) -> list[str]:
        """What the scheduler says when the clock has come to `now`."""
        self.now = now
        while await self.store.request_due_runs():
            pass
        return await self.said()

    async def said(self) -> list[str]:
        """What was said since the last time it was asked, each event in a few words."""
        events = await published(self.database)
        told, self._told = events[self._told :], len(events)
        return [words(event) for event in told]

    async def everything(self) -> list[list[tuple[Any, ...]]]:
        """All rows the scheduler keeps."""
        async with self.database.session() as connection:
            return [
                [tuple(row.values()) for row in await connection.fetch(f"SELECT * FROM {table} ORDER BY {order}")]
                for table, order in (
                    ("schedules", "job_id"),
                    ("slots", "job_id, slot_key"),
                    ("backfills", "backfill_id"),
                    ("outbox", "id"),
                )
            ]

    async def slots(self, *, trigger: str | None = None) -> list[str]:
        """The ledger in the order of the slots: what became of each, and how its run ended or goes."""
        async with self.database.session() as connection:
            rows = await connection.fetch(
                """SELECT slot_at, outcome, reason, count, run_state, cancelled_by FROM slots
                   WHERE $1::text IS NULL OR trigger = $1 ORDER BY slot_at, slot_key""",
                trigger,
            )
        return [
            " ".join(
                [
                    f"{row['slot_at']:%H:%M} {row['run_state'] or row['reason'] or row['outcome']}",
                    *([f"by {row['cancelled_by']}"] if row["cancelled_by"] else []),
                    *([f"x{row['count']}"] if row["count"] > 1 else []),
                ]
            )
            for row in rows
        ]

    async def runs(self) -> list[RunRequested]:
        """The runs asked for so far, in order."""
        return [event for event in await published(self.database) if isinstance(event, RunRequested)]

    async def run_id_at(self, at: datetime) -> UUID:
        """The run of the slot at `at`, whatever became of it."""
        async with self.database.session() as connection:
            return await connection.fetchval("SELECT run_id FROM slots WHERE slot_at = $1", at)

    async def end(self, how: type[RunEvent], at: datetime) -> list[str]:
        """What the scheduler says when the run of the slot at `at` ends."""
        async with self.database.session() as connection:
            row = await connection.fetchrow("SELECT job_id, tenant, run_id FROM slots WHERE slot_at = $1", at)
        return await self.hear(ended(how, row["job_id"], row["run_id"], self.now))


async def published(database: Database) -> list[Event]:
    """What the outbox holds, in order."""
    async with database.session() as connection:
        rows = await connection.fetch("SELECT type, value FROM outbox ORDER BY id")
    return [EVENT_TYPES[row["type"]].model_validate_json(row["value"]) for row in rows]


def words(event: Event) -> str:
    match event:
        case RunRequested(slot=slot):
            return f"run {slot.trigger} {slot.at:%H:%M}"
        case SlotWaiting(slot=slot):
            return f"wait {slot.trigger} {slot.at:%H:%M}"
        case SlotSkipped(slot=slot, reason=reason):
            return f"skip {slot.at:%H:%M} {reason}"
        case SlotMissed(slot=slot, reason=reason, count=count):
            return f"miss {slot.at:%H:%M} {reason}" + (f" x{count}" if count > 1 else "")
        case RunCancelOrdered(actor=actor):
            return f"cancel by {actor}"
        case ScheduleComputed(next_slot_at=at):
            return f"next {at:%H:%M}" if at else "next none"
        case _:
            return type(event).__name__


def only(said: Sequence[str], *kinds: str) -> list[str]:
    """Those of `said` that begin with one of `kinds`."""
    return [line for line in said if line.split()[0] in kinds]


# --- what is asked of a job, and how runs end -----------------------------------------------------------------------


def ended(how: type[RunEvent], job_id: UUID, run_id: UUID, at: datetime) -> RunEvent:
    said: dict[type[RunEvent], dict[str, Any]] = {
        RunSucceeded: {
            "rows": 1, "bytes": 1, "parts": 1, "snapshot": "1", "manifest_id": uuid4(), "manifest_sha256": "0" * 64,
        },
        RunFailed: {"reason": "source", "message": "it broke"},
        RunCancelled: {"actor": "bob"},
    }  # fmt: skip
    return how(occurred_at=at, tenant="acme", run_id=run_id, job_id=job_id, version=4, attempt=1, **said[how])


def _command(kind: type[E], job: JobEvent | UUID, at: datetime, **asked: Any) -> E:
    job_id = job if isinstance(job, UUID) else job.job_id
    return kind.model_validate({"occurred_at": at, "tenant": "acme", "job_id": job_id, "actor": "bob", **asked})


def run_now(job: JobEvent | UUID, at: datetime) -> RunNowRequested:
    return _command(RunNowRequested, job, at)


def retry(job: JobEvent | UUID, run_id: UUID, at: datetime) -> RunRetryRequested:
    return _command(RunRetryRequested, job, at, run_id=run_id)


def cancel(job: JobEvent | UUID, run_id: UUID, at: datetime) -> RunCancelRequested:
    return _command(RunCancelRequested, job, at, run_id=run_id)


def backfill(job: JobEvent | UUID, begin: datetime, end: datetime, at: datetime, **asked: Any) -> BackfillRequested:
    return _command(BackfillRequested, job, at, interval_from=begin, interval_to=end, **asked)


def cancel_backfill(command: JobCommand, at: datetime, backfill_id: UUID | None = None) -> BackfillCancelRequested:
    return _command(BackfillCancelRequested, command.job_id, at, backfill_id=backfill_id or command.event_id)
