"""The rules of runs: who is next, what a claim is, how progress is told, and which question a job would ask next."""

from services.exporter.domain.files import (
    AttemptBytes,
    Doomed,
    Download,
    Outcome,
    StoredFile,
    artifact_id,
    manifest_id,
    manifest_name,
    schema_id,
    schema_name,
)
from services.exporter.domain.progress import Counts, percent_done, progress, remaining_seconds
from services.exporter.domain.questions import (
    Fault,
    SettingsRefused,
    asked_type,
    check_fields,
    measurable,
    next_question,
)
from services.exporter.domain.runs import CYCLE, Claim, Failure, Lane, OpenRuns, lanes_for

__all__ = [
    "CYCLE",
    "AttemptBytes",
    "Claim",
    "Counts",
    "Doomed",
    "Download",
    "Failure",
    "Fault",
    "Lane",
    "OpenRuns",
    "Outcome",
    "SettingsRefused",
    "StoredFile",
    "artifact_id",
    "asked_type",
    "check_fields",
    "lanes_for",
    "manifest_id",
    "manifest_name",
    "measurable",
    "next_question",
    "percent_done",
    "progress",
    "remaining_seconds",
    "schema_id",
    "schema_name",
]
