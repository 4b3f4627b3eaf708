"""The HTTP edge of job_api: commands on jobs and certificates."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from services.job_api import domain
from services.job_api.domain import Certificate
from services.job_api.store import JobRow, Store
from shared.clock import UtcDatetime
from shared.events import Job, JobState, RunState, SuspendedReason
from shared.http import Administrator, Problem, Reader, cursor, invalid, not_found, read_cursor
from shared.jobs import JobSettings
from shared.sources import Sources


class LatestRunAnswer(BaseModel):
    """How the newest run of a job goes."""

    id: UUID
    state: RunState
    started_at: UtcDatetime | None
    percent: float | None
    remaining_seconds: float | None


class JobAnswer(BaseModel):
    """A job; `settings` is what is written, the rest is read-only."""

    id: UUID
    version: int
    state: JobState
    suspended_reason: SuspendedReason | None
    created_at: UtcDatetime
    updated_at: UtcDatetime
    created_by: str
    next_slot_at: UtcDatetime | None
    latest_run: LatestRunAnswer | None
    settings: JobSettings


class JobsAnswer(BaseModel):
    """A page of jobs; `next` is the `after` of the following page."""

    items: list[JobAnswer]
    next: str | None


class CertificateAnswer(BaseModel):
    """A certificate; `warnings` says what its owner should know."""

    fingerprint: str
    subject: str
    not_before: UtcDatetime
    not_after: UtcDatetime
    warnings: list[str]


class CertificatesAnswer(BaseModel):
    """All certificates of the tenant."""

    items: list[CertificateAnswer]
    next: None = None


def router(store: Store, sources: Sources) -> APIRouter:
    """The routes under `/api/v1`."""
    api = APIRouter(prefix="/api/v1")

    @api.post("/jobs", status_code=201, tags=["jobs"])
    async def submit_job(settings: JobSettings, caller: Administrator, response: Response) -> JobAnswer:
        """Submit a job; its first slot is computed by the scheduler at once."""

        def decide(now: datetime, certificates: list[Certificate]) -> Job:
            return domain.new_job(
                settings, job_id=uuid4(), created_by=caller.subject, now=now,
                sources=sources.visible_to(caller.tenant), certificates=certificates,
            )  # fmt: skip

        job = await store.create_job(caller.tenant, decide)
        response.headers["ETag"] = f'"{job.version}"'
        response.headers["Location"] = f"/api/v1/jobs/{job.id}"
        return _answer(JobRow(job, None, None))

    @api.get("/jobs", tags=["jobs"])
    async def list_jobs(
        caller: Reader, limit: Annotated[int, Query(ge=1, le=200)] = 50, after: str | None = None
    ) -> JobsAnswer:
        """Jobs, newest first."""
        rows = await store.list_jobs(caller.tenant, limit + 1, read_cursor(after))
        page = rows[:limit]
        more = cursor(page[-1].job.created_at, page[-1].job.id) if len(rows) > limit else None
        return JobsAnswer(items=[_answer(row) for row in page], next=more)

    @api.get("/jobs/{job_id}", tags=["jobs"])
    async def read_job(job_id: UUID, caller: Reader, response: Response) -> JobAnswer:
        """One job."""
        row = await store.job(caller.tenant, job_id)
        if row is None:
            raise not_found("job")
        response.headers["ETag"] = f'"{row.job.version}"'
        return _answer(row)

    @api.post(
        "/certificates",
        status_code=201,
        tags=["certificates"],
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/x-pem-file": {}, "application/pkix-cert": {}}}
        },
    )
    async def add_certificate(request: Request, caller: Administrator) -> CertificateAnswer:
        """Add an X.509 RSA certificate (PEM or DER body) that exports are encrypted for."""
        body = await request.body()
        seen: list[datetime] = []

        def read(now: datetime) -> Certificate:
            seen.append(now)
            return domain.read_certificate(body, now)

        certificate = await store.add_certificate(caller.tenant, caller.subject, read)
        return _certificate(certificate, seen[0])

    @api.get("/certificates", tags=["certificates"])
    async def list_certificates(caller: Reader) -> CertificatesAnswer:
        """The tenant's certificates, the one that lasts longest first."""
        now, certificates = await store.certificates(caller.tenant)
        return CertificatesAnswer(items=[_certificate(certificate, now) for certificate in certificates])

    return api


def _settings_refused(error: domain.SettingsRefused) -> Problem:
    errors = [{"pointer": f.pointer, "message": f.message, "remedy": f.remedy} for f in error.faults]
    return Problem(422, "invalid", str(error), errors=errors)


PROBLEMS: Mapping[type[Exception], Callable[[Any], Problem]] = {
    domain.SettingsRefused: _settings_refused,
    domain.CertificateRequired: lambda _: Problem(
        409, "certificate-required",
        "The job is encrypted, and the tenant has no valid certificate: add one under /api/v1/certificates first.",
    ),
    domain.CertificateRefused: lambda error: invalid("/", str(error), "Send another certificate."),
    domain.KeyTaken: lambda error: invalid("/key", f"another job has the key {error}", "Use another key."),
}  # fmt: skip
"""Every refusal of the domain as the answer a caller gets."""


def _answer(row: JobRow) -> JobAnswer:
    run = row.latest_run
    return JobAnswer(
        **row.job.model_dump(exclude={"settings"}),
        settings=row.job.settings,
        next_slot_at=row.next_slot_at,
        latest_run=None
        if run is None
        else LatestRunAnswer(
            id=run.id, state=run.state, started_at=run.started_at, percent=run.percent,
            remaining_seconds=run.remaining_seconds,
        ),
    )  # fmt: skip


def _certificate(certificate: Certificate, now: datetime) -> CertificateAnswer:
    return CertificateAnswer(
        fingerprint=certificate.fingerprint,
        subject=certificate.subject,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        warnings=domain.warnings(certificate, now),
    )
