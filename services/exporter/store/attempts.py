"""What workers do with runs: claim, beat, and write down how an attempt ended."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from services.exporter import domain, metrics
from services.exporter.domain import Claim, Failure, Lane, Outcome
from services.exporter.store.steps import CancelOrdered, Fenced, Part, about
from shared import failpoints, outbox
from shared.database import Connection, database_now
from shared.events import ArtifactStored, RunRequested, RunStarted, RunState, RunSucceeded
from shared.events import Part as PartFact
from shared.tracing import tracer

_NEXT: Final = """
WITH RECURSIVE
full_sources AS (
  SELECT source FROM runs JOIN unnest($2::text[], $3::int[]) AS most (source, runs) USING (source)
  WHERE state = 'running' GROUP BY source, most.runs HAVING count(*) >= most.runs
),
-- Each lane, tenant and source that has queued runs: one step along the index for each, not for each run.
queues AS (
  (SELECT lane, tenant, source FROM runs WHERE state = 'queued' ORDER BY lane, tenant, source LIMIT 1)
  UNION ALL
  SELECT following.* FROM queues, LATERAL (
    SELECT lane, tenant, source FROM runs
    WHERE state = 'queued' AND (lane, tenant, source) > (queues.lane, queues.tenant, queues.source)
    ORDER BY lane, tenant, source LIMIT 1
  ) following
),
heads AS (
  SELECT lane, tenant, source, oldest.* FROM queues, LATERAL (
    SELECT run_id, queued_at FROM runs
    WHERE state = 'queued' AND lane = queues.lane AND tenant = queues.tenant AND source = queues.source
      AND not_before <= statement_timestamp()
    ORDER BY queued_at LIMIT 1
  ) oldest
  WHERE source NOT IN (SELECT source FROM full_sources)
),
under_way AS (SELECT lane, tenant, count(*) AS runs FROM runs WHERE state = 'running' GROUP BY lane, tenant),
of_tenants AS (SELECT lane, tenant, max(taken_at) AS tenant_at FROM turns GROUP BY lane, tenant),
of_lanes AS (SELECT lane, source, max(taken_at) AS lane_at FROM turns GROUP BY lane, source),
candidates AS (
  SELECT *, source = ANY($2::text[])
            AND lane <> first_value(lane) OVER (PARTITION BY source ORDER BY lane_at NULLS FIRST) AS out_of_turn
  FROM heads LEFT JOIN of_lanes USING (lane, source)
)
SELECT run_id FROM candidates LEFT JOIN under_way USING (lane, tenant) LEFT JOIN of_tenants USING (lane, tenant)
WHERE lane = ANY($1::text[])
ORDER BY out_of_turn, array_position($1::text[], lane), coalesce(under_way.runs, 0), tenant_at NULLS FIRST, queued_at
LIMIT 1
"""
"""Whose turn it is; the answer to the question of `AttemptStore.claim_run`."""

LOST = Failure("worker_lost", "The worker stopped responding; its lease expired.", repeatable=True)

SealManifest = Callable[[datetime, str | None], bytes]
"""Makes the signed manifest, given the database's clock and the SHA-256 of the job's previous manifest."""


class AttemptStore(Part):
    """Attempts and their leases."""

    async def claim_run(
        self,
        worker: str,
        lease: timedelta,
        abandoned: list[Claim] | None = None,
        *,
        lanes: Sequence[Lane] = tuple(Lane),
        limits: Mapping[str, int] = MappingProxyType({}),
    ) -> Claim | None:
        """Take the run whose turn it is as a new attempt; `limits` says how many may read from a source at once.

        The first of `lanes` that has a due run goes first, in it the tenant with the fewest runs under way, then the
        one whose last turn is longest ago, and of a tenant the oldest run. Runs of a source at its limit are passed
        over. Lost runs are queued again before, or ended, see `_give_up_lost` about `abandoned`.
        """
        await self._give_up_lost([] if abandoned is None else abandoned)
        while True:
            async with self._database.transaction() as connection:
                # One claim at a time, all processes together: counts that others are about to change are worth nothing.
                # One that is frozen in here must not keep the others waiting for long.
                await connection.execute(
                    """SELECT set_config('idle_in_transaction_session_timeout', '5s', true),
                              pg_advisory_xact_lock(hashtextextended('exporter.claim', 0))"""
                )
                chosen = await connection.fetchval(_NEXT, list(lanes), list(limits), list(limits.values()))
                if chosen is None:
                    return None
                claim = await self._start(connection, chosen, worker, lease)
            if claim is not None:
                failpoints.reached("exporter.claimed")
                return claim

    async def _give_up_lost(self, abandoned: list[Claim]) -> None:
        """Queue the runs whose worker's lease has expired again.

        One that shall be cancelled, or whose last allowed attempt it was, ends instead; `abandoned` gets such attempts,
        because what they stored is left to the caller.
        """
        ended: list[Claim] = []
        async with self._database.transaction() as connection:
            rows = await connection.fetch(
                """SELECT request, attempt, attempts_allowed, cancel_ordered_by FROM runs
                   WHERE state = 'running' AND lease_until < clock_timestamp()
                   FOR UPDATE SKIP LOCKED"""
            )
            for row in rows:
                lost = Claim(RunRequested.model_validate(row["request"]), row["attempt"], row["attempts_allowed"])
                if lost.is_last and row["cancel_ordered_by"] is None:
                    await self._fail(connection, lost, LOST)
                elif await self._requeue(connection, lost, LOST, timedelta(0), spare=0) is RunState.QUEUED:
                    continue
                ended.append(lost)
        abandoned += ended
        metrics.FAILURES.labels(LOST.reason).inc(len(rows))

    async def _start(self, connection: Connection, run_id: UUID, worker: str, lease: timedelta) -> Claim | None:
        """Begin the next attempt of a queued run; None when it was cancelled meanwhile."""
        row = await connection.fetchrow(
            """UPDATE runs SET state = 'running', version = version + 1, attempt = attempt + 1, worker = $2,
                               lease_until = clock_timestamp() + $3
               WHERE run_id = $1 AND state = 'queued'
               RETURNING request, version, attempt, attempts_allowed, traceparent""",
            run_id, worker, lease,
        )  # fmt: skip
        if row is None:
            return None
        request = RunRequested.model_validate(row["request"])
        claim = Claim(request, row["attempt"], row["attempts_allowed"], row["traceparent"])
        await connection.execute(
            """INSERT INTO turns (lane, tenant, source, taken_at) VALUES ($1, $2, $3, clock_timestamp())
               ON CONFLICT (lane, tenant, source) DO UPDATE SET taken_at = excluded.taken_at""",
            claim.lane, request.tenant, request.question.source,
        )  # fmt: skip
        now = await database_now(connection)
        common = about(request, version=row["version"], attempt=claim.attempt, at=now)
        with tracer().within(claim.trace):
            await outbox.append(connection, [RunStarted(**common, worker=worker)])
        return claim

    async def beat(self, claim: Claim, lease: timedelta) -> None:
        """Renew the lease; raises Fenced when somebody else owns the run or it has ended."""
        async with self._database.transaction() as connection:
            held = await connection.fetchval(
                """UPDATE runs SET lease_until = clock_timestamp() + $3
                   WHERE run_id = $1 AND attempt = $2 AND state = 'running' RETURNING true""",
                claim.run_id, claim.attempt, lease,
            )  # fmt: skip
        if not held:
            raise Fenced

    async def cancel_ordered(self, claim: Claim) -> bool:
        """Whether the run that `claim` holds shall end."""
        async with self._database.transaction() as connection:
            ordered = await connection.fetchval(
                """SELECT true FROM runs
                   WHERE run_id = $1 AND attempt = $2 AND state = 'running' AND cancel_ordered_by IS NOT NULL""",
                claim.run_id, claim.attempt,
            )  # fmt: skip
        return bool(ordered)

    async def recipients(self, tenant: str, fingerprints: Sequence[str] | None) -> list[str]:
        """The PEM certificates of `tenant` that are known, all of them or the named ones."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(
                """SELECT pem FROM certificates
                   WHERE tenant = $1 AND pem IS NOT NULL AND ($2::text[] IS NULL OR fingerprint = ANY($2))
                   ORDER BY fingerprint""",
                tenant, fingerprints,
            )  # fmt: skip
        return [row["pem"] for row in rows]

    async def succeed(self, claim: Claim, outcome: Outcome, seal_manifest: SealManifest) -> None:
        """The fenced terminal transaction: state, artifacts, manifest and events become visible together, or not.

        Raises Fenced, and CancelOrdered when a cancellation was accepted before.
        """
        request = claim.request
        async with self._database.transaction() as connection:
            if await self._cancel_actor(connection, claim) is not None:
                raise CancelOrdered
            version = await self._end(connection, claim, RunState.SUCCEEDED)
            now = await database_now(connection)
            manifest = await self._extend_chain(connection, claim, now, seal_manifest)
            failpoints.reached("exporter.manifest")
            await self._keep_schema(connection, claim, outcome.schema)
            expires_at = now + self._retention_by_tenant.get(request.tenant, self._retention)
            parts = [
                PartFact(
                    artifact_id=domain.artifact_id(claim.run_id, claim.attempt, file.number),
                    number=file.number, file_name=file.file_name, size_bytes=file.size_bytes,
                    rows=file.rows, sha256=file.sha256, entity=file.entity,
                )
                for file in outcome.files
            ]  # fmt: skip
            await connection.executemany(
                """INSERT INTO artifacts (artifact_id, run_id, tenant, number, object_key, file_name,
                                          size_bytes, rows, sha256, expires_at)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)""",
                [
                    (part.artifact_id, claim.run_id, request.tenant, part.number, file.object_key, part.file_name,
                     part.size_bytes, part.rows, part.sha256, expires_at)
                    for part, file in zip(parts, outcome.files, strict=True)
                ],
            )  # fmt: skip
            common = about(request, version=version, attempt=claim.attempt, at=now)
            job: dict[str, Any] = {
                "title": request.title, "source": request.question.source, "type": request.question.type,
            }  # fmt: skip
            await outbox.append(
                connection,
                [
                    *(ArtifactStored(**common, **job, part=part, expires_at=expires_at) for part in parts),
                    RunSucceeded(
                        **common, rows=outcome.rows, bytes=outcome.bytes, parts=len(parts), snapshot=outcome.snapshot,
                        manifest_id=domain.manifest_id(claim.run_id), manifest_sha256=manifest,
                        schema_id=domain.schema_id(claim.run_id),
                    ),
                ],
            )  # fmt: skip
            failpoints.reached("exporter.terminal")
        failpoints.reached("exporter.succeeded")

    async def published(self, claim: Claim) -> bool:
        """Whether this very attempt succeeded, so that its bytes belong to somebody."""
        async with self._database.transaction() as connection:
            found = await connection.fetchval(
                "SELECT true FROM runs WHERE run_id = $1 AND attempt = $2 AND state = 'succeeded'",
                claim.run_id, claim.attempt,
            )  # fmt: skip
        return bool(found)

    async def fail_attempt(self, claim: Claim, failure: Failure) -> RunState:
        """End the attempt, and say what that makes of the run: queued again after the backoff, or failed for good.

        A run that shall be cancelled is not queued again but cancelled. Raises Fenced.
        """
        async with self._database.transaction() as connection:
            if claim.is_last or not failure.repeatable:
                await self._fail(connection, claim, failure)
                return RunState.FAILED
            return await self._requeue(connection, claim, failure, claim.request.retry.backoff, spare=0)

    async def hand_over(self, claim: Claim) -> None:
        """Give the run back at once because this process stops; the attempt does not count. Raises Fenced."""
        stopping = Failure("worker_stopped", "The worker was stopped; another one takes over.", repeatable=True)
        async with self._database.transaction() as connection:
            await self._requeue(connection, claim, stopping, timedelta(0), spare=1)

    async def cancel(self, claim: Claim) -> None:
        """End the run as it was ordered. Raises Fenced, also when nothing was ordered."""
        async with self._database.transaction() as connection:
            actor = await self._cancel_actor(connection, claim)
            if actor is None:
                raise Fenced
            await self._cancel(connection, claim, actor)

    async def _extend_chain(
        self, connection: Connection, claim: Claim, now: datetime, seal_manifest: SealManifest
    ) -> str:
        """Append the run's manifest to its job's chain, one run at a time; returns its SHA-256."""
        request = claim.request
        previous: str | None = await connection.fetchval(
            """INSERT INTO chain_heads (job_id, tenant) VALUES ($1, $2)
               ON CONFLICT (job_id) DO UPDATE SET tenant = excluded.tenant  -- takes the row lock
               RETURNING manifest_sha256""",
            request.job_id, request.tenant,
        )  # fmt: skip
        digest = await self._keep_document(
            connection, claim, "manifest", domain.manifest_id(claim.run_id), domain.manifest_name(claim.run_id),
            seal_manifest(now, previous),
        )  # fmt: skip
        await connection.execute(
            "UPDATE chain_heads SET manifest_sha256 = $2 WHERE job_id = $1", request.job_id, digest
        )
        return digest

    async def _keep_schema(self, connection: Connection, claim: Claim, body: bytes) -> None:
        await self._keep_document(
            connection, claim, "schema", domain.schema_id(claim.run_id), domain.schema_name(claim.run_id), body
        )

    async def _keep_document(
        self, connection: Connection, claim: Claim, kind: str, document_id: UUID, file_name: str, body: bytes
    ) -> str:
        """Write down what the run keeps for good; returns its SHA-256."""
        digest = sha256(body).hexdigest()
        await connection.execute(
            """INSERT INTO documents (document_id, run_id, tenant, kind, file_name, body, sha256)
               VALUES ($1, $2, $3, $4, $5, $6, $7)""",
            document_id, claim.run_id, claim.request.tenant, kind, file_name, body, digest,
        )  # fmt: skip
        return digest
