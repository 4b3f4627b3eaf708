"""The ledger of slots: those that became runs, those that did not, and those that wait."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, LiteralString
from uuid import UUID

import asyncpg

from services.history.domain.listing import SlotFilter, SlotOutcome, SlotPlace
from services.history.store.statement import Conditions, Reading
from shared.database import Connection
from shared.slots import run_id

_REQUESTED: Final[LiteralString] = """
    SELECT requested_at AS decided_at, job_id, slot_key, slot_at, trigger, 'requested' AS outcome, NULL AS reason,
           1 AS count, run_id, job_version
    FROM executions"""
_NOT_RUN: Final[LiteralString] = """
    SELECT decided_at, job_id, slot_key, slot_at, trigger, outcome, reason, count, NULL::uuid AS run_id, job_version
    FROM slots_not_run"""
_WAITING: Final[LiteralString] = """
    SELECT waiting_at AS decided_at, job_id, slot_key, slot_at, trigger, 'waiting' AS outcome, NULL AS reason,
           1 AS count, NULL::uuid AS run_id, job_version
    FROM slots_waiting"""
_LOOK: Final = 500
"""Waiting slots that are looked at together."""


class SlotStore(Reading):
    """What became of slots."""

    async def list_slots(
        self, tenant: str, only: SlotFilter, limit: int, after: SlotPlace | None
    ) -> list[asyncpg.Record]:
        """At most `limit` slots of `tenant` behind `after`, what was decided last first.

        Each of the three kinds gives no more than a page, by its own index. Those that wait come first: one that is
        decided meanwhile is found a second time then, and not left out.
        """
        found: list[asyncpg.Record] = []
        async with self.reading(tenant) as connection:
            if only.outcome in (None, SlotOutcome.WAITING):
                found += await _waiting(connection, tenant, only, limit, after)
            if only.outcome in (None, SlotOutcome.REQUESTED):
                requested = _conditions(tenant, only)
                requested.add("title IS NOT NULL")
                found += await _page(connection, _REQUESTED, "requested_at", requested, limit, after)
            if only.outcome in (None, SlotOutcome.SKIPPED, SlotOutcome.MISSED):
                not_run = _conditions(tenant, only)
                not_run.add_equal("outcome", only.outcome)
                found += await _page(connection, _NOT_RUN, "decided_at", not_run, limit, after)
        found = list({(row["job_id"], row["slot_key"]): row for row in found}.values())
        found.sort(key=lambda row: (row["decided_at"], row["job_id"], row["slot_key"]), reverse=True)
        return found[:limit]

    async def slots_not_run(
        self, tenant: str, job_id: UUID, since: datetime, limit: int
    ) -> tuple[list[asyncpg.Record], dict[int, Mapping[str, object]]]:
        """At most `limit` slots of a job of `tenant` that became no run since then, and its settings by version."""
        async with self.reading(tenant) as connection:
            slots = await connection.fetch(
                """SELECT slot_at, reason, count, job_version FROM slots_not_run
                   WHERE tenant = $1 AND job_id = $2 AND decided_at >= $3
                   ORDER BY decided_at DESC LIMIT $4""",
                tenant, job_id, since, limit,
            )  # fmt: skip
            settings = await connection.fetch(
                """SELECT version, settings FROM job_versions
                   WHERE tenant = $1 AND job_id = $2 AND version = ANY($3) AND settings IS NOT NULL""",
                tenant, job_id, list({slot["job_version"] for slot in slots}),
            )  # fmt: skip
        return slots, {row["version"]: row["settings"] for row in settings}


def _conditions(tenant: str, only: SlotFilter) -> Conditions:
    conditions = Conditions(tenant)
    conditions.add_equal("job_id", only.job_id)
    conditions.add_equal("trigger", only.trigger)
    conditions.add_range("slot_at", only.at)
    return conditions


async def _page(
    connection: Connection, select: LiteralString, decided_at: LiteralString, only: Conditions, limit: int,
    after: SlotPlace | None,
) -> list[asyncpg.Record]:  # fmt: skip
    """At most `limit` slots of one kind behind `after`."""
    here = only.copy()
    if after is not None:
        here.add(
            "(" + decided_at + ', job_id, slot_key COLLATE "C") < ({}, {}, {})',
            after.decided_at, after.job_id, after.slot_key,
        )  # fmt: skip
    return await connection.fetch(
        f"""{select} WHERE {here.text}
            ORDER BY {decided_at} DESC, job_id DESC, slot_key COLLATE "C" DESC LIMIT {limit}""",
        *here.arguments,
    )


async def _waiting(
    connection: Connection, tenant: str, only: SlotFilter, limit: int, after: SlotPlace | None
) -> list[asyncpg.Record]:
    """At most `limit` slots behind `after` that wait still; a backfill leaves thousands that were decided since."""
    found: list[asyncpg.Record] = []
    while len(found) < limit:
        rows = await _page(connection, _WAITING, "waiting_at", _conditions(tenant, only), _LOOK, after)
        decided = await _decided(connection, tenant, rows)
        found += [row for row in rows if (row["job_id"], row["slot_key"]) not in decided]
        if len(rows) < _LOOK:
            break
        after = SlotPlace(rows[-1]["decided_at"], rows[-1]["job_id"], rows[-1]["slot_key"])
    return found[:limit]


async def _decided(connection: Connection, tenant: str, waiting: Sequence[asyncpg.Record]) -> set[tuple[UUID, str]]:
    """Which of these slots were decided since they waited. That a slot became a run is known by the run's name."""
    if not waiting:
        return set()
    since = min(row["decided_at"] for row in waiting)
    slots_of = {run_id(row["job_id"], row["slot_key"]): (row["job_id"], row["slot_key"]) for row in waiting}
    runs = await connection.fetch(
        "SELECT run_id FROM executions WHERE tenant = $1 AND run_id = ANY($2) AND requested_at >= $3",
        tenant, list(slots_of), since,
    )  # fmt: skip
    not_run = await connection.fetch(
        """SELECT job_id, slot_key FROM slots_not_run
           WHERE tenant = $1 AND job_id = ANY($2) AND decided_at >= $3 AND slot_key = ANY($4)""",
        tenant, list({row["job_id"] for row in waiting}), since, [row["slot_key"] for row in waiting],
    )  # fmt: skip
    return {slots_of[row["run_id"]] for row in runs} | {(row["job_id"], row["slot_key"]) for row in not_run}
