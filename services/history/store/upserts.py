"""The statements that merge what a batch says about runs and files with what is stored.

Each is put together once from the columns below; many rows go as one array per column (docs/decisions/0020).
"""

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

_SAID_ONCE: Final = "coalesce(known.{0}, excluded.{0})"
_GREATEST: Final = "greatest(known.{0}, excluded.{0})"
_GREATER_VERSION: Final = (
    "CASE WHEN excluded.reason_version > known.reason_version THEN excluded.{0} ELSE known.{0} END"
)
_EXECUTION: Final[Mapping[str, tuple[str, str]]] = {
    "requested_at": ("timestamptz", ""),
    "run_id": ("uuid", ""),
    "tenant": ("text", ""),
    "job_id": ("uuid", ""),
    **{
        name: (kind, _SAID_ONCE)
        for name, kind in {
            "job_version": "integer", "title": "text", "title_folded": "text", "source": "text", "type": "text",
            "trigger": "text", "slot_key": "text", "slot_at": "timestamptz", "interval_from": "timestamptz",
            "interval_to": "timestamptz", "question": "text", "retry_of": "uuid",
        }.items()
    },
    "state": (
        "text",
        """CASE WHEN known.finished_at IS NULL
                     AND (excluded.finished_at IS NOT NULL OR excluded.version > known.version)
                    THEN excluded.state ELSE known.state END""",
    ),
    "version": ("integer", _GREATEST),
    "attempt": ("integer", _GREATEST),
    "worker": (
        "text",
        "CASE WHEN excluded.worker_attempt > known.worker_attempt THEN excluded.{0} ELSE known.{0} END",
    ),
    "worker_attempt": ("integer", _GREATEST),
    "started_at": ("timestamptz", "least(known.{0}, excluded.{0})"),
    **{
        name: (kind, _SAID_ONCE)
        for name, kind in {
            "finished_at": "timestamptz", "rows": "bigint", "bytes": "bigint", "parts": "integer", "snapshot": "text",
            "manifest_id": "uuid", "manifest_sha256": "text", "schema_id": "uuid",
        }.items()
    },
    "reason": ("text", _GREATER_VERSION),
    "message": ("text", _GREATER_VERSION),
    "reason_version": ("integer", _GREATEST),
    "cancelled_by": ("text", _SAID_ONCE),
}  # fmt: skip
"""The columns of an execution: their types, and what becomes of a stored value when a row with it is merged in."""

_FILE: Final[Mapping[str, tuple[str, str]]] = {
    "requested_at": ("timestamptz", ""),
    "artifact_id": ("uuid", ""),
    "tenant": ("text", ""),
    "run_id": ("uuid", ""),
    **{
        name: (kind, _SAID_ONCE)
        for name, kind in {
            "job_id": "uuid", "title": "text", "title_folded": "text", "source": "text", "type": "text",
            "number": "integer", "entity": "text", "file_name": "text", "size_bytes": "bigint", "rows": "bigint",
            "sha256": "text", "stored_at": "timestamptz", "expires_at": "timestamptz", "deleted_at": "timestamptz",
            "deletion_reason": "text", "deleted_by": "text",
        }.items()
    },
}  # fmt: skip


def _upsert(table: str, key: str, columns: Mapping[str, tuple[str, str]]) -> str:
    names = ", ".join(columns)
    arrays = ", ".join(f"${number}::{kind}[]" for number, (kind, _) in enumerate(columns.values(), 1))
    chosen = ", ".join(f"{name}::json" if name == "question" else name for name in columns)
    merged = ", ".join(f"{name} = {rule.format(name)}" for name, (_, rule) in columns.items() if rule)
    # In the order of the key, so that two replicas never wait for each other's rows in turn.
    return f"""INSERT INTO {table} AS known ({names})
               SELECT {chosen} FROM unnest({arrays}) AS said ({names}) ORDER BY requested_at, {key}
               ON CONFLICT (requested_at, {key}) DO UPDATE SET {merged}"""


EXECUTIONS: Final = _upsert("executions", "run_id", _EXECUTION)
FILES: Final = _upsert("artifacts", "artifact_id", _FILE)

_execution_values = attrgetter(*_EXECUTION)
_file_values = attrgetter(*_FILE)


def execution_columns(rows: Iterable[object]) -> Sequence[Any]:
    """The arguments of `EXECUTIONS`."""
    return list(zip(*map(_execution_values, rows), strict=True))


def file_columns(rows: Iterable[object]) -> Sequence[Any]:
    """The arguments of `FILES`."""
    return list(zip(*map(_file_values, rows), strict=True))
