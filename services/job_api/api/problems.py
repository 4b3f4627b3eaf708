"""Every refusal of the domain as the answer a caller gets."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from services.job_api.domain import errors
from shared.http import Problem, invalid, not_found, wrong
from shared.preconditions import etag


def _settings_refused(error: errors.SettingsRefused) -> Problem:
    return Problem(422, "invalid", str(error), errors=[asdict(fault) for fault in error.faults])


def _version_mismatch(error: errors.VersionMismatch) -> Problem:
    return Problem(
        412, "version-mismatch", f"The job has version {error.current} by now: read it again, then change that.",
        headers={"ETag": etag(error.current)}, version=error.current,
    )  # fmt: skip


PROBLEMS: Final[Mapping[type[Exception], Callable[[Any], Problem]]] = {
    errors.NotFound: lambda error: not_found(error.what),
    errors.VersionMismatch: _version_mismatch,
    errors.IdempotencyKeyReused: lambda _: Problem(
        422, "idempotency-key-reused", "This Idempotency-Key was sent with another request before: use a new one.",
    ),
    errors.SettingsRefused: _settings_refused,
    errors.SettingsMalformed: lambda error: wrong(error.found, error.settings),
    errors.CertificateRefused: lambda error: invalid("/", str(error), "Send another certificate."),
    errors.CertificateRequired: lambda _: Problem(
        409, "certificate-required",
        "The job is encrypted, and there is no valid certificate for it: add one under /api/v1/certificates first.",
    ),
    errors.OneTimeNotEditable: lambda _: Problem(
        409, "one-time-not-editable", "A one-time job can't be edited once it was submitted: clone it.",
    ),
    errors.OneTimeNotResumable: lambda _: Problem(
        409, "one-time-not-resumable", "This one-time job was run, so it can't be resumed: run it again, or clone it.",
    ),
    errors.JobInProgress: lambda error: Problem(409, "job-in-progress", str(error), **error.named),
    errors.RunFinished: lambda error: Problem(409, "run-finished", str(error)),
}  # fmt: skip
