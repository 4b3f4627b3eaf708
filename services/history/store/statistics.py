"""Sums of runs."""

from collections.abc import Collection, Mapping
from datetime import date
from typing import Final, LiteralString

import asyncpg

from services.history.store.statement import Conditions, Reading

GROUPS: Final[Mapping[str, LiteralString]] = {"day": "day", "source": "source", "type": "type"}
"""What runs are summed up by."""
_ABSENT: Final[Mapping[str, LiteralString]] = {
    "day": "NULL::date AS day", "source": "NULL AS source", "type": "NULL AS type",
}  # fmt: skip


class StatisticsStore(Reading):
    """How many runs ended, and how."""

    async def statistics(
        self, tenant: str, first: date, last: date, group: Collection[str], limit: int
    ) -> list[asyncpg.Record]:
        """At most `limit` sums over the runs of `tenant` that ended from the day `first` to `last`, in order."""
        only = Conditions(tenant)
        only.add("day BETWEEN {} AND {}", first, last)
        keys: LiteralString = ", ".join(GROUPS[name] for name in GROUPS if name in group)
        shown: LiteralString = ", ".join(GROUPS[name] if name in group else _ABSENT[name] for name in GROUPS)
        grouped: LiteralString = f"GROUP BY {keys} ORDER BY {keys}" if keys else "HAVING count(*) > 0"
        async with self.reading(tenant) as connection:
            return await connection.fetch(
                f"""SELECT {shown}, sum(succeeded)::bigint AS succeeded, sum(failed)::bigint AS failed,
                           sum(cancelled)::bigint AS cancelled, sum(rows) AS rows, sum(bytes) AS bytes,
                           (sum(duration_seconds) / nullif(sum(succeeded), 0))::double precision
                             AS mean_duration_seconds,
                           CASE WHEN sum(succeeded) > 0 THEN max(longest_seconds)::double precision END
                             AS longest_duration_seconds
                    FROM statistics WHERE {only.text} {grouped} LIMIT {limit}""",
                *only.arguments,
            )
