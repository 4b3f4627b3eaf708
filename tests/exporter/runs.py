"""Requests, outcomes and a look into the store, for the exporter's tests."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4, uuid5

from services.exporter.domain import Claim, Outcome, StoredFile
from services.exporter.store import Store
from shared.database import Database
from shared.events import EVENT_TYPES, Event, Question, RunCancelOrdered, RunRequested, Slot, Trigger
from shared.jobs import Retry

SLOT = datetime(2026, 3, 1, tzinfo=UTC)
LEASE = timedelta(seconds=30)
SCHEMA = b'{"type":"object"}'
TERMINAL = ("RunSucceeded", "RunFailed", "RunCancelled")


def requested(
    *,
    tenant: str = "t1",
    job_id: UUID | None = None,
    attempts: int = 3,
    backoff: timedelta = timedelta(0),
    **question: Any,
) -> RunRequested:
    """A run asked for by hand: each call a new one."""
    job_id = job_id or uuid4()
    key = f"manual:{uuid4()}"
    asked: dict[str, Any] = {
        "source": "ucs",
        "type": "interaction",
        "media_types": "all",
        "interval_from": None,
        "interval_to": SLOT,
        "split_bytes": None,
        "format": "jsonl",
        "encryption": "gcm",
        "recipients": None,
    }
    return RunRequested(
        occurred_at=SLOT,
        tenant=tenant,
        job_id=job_id,
        job_version=1,
        run_id=uuid5(job_id, key),
        slot=Slot(key=key, at=SLOT, trigger=Trigger.MANUAL),
        question=Question(**asked | question),
        title="Interactions",
        retry=Retry(attempts=attempts, backoff=backoff),
    )


def cancel_order(request: RunRequested, actor: str = "operator") -> RunCancelOrdered:
    """The order to end a run; each call a new event."""
    return RunCancelOrdered(
        occurred_at=SLOT,
        tenant=request.tenant,
        job_id=request.job_id,
        job_version=1,
        run_id=request.run_id,
        actor=actor,
    )


def outcome(claim: Claim, parts: int = 2) -> Outcome:
    """What an attempt with `parts` files would leave behind."""
    files = tuple(
        StoredFile(n, f"{claim.prefix}/{n:04}", f"export-{n:04}.zip.p7m", 100 * n, 10 * n, f"{n:064x}", "Interaction")
        for n in range(1, parts + 1)
    )
    return Outcome("750:750:", sum(file.rows for file in files), 1000, files, SCHEMA)


def seal(now: datetime, previous: str | None) -> bytes:
    """A manifest that says nothing but what came before it, and never the same twice."""
    return f"{previous} {uuid4()}".encode()


def digest(body: bytes) -> str:
    return sha256(body).hexdigest()


async def claimed(store: Store, request: RunRequested, worker: str = "first") -> Claim:
    """The first attempt of `request`, in a store that holds no other run that is due."""
    await store.queue_run(request)
    claim = await store.claim_run(worker, LEASE)
    assert claim is not None
    assert claim.run_id == request.run_id
    return claim


async def expire_lease(database: Database, run_id: UUID) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            "UPDATE runs SET lease_until = clock_timestamp() - interval '1 s' WHERE run_id = $1", run_id
        )


async def published(database: Database, run_id: UUID | None = None) -> list[Any]:
    """The events in the outbox, all of them or a run's, in their order."""
    async with database.transaction() as connection:
        rows = await connection.fetch("SELECT type, value FROM outbox ORDER BY id")
    events: list[Event] = [EVENT_TYPES[row["type"]].model_validate_json(row["value"]) for row in rows]
    return [event for event in events if run_id is None or getattr(event, "run_id", None) == run_id]


def names(events: list[Any]) -> list[str]:
    return [type(event).__name__ for event in events]


async def run_row(database: Database, run_id: UUID) -> Mapping[str, Any]:
    async with database.transaction() as connection:
        row = await connection.fetchrow("SELECT * FROM runs WHERE run_id = $1", run_id)
    assert row is not None
    return dict(row)


async def everything(database: Database) -> dict[str, list[Any]]:
    """All rows of all tables, to see that nothing has changed."""
    tables = ("runs", "artifacts", "documents", "chain_heads", "certificates", "cancellations", "outbox")
    async with database.transaction() as connection:
        return {table: await connection.fetch(f"SELECT * FROM {table} ORDER BY 1") for table in tables}
