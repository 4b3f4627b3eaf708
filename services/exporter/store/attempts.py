"""What workers do with runs: claim, beat, and write down how an attempt ended."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from hashlib import sha256

from services.exporter import domain
from services.exporter.domain import Claim, Failure, Outcome
from services.exporter.store.steps import CancelOrdered, Fenced, Part, about
from shared import failpoints, outbox
from shared.database import Connection, database_now
from shared.events import ArtifactStored, RunAttemptFailed, RunEvent, RunRequested, RunStarted, RunState, RunSucceeded
from shared.events import Part as PartFact

LOST = Failure("worker_lost", "The worker stopped responding; its lease expired.", repeatable=True)

SealManifest = Callable[[datetime, str | None], bytes]
"""Makes the signed manifest, given the database's clock and the SHA-256 of the job's previous manifest."""


class AttemptStore(Part):
    """Attempts and their leases."""

    async def claim_run(self, worker: str, lease: timedelta, abandoned: list[Claim] | None = None) -> Claim | None:
        """Take the oldest run that is due, or whose worker's lease has expired, as a new attempt.

        A lost run that shall be cancelled, or whose last allowed attempt it was, ends instead, and the next one is
        looked at; `abandoned` gets such attempts, because what they stored is left to the caller.
        """
        while True:
            async with self._database.transaction() as connection:
                row = await connection.fetchrow(
                    """SELECT request, state, version, attempt, attempts_allowed, cancel_ordered_by FROM runs
                       WHERE (state = 'queued' AND not_before <= clock_timestamp())
                          OR (state = 'running' AND lease_until < clock_timestamp())
                       ORDER BY queued_at LIMIT 1
                       FOR UPDATE SKIP LOCKED"""
                )
                if row is None:
                    return None
                request = RunRequested.model_validate(row["request"])
                lost = Claim(request, row["attempt"], row["attempts_allowed"]) if row["state"] == "running" else None
                actor: str | None = row["cancel_ordered_by"]
                if lost is not None and (actor is not None or lost.is_last):
                    if actor is not None:
                        await self._cancel(connection, lost, actor)
                    else:
                        await self._fail(connection, lost, LOST)
                    if abandoned is not None:
                        abandoned.append(lost)
                    continue
                version = row["version"]
                now = await database_now(connection)
                events: list[RunEvent] = []
                if lost is not None:
                    version += 1
                    common = about(request, version=version, attempt=lost.attempt, at=now)
                    events.append(RunAttemptFailed(**common, reason=LOST.reason, message=LOST.message))
                version += 1
                claim = Claim(request, row["attempt"] + 1, row["attempts_allowed"])
                events.append(
                    RunStarted(**about(request, version=version, attempt=claim.attempt, at=now), worker=worker)
                )
                await connection.execute(
                    """UPDATE runs SET state = 'running', version = $2, attempt = $3, worker = $4,
                                       lease_until = clock_timestamp() + $5
                       WHERE run_id = $1""",
                    request.run_id, version, claim.attempt, worker, lease,
                )  # fmt: skip
                await outbox.append(connection, events)
            failpoints.reached("exporter.claimed")
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
            expires_at = now + self._retention
            parts = [
                PartFact(
                    artifact_id=domain.artifact_id(claim.run_id, claim.attempt, file.number),
                    number=file.number, file_name=file.file_name, size_bytes=file.size_bytes,
                    rows=file.rows, sha256=file.sha256,
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
            await outbox.append(
                connection,
                [
                    *(ArtifactStored(**common, part=part, expires_at=expires_at) for part in parts),
                    RunSucceeded(
                        **common, rows=outcome.rows, bytes=outcome.bytes, parts=len(parts), snapshot=outcome.snapshot,
                        manifest_id=domain.manifest_id(claim.run_id), manifest_sha256=manifest,
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
        body = seal_manifest(now, previous)
        digest = sha256(body).hexdigest()
        await connection.execute(
            """INSERT INTO manifests (manifest_id, run_id, tenant, file_name, body, sha256)
               VALUES ($1, $2, $3, $4, $5, $6)""",
            domain.manifest_id(claim.run_id), claim.run_id, request.tenant,
            domain.manifest_name(claim.run_id), body, digest,
        )  # fmt: skip
        await connection.execute(
            "UPDATE chain_heads SET manifest_sha256 = $2 WHERE job_id = $1", request.job_id, digest
        )
        return digest
