"""Commands on runs and backfills, and what their decisions are made of."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from services.job_api.domain.commands import Backfill, Order, Wanted
from services.job_api.domain.errors import NotFound
from services.job_api.domain.jobs import Facts
from services.job_api.domain.runs import Run, RunStatus
from services.job_api.store.rows import Once, Part, claim, locked_facts, write_audit
from services.job_api.store.runs import note
from shared import outbox
from shared.database import Connection
from shared.events import BackfillCancelRequested, BackfillRequested
from shared.observability import log
from shared.slots import Answer

_BACKFILL: Final = """
  backfill_id, job_id, interval_from, interval_to, reprocess, max_parallel, requested_at, requested_by,
  slots, succeeded, failed, cancelled, cancelled_at"""


class CommandStore(Part):
    """Commands of all tenants."""

    async def order_for_job(
        self, tenant: str, job_id: UUID, reference: UUID, decide: Callable[[Facts], Order], once: Once = None
    ) -> UUID:
        """Tell the scheduler what `decide` makes of the locked job; the answer is the id of what was asked for.

        A commanded run, or a backfill, is in progress once this has returned. Raises what `decide` raises, NotFound.
        """
        async with self._database.tenant(tenant) as connection:
            if earlier := await claim(connection, tenant, once, reference):
                return UUID(earlier)
            facts = await locked_facts(connection, job_id)
            if facts is None:
                raise NotFound
            return await _give(connection, decide(facts), reference)

    async def order_for_run(
        self, tenant: str, run_id: UUID, reference: Callable[[UUID], UUID], decide: Callable[[Facts, Run], Order],
        once: Once = None,
    ) -> tuple[UUID, UUID]:  # fmt: skip
        """The same for a run: the id of what was asked for, which `reference` makes of the job's, and the job's."""
        async with self._database.tenant(tenant) as connection:
            job_id = await connection.fetchval("SELECT job_id FROM runs WHERE run_id = $1", run_id)
            if job_id is None:
                raise NotFound("run")
            if earlier := await claim(connection, tenant, once, reference(job_id)):
                return UUID(earlier), job_id
            facts = await locked_facts(connection, job_id)
            row = await connection.fetchrow("SELECT * FROM runs WHERE run_id = $1", run_id)
            if facts is None or row is None:
                raise NotFound("run")
            return await _give(connection, decide(facts, _run(row)), reference(job_id)), job_id

    async def order_for_backfill(
        self, tenant: str, job_id: UUID, backfill_id: UUID, decide: Callable[[Facts, Backfill], Order | None],
        once: Once = None,
    ) -> Backfill:  # fmt: skip
        """The same for a backfill, which is answered as it is then."""
        async with self._database.tenant(tenant) as connection:
            earlier = await claim(connection, tenant, once, backfill_id)
            facts = None if earlier else await locked_facts(connection, job_id)
            found = await _backfill(connection, job_id, backfill_id)
            if found is None:
                raise NotFound("backfill")
            if facts is None or (order := decide(facts, found)) is None:
                return found
            await _give(connection, order, backfill_id)
            return await _backfill(connection, job_id, backfill_id) or found

    async def backfills(
        self, tenant: str, job_id: UUID, limit: int, after: tuple[datetime, UUID] | None
    ) -> list[Backfill]:
        """At most `limit` backfills of a job, newest first, beginning behind `after`; raises NotFound."""
        async with self._database.tenant(tenant) as connection:
            if not await connection.fetchval("SELECT true FROM jobs WHERE id = $1 AND state <> 'deleted'", job_id):
                raise NotFound
            rows = await connection.fetch(
                f"""SELECT {_BACKFILL} FROM backfills
                    WHERE job_id = $1 AND ($2::timestamptz IS NULL OR (requested_at, backfill_id) < ($2, $3::uuid))
                    ORDER BY requested_at DESC, backfill_id DESC LIMIT $4""",
                job_id, *(after or (None, None)), limit,
            )  # fmt: skip
        return [_to_backfill(row) for row in rows]

    async def backfill(self, tenant: str, job_id: UUID, backfill_id: UUID) -> Backfill:
        """One backfill of a job; raises NotFound."""
        async with self._database.tenant(tenant) as connection:
            found = await _backfill(connection, job_id, backfill_id)
        if found is None:
            raise NotFound("backfill")
        return found

    async def answers(self, tenant: str, job_id: UUID) -> list[Answer]:
        """The data intervals that runs of the job were asked for."""
        async with self._database.tenant(tenant) as connection:
            rows = await connection.fetch(
                """SELECT interval_from, interval_to, state IN ('failed', 'cancelled') AS failed
                   FROM runs WHERE job_id = $1 AND interval_to IS NOT NULL""",
                job_id,
            )
        return [Answer(**row) for row in rows]

    async def exported_to(self, tenant: str, job_id: UUID) -> datetime | None:
        """Where the job's succeeded runs end, backfills left out."""
        async with self._database.tenant(tenant) as connection:
            return await connection.fetchval(
                """SELECT max(interval_to) FROM runs
                   WHERE job_id = $1 AND interval_to IS NOT NULL AND state = 'succeeded' AND backfill_id IS NULL""",
                job_id,
            )


