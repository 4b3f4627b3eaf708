"""The console's words for states, triggers and reasons."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from shared.auth import Scope

STATES: Final = {
    "waiting": "Waiting",
    "requested": "Waiting",
    "queued": "Waiting",
    "running": "In Progress",
    "succeeded": "Finished",
    "failed": "Failed",
    "cancelled": "Cancelled",
}
"""Of a run, or of a slot that waits to become one."""

TRIGGERS: Final = {
    "schedule": "Schedule",
    "immediate": "Immediately",
    "manual": "Run now",
    "retry": "Retry",
    "backfill": "Backfill",
}

OUTCOMES: Final = {
    "waiting": "Waiting",
    "requested": "Requested",
    "skipped": "Skipped",
    "missed": "Missed",
}
"""What became of a slot."""

SUSPENDED: Final = {
    "user": "Suspended",
    "one_time": "Suspended: a one-time job that was submitted to run",
    "failures": "Suspended after too many failures in a row",
}


def title(slug: str) -> str:
    """The name of a source or type as people read it; operators name them in slugs.

    >>> title("contact_history"), title("ucs"), title("interaction")
    ('Contact History', 'UCS', 'Interaction')
    """
    words = slug.replace("-", "_").split("_")
    return " ".join(word.upper() if len(word) <= 3 else word.capitalize() for word in words)


def source_options(sources: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The sources to choose from, with the titles that their operator gave them."""
    return [(source["name"], source["title"]) for source in sources]


def type_options(sources: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The types of all sources to choose from."""
    names = {type_["name"] for source in sources for type_ in source["types"]}
    return [(name, title(name)) for name in sorted(names)]


def role_of(scopes: Collection[str]) -> str:
    """The role that a token's scopes make.

    >>> role_of({"cdds.read", "cdds.operate"}), role_of({"cdds.read"})
    ('operator', 'viewer')
    """
    for role, scope in (("admin", Scope.ADMINISTER), ("operator", Scope.OPERATE), ("viewer", Scope.READ)):
        if scope in scopes:
            return role
    return "none"


_OF_THE_JOB: Final = frozenset(
    {
        *("field_unknown", "type_unknown", "masking_unconfigured", "plaintext_not_allowed", "row_too_large"),
        *("source_exhausted", "source_too_slow", "source_unknown"),
    }
)
"""Why a run failed that its job's settings can remedy."""


def remedied_at(execution: Mapping[str, Any]) -> tuple[str, str]:
    """Where a failure is remedied: what the link says, and its address.

    >>> remedied_at({"reason": "certificate_required", "run_id": "r", "job_id": "j"})
    ('Add a certificate', '/preferences')
    """
    if execution["reason"] == "certificate_required":
        return "Add a certificate", "/preferences"
    if execution["reason"] in _OF_THE_JOB:
        return "Edit the job", f"/jobs/{execution['job_id']}/edit"
    return "See the run", f"/history/{execution['run_id']}"
