"""What the scheduler and job_api say: runs to attempt, orders to end them, and whom to encrypt for."""

from uuid import UUID

from services.exporter.domain import Lane
from services.exporter.store.steps import Part, about
from shared import outbox
from shared.database import Connection, database_now
from shared.events import CertificateAdded, CertificateRemoved, RunCancelOrdered, RunQueued, RunRequested, RunState
from shared.tracing import tracer


class RequestStore(Part):
    """Runs as they come in."""

    async def queue_run(self, request: RunRequested) -> bool:
        """Write the request down; False when it was known. One that was cancelled before it came ends at once."""
        async with self._database.transaction() as connection:
            await self._take_turn(connection, request.run_id)
            new = await connection.fetchval(
                """INSERT INTO runs (run_id, job_id, tenant, lane, source, request, state, attempts_allowed,
                                     traceparent)
                   VALUES ($1, $2, $3, $4, $5, $6, 'queued', $7, $8)
                   ON CONFLICT DO NOTHING RETURNING true""",
                request.run_id, request.job_id, request.tenant, Lane.of(request.slot.trigger),
                request.question.source, request.model_dump(mode="json"), request.retry.attempts, tracer().here(),
            )  # fmt: skip
            if new:
                now = await database_now(connection)
                # Also before a cancellation: whoever follows runs sees each begin in the same way.
                await outbox.append(connection, [RunQueued.model_validate(about(request, version=1, at=now))])
                actor = await connection.fetchval("SELECT actor FROM cancellations WHERE run_id = $1", request.run_id)
                if actor is not None:
                    await self._cancel_queued(connection, request, 0, actor)
        return bool(new)

    async def order_cancel(self, order: RunCancelOrdered) -> None:
        """End a queued run, tell the worker of a running one, remember the order for a run that is still to come."""
        async with self._database.transaction() as connection:
            await self._take_turn(connection, order.run_id)
            row = await connection.fetchrow(
                "SELECT request, state, attempt FROM runs WHERE run_id = $1 FOR UPDATE", order.run_id
            )
            if row is None:
                await connection.execute(
                    """INSERT INTO cancellations (run_id, tenant, actor, ordered_at) VALUES ($1, $2, $3, $4)
                       ON CONFLICT DO NOTHING""",
                    order.run_id, order.tenant, order.actor, order.occurred_at,
                )  # fmt: skip
            elif row["state"] == RunState.QUEUED:
                request = RunRequested.model_validate(row["request"])
                await self._cancel_queued(connection, request, row["attempt"], order.actor)
            elif row["state"] == RunState.RUNNING:
                await connection.execute(
                    "UPDATE runs SET cancel_ordered_by = $2 WHERE run_id = $1 AND cancel_ordered_by IS NULL",
                    order.run_id, order.actor,
                )  # fmt: skip

    async def keep_certificate(self, event: CertificateAdded | CertificateRemoved) -> None:
        """Follow the newest word about a certificate; a removed one has no PEM."""
        pem = event.pem if isinstance(event, CertificateAdded) else None
        async with self._database.transaction() as connection:
            await connection.execute(
                """INSERT INTO certificates (tenant, fingerprint, pem, changed_at) VALUES ($1, $2, $3, $4)
                   ON CONFLICT (tenant, fingerprint) DO UPDATE
                   SET pem = excluded.pem, changed_at = excluded.changed_at
                   WHERE certificates.changed_at < excluded.changed_at""",
                event.tenant, event.fingerprint, pem, event.occurred_at,
            )  # fmt: skip

    async def _take_turn(self, connection: Connection, run_id: UUID) -> None:
        """One at a time, request and order of a run can't both miss what the other one is about to commit."""
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", str(run_id))
