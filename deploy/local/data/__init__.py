"""Data to export: two generated contact centres, `ucs` and `contact_history`, and one real table, `flights`.

One PostgreSQL database, which the caller creates, holds a schema for each. Loading replaces what was there, and the
same arguments give the same rows on any machine, so that a test, a benchmark and a demonstration can talk about the
same data. Reading order: `load`, `generator` (what a row is), `vocabulary` (what people write), `rendering` and
`chance` (how a column of values becomes bytes without a loop over rows).
"""

from deploy.local.data.load import (
    END,
    START,
    TENANTS,
    Loaded,
    Source,
    create_schema,
    load_contacts,
    load_flights,
    load_interactions,
)

__all__ = [
    "END",
    "START",
    "TENANTS",
    "Loaded",
    "Source",
    "create_schema",
    "load_contacts",
    "load_flights",
    "load_interactions",
]
