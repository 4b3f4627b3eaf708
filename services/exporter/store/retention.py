"""How the bytes of parts come to their end, and which bytes belong to nobody."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final
from uuid import UUID

from services.exporter.domain import AttemptBytes, Doomed
from services.exporter.store.steps import Part
from shared import failpoints, outbox
from shared.database import database_now
from shared.events import ArtifactDeleted

RETENTION: Final = "retention"
"""The actor of what nobody asked for."""


class RetentionStore(Part):
    """Deletions, and the look through the object store."""

    async def take_deletions(self, most: int, lease: timedelta) -> list[Doomed]:
        """Parts to delete, expired or asked for, at most that many; nobody else gets them before the lease is over.

        What is not finished then comes again, in another order, so that no fault keeps meeting the same ones first.
        """
        async with self._database.transaction() as connection:
            await connection.execute(
                """UPDATE artifacts SET state = 'deleting', deletion_reason = 'expired', deletion_actor = $2,
                                        deletion_due_at = now()
                   WHERE artifact_id IN (SELECT artifact_id FROM artifacts
                                         WHERE state = 'available' AND expires_at <= now()
                                         ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)""",
                most, RETENTION,
            )  # fmt: skip
            rows = await connection.fetch(
                """UPDATE artifacts SET deletion_due_at = now() + $2::interval * (1 + random())
                   WHERE artifact_id IN (SELECT artifact_id FROM artifacts
                                         WHERE state = 'deleting' AND deletion_due_at <= now()
                                         ORDER BY deletion_due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
                   RETURNING artifact_id, object_key""",
                most, lease,
            )  # fmt: skip
        return [Doomed(**row) for row in rows]

    async def finish_deletions(self, artifact_ids: Sequence[UUID]) -> int:
        """Write down that the bytes are gone, and tell of it; says of how many, because each is told of once."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(
                """UPDATE artifacts SET state = 'deleted', deleted_at = now()
                   FROM runs
                   WHERE artifact_id = ANY($1) AND artifacts.state = 'deleting' AND runs.run_id = artifacts.run_id
                   RETURNING artifacts.tenant, artifacts.run_id, artifact_id, deletion_reason AS reason,
                             deletion_actor AS actor, (request->>'occurred_at')::timestamptz AS requested_at""",
                artifact_ids,
            )
            now = await database_now(connection)
            await outbox.append(connection, [ArtifactDeleted(**row, occurred_at=now) for row in rows])
            failpoints.reached("exporter.deletion_told")
        return len(rows)

    @asynccontextmanager
    async def sweep(self, interval: timedelta) -> AsyncGenerator[bool]:
        """Whether the object store is to be looked through now, by the caller and nobody else for as long as this
        lasts; then it is not due again before `interval` is over."""
        async with self._database.session() as connection:
            # The lock lives and dies with this connection; the pool's own reset gives it back.
            first = await connection.fetchval("SELECT pg_try_advisory_lock(hashtext('cdds.exporter.sweep'))")
            due = first and await connection.fetchval(
                "UPDATE sweeps SET due_at = now() + $1 WHERE due_at <= now() RETURNING true", interval
            )
            yield bool(due)

    async def orphans(
        self, found: Sequence[AttemptBytes], age: timedelta, age_of_unknown: timedelta
    ) -> list[AttemptBytes]:
        """Those of the attempts `found` whose bytes belong to nobody and will not any more.

        Bytes belong to an attempt that is running, whatever its lease says: its worker may come back in time. And to
        the one that succeeded, while it has parts that are not deleted. All others are dead, and no attempt comes
        twice. Younger than `age` they are left to the worker, which cleans up after itself. An attempt that the
        database has not heard of is spared for `age_of_unknown`.
        """
        async with self._database.transaction() as connection:
            rows = await connection.fetch(
                """SELECT place
                   FROM unnest($1::uuid[], $2::int[], $3::timestamptz[]) WITH ORDINALITY
                        AS found (run_id, attempt, newest, place)
                   LEFT JOIN runs USING (run_id)
                   WHERE CASE
                     WHEN runs.attempt IS NULL OR found.attempt > runs.attempt THEN newest < now() - $5::interval
                     WHEN newest >= now() - $4::interval THEN false
                     WHEN found.attempt < runs.attempt THEN true
                     WHEN state = 'succeeded' THEN NOT EXISTS (
                       SELECT FROM artifacts WHERE artifacts.run_id = found.run_id AND artifacts.state <> 'deleted')
                     ELSE state <> 'running'
                   END""",
                [each.run_id for each in found], [each.attempt for each in found], [each.newest for each in found],
                age, age_of_unknown,
            )  # fmt: skip
        return [found[row["place"] - 1] for row in rows]