async def _give(connection: Connection, order: Order, reference: UUID) -> UUID:
    """Write an order's event and audit row, and what is in progress from now on because of it."""
    event = order.event
    if order.run is not None:
        await note(connection, order.run)
    match event:
        case BackfillRequested():
            await connection.execute(
                """INSERT INTO backfills (backfill_id, tenant, job_id, interval_from, interval_to, reprocess,
                                          max_parallel, requested_at, requested_by)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)""",
                event.event_id, event.tenant, event.job_id, event.interval_from, event.interval_to, event.reprocess,
                event.max_parallel, event.occurred_at, event.actor,
            )  # fmt: skip
        case BackfillCancelRequested():
            await connection.execute(
                "UPDATE backfills SET cancelled_at = $2 WHERE backfill_id = $1", event.backfill_id, event.occurred_at
            )
        case _:
            pass
    await outbox.append(connection, [event])
    told = event.model_dump(mode="json", exclude={"event_id", "occurred_at", "tenant", "actor", "job_id"})
    await write_audit(
        connection, tenant=event.tenant, at=event.occurred_at, actor=event.actor, action=ACTIONS[type(event).__name__],
        subject=reference, job_id=event.job_id, detail=told,
    )  # fmt: skip
    log.info(
        "command taken", command=ACTIONS[type(event).__name__], tenant=event.tenant, job_id=str(event.job_id),
        **{name: told[name] for name in ("run_id", "backfill_id") if name in told},
    )  # fmt: skip
    return reference


ACTIONS: Final = {
    "RunNowRequested": "run.request",
    "RunCancelRequested": "run.cancel",
    "RunRetryRequested": "run.retry",
    "BackfillRequested": "backfill.request",
    "BackfillCancelRequested": "backfill.cancel",
}
"""What each command is called in the audit."""


async def _backfill(connection: Connection, job_id: UUID, backfill_id: UUID) -> Backfill | None:
    row = await connection.fetchrow(
        f"SELECT {_BACKFILL} FROM backfills WHERE job_id = $1 AND backfill_id = $2", job_id, backfill_id
    )
    return None if row is None else _to_backfill(row)


def _to_backfill(row: Any) -> Backfill:
    named = dict(row)
    wanted = Wanted(
        named.pop("interval_from"), named.pop("interval_to"), named.pop("reprocess"), named.pop("max_parallel")
    )
    return Backfill(wanted=wanted, **named)


def _run(row: Any) -> Run:
    return Run(
        row["run_id"], row["job_id"], RunStatus(row["state"]), row["started_at"], row["percent"],
        row["remaining_seconds"],
    )  # fmt: skip
