"""Steps that several transactions share; every one of a worker's carries its attempt."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from services.exporter.domain import Claim, Failure
from shared import outbox
from shared.database import Connection, Database, database_now
from shared.events import RunAttemptFailed, RunCancelled, RunFailed, RunRequested, RunState


class Fenced(Exception):
    """The attempt does not hold its run any more; nothing was written."""


class CancelOrdered(Exception):
    """Somebody has ordered that the run shall end; nothing was written."""


class Part:
    """A part of the store."""

    def __init__(
        self,
        database: Database,
        retention: timedelta,
        retention_by_tenant: Mapping[str, timedelta] = MappingProxyType({}),
    ) -> None:
        self._database = database
        self._retention = retention
        self._retention_by_tenant = retention_by_tenant

    async def _end(self, connection: Connection, claim: Claim, state: RunState) -> int:
        """Compare-and-set to a terminal state; the attempt number is the fence. Returns the new version."""
        version: int | None = await connection.fetchval(
            """UPDATE runs SET state = $3, version = version + 1, finished_at = now(), worker = NULL, lease_until = NULL
               WHERE run_id = $1 AND attempt = $2 AND state = 'running' RETURNING version""",
            claim.run_id, claim.attempt, state,
        )  # fmt: skip
        if version is None:
            raise Fenced
        return version

    async def _fail(self, connection: Connection, claim: Claim, failure: Failure) -> None:
        version = await self._end(connection, claim, RunState.FAILED)
        common = about(claim.request, version=version, attempt=claim.attempt, at=await database_now(connection))
        await outbox.append(connection, [RunFailed(**common, reason=failure.reason, message=failure.message)])

    async def _cancel(self, connection: Connection, claim: Claim, actor: str) -> None:
        version = await self._end(connection, claim, RunState.CANCELLED)
        common = about(claim.request, version=version, attempt=claim.attempt, at=await database_now(connection))
        await outbox.append(connection, [RunCancelled(**common, actor=actor)])

    async def _cancel_queued(self, connection: Connection, request: RunRequested, attempt: int, actor: str) -> None:
        """End a run that nobody holds; the caller has locked it."""
        version: int = await connection.fetchval(
            """UPDATE runs SET state = 'cancelled', version = version + 1, finished_at = now(), cancel_ordered_by = $2
               WHERE run_id = $1 AND state = 'queued' RETURNING version""",
            request.run_id, actor,
        )  # fmt: skip
        common = about(request, version=version, attempt=attempt, at=await database_now(connection))
        await outbox.append(connection, [RunCancelled(**common, actor=actor)])

    async def _cancel_actor(self, connection: Connection, claim: Claim) -> str | None:
        """Who ordered that the claimed run shall end, if anybody; locks the run. Raises Fenced."""
        row = await connection.fetchrow(
            """SELECT cancel_ordered_by FROM runs
               WHERE run_id = $1 AND attempt = $2 AND state = 'running' FOR UPDATE""",
            claim.run_id, claim.attempt,
        )  # fmt: skip
        if row is None:
            raise Fenced
        return row["cancel_ordered_by"]

    async def _requeue(
        self, connection: Connection, claim: Claim, failure: Failure, backoff: timedelta, *, spare: int
    ) -> RunState:
        if (actor := await self._cancel_actor(connection, claim)) is not None:
            await self._cancel(connection, claim, actor)
            return RunState.CANCELLED
        version: int = await connection.fetchval(
            """UPDATE runs SET state = 'queued', version = version + 1, worker = NULL, lease_until = NULL,
                               not_before = now() + $2, attempts_allowed = attempts_allowed + $3
               WHERE run_id = $1 AND attempt = $4 RETURNING version""",
            claim.run_id, backoff, spare, claim.attempt,
        )  # fmt: skip
        common = about(claim.request, version=version, attempt=claim.attempt, at=await database_now(connection))
        await outbox.append(connection, [RunAttemptFailed(**common, reason=failure.reason, message=failure.message)])
        return RunState.QUEUED


def about(request: RunRequested, *, version: int, at: datetime, attempt: int = 0) -> dict[str, Any]:
    """What all events of a run carry."""
    return {
        "occurred_at": at,
        "tenant": request.tenant,
        "run_id": request.run_id,
        "job_id": request.job_id,
        "requested_at": request.occurred_at,
        "version": version,
        "attempt": attempt,
    }
