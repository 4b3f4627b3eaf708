"""The statements behind `GET /jobs`: one for each order, and for its first page and the pages behind it.

They are put together once, from the constants in this file; what callers send only ever becomes an argument. Each
order has an index of its own, so a page costs the rows it shows, wherever it begins. An optional condition on the
place would not: once PostgreSQL keeps a general plan, it can't use the index to skip to the place. Nor would coalesce,
which PostgreSQL does not trust to keep secrets from row-level security, so it is not looked up in an index; CASE is.
"""

from collections.abc import Mapping
from typing import Final

from services.job_api.domain.listing import Order, Sort
from services.job_api.store.rows import JOB

_NEVER: Final = "'0001-01-02T00:00:00Z'::timestamptz"
_NOTHING_DUE: Final = "'9999-12-30T00:00:00Z'::timestamptz"
_VALUES: Final[Mapping[Sort, str]] = {
    Sort.TITLE: "title_folded",
    Sort.SOURCE: "source",
    Sort.TYPE: "type",
    Sort.STATE: 'state COLLATE "C"',
    Sort.CREATED_AT: "created_at",
    Sort.UPDATED_AT: "updated_at",
    Sort.LATEST_STATUS: "CASE WHEN latest_status IS NULL THEN '' ELSE latest_status END",
    Sort.LATEST_STARTED_AT: f"CASE WHEN latest_started_at IS NULL THEN {_NEVER} ELSE latest_started_at END",
    Sort.NEXT_SLOT_AT: f"CASE WHEN next_slot_at IS NULL THEN {_NOTHING_DUE} ELSE next_slot_at END",
}
"""As in the indexes of the migrations."""


def _statement(order: Order, *, behind: bool) -> str:
    value = _VALUES[order.sort]
    direction, beyond = ("DESC", "<") if order.descending else ("ASC", ">")
    place = f"AND ({value}, id) {beyond} ($9, $10::uuid)" if behind else ""
    return f"""
        SELECT {JOB}, {value} AS value
        FROM jobs
        WHERE tenant = $1 AND state <> 'deleted'
          AND ($2::text IS NULL OR source = $2)
          AND ($3::text IS NULL OR type = $3)
          AND ($4::text IS NULL OR state = $4)
          AND ($5::text IS NULL OR latest_status = $5)
          AND ($6::text IS NULL OR strpos(search_text, $6) > 0)
          AND ($7::jsonb IS NULL OR labels @> $7)
          {place}
        ORDER BY {value} {direction}, id {direction}
        LIMIT $8"""


STATEMENTS: Final[Mapping[tuple[Order, bool], str]] = {
    (Order(sort, descending), behind): _statement(Order(sort, descending), behind=behind)
    for sort in Sort
    for descending in (False, True)
    for behind in (False, True)
}
"""By order, and whether the page begins behind a place."""
