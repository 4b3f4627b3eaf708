"""Between a run and the pipeline: what is asked of it, and what its result or its failure means."""

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from pydantic import SecretStr

from services.exporter.domain import Claim, Failure, Outcome, StoredFile, schema_name
from services.exporter.pipeline import (
    Cancelled,
    Content,
    Encryption,
    FieldUnknown,
    Output,
    PipelineError,
    Query,
    Result,
    RowTooLarge,
    SourceExhausted,
    SourceRefused,
    SourceTooSlow,
    SourceUnavailable,
    StoreFailed,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
    TypeUnknown,
)
from services.exporter.pipeline.content import tenant_key
from services.exporter.pipeline.manifest import DataInterval, Manifest, SchemaRecord, SigningKey, document
from services.exporter.store import SealManifest
from shared.events import Question
from shared.sources import Sources, SourcesInvalid


class Unanswerable(Exception):
    """The run can't be answered, and trying again would not change that."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def asked(claim: Claim, sources: Sources, masking_key: SecretStr | None) -> tuple[Query, Output]:
    """The run's question as the pipeline takes it. Raises Unanswerable, SourcesInvalid."""
    request = claim.request
    question = request.question
    source = sources.visible_to(request.tenant).get(question.source)
    data_type = source.types.get(question.type) if source else None
    if source is None or data_type is None:
        raise Unanswerable(
            "source_unknown",
            f"The operator's sources have no {question.source}/{question.type} for this tenant any more.",
        )
    if question.encryption == "none" and not source.allow_plaintext:
        raise Unanswerable(
            "plaintext_not_allowed", f"The operator does not allow files without encryption from {question.source}."
        )
    output = Output(
        run=str(claim.run_id),
        split_bytes=question.split_bytes,
        modified_at=question.interval_to,
        encryption=Encryption(question.encryption),
        content=_content(question, request.tenant, masking_key),
    )
    return Query.answering(question, request.tenant, source, data_type), output


def usable(known: Sequence[str], now: datetime) -> list[x509.Certificate]:
    """The certificates (PEM) that are valid now. Raises Unanswerable when there is none, and says why."""
    certificates = [x509.load_pem_x509_certificate(pem.encode()) for pem in known]
    valid = [c for c in certificates if c.not_valid_before_utc <= now <= c.not_valid_after_utc]
    if valid:
        return valid
    ends = [c.not_valid_after_utc for c in certificates if c.not_valid_after_utc < now]
    why = f"the last one expired on {max(ends):%Y-%m-%d at %H:%M:%S} UTC" if ends else "there is none"
    raise Unanswerable(
        "certificate_required", f"No valid certificate to encrypt for: {why}. Add a current one, then retry the run."
    )


def _content(question: Question, tenant: str, masking_key: SecretStr | None) -> Content:
    masking = question.masking or {}
    if "hash" not in masking.values():
        return Content(question.format, masking, csv_profile=question.csv_profile)
    if masking_key is None:
        raise Unanswerable(
            "masking_unconfigured", "This installation has no key to hash fields with: ask the operator to set one."
        )
    key = tenant_key(masking_key.get_secret_value(), tenant)
    return Content(question.format, masking, key, question.csv_profile)


def sealing(claim: Claim, result: Result, recipients: Sequence[x509.Certificate], key: SigningKey) -> SealManifest:
    """What makes the signed manifest of a result, once its place in the job's chain is known."""
    request = claim.request
    question = request.question

    def seal(now: datetime, previous: str | None) -> bytes:
        manifest = Manifest(
            run=str(claim.run_id),
            job=str(request.job_id),
            tenant=request.tenant,
            slot_key=request.slot.key,
            attempt=claim.attempt,
            source=question.source,
            type=question.type,
            data_interval=DataInterval(question.interval_from, question.interval_to),
            snapshot=result.snapshot,
            rows=result.rows,
            entities=result.entities,
            parts=result.parts,
            schema=SchemaRecord(schema_name(claim.run_id), sha256(result.schema).hexdigest()),
            recipients=[c.fingerprint(hashes.SHA256()).hex() for c in recipients],
            masking=question.masking or {},
            format=question.format,
            csv_profile=question.csv_profile,
            encryption=question.encryption,
            software_version=version("cdds"),
            created_at=now,
            previous_manifest_sha256=previous,
        )
        return key.sign(document(manifest))

    return seal


def outcome_of(result: Result) -> Outcome:
    """What a result leaves behind."""
    files = tuple(
        StoredFile(number, part.key, part.name, part.stored_bytes, part.rows, part.stored_sha256, part.entity)
        for number, part in enumerate(result.parts, start=1)
    )
    return Outcome(result.snapshot, result.rows, result.bytes, files, result.schema)


def failure_of(error: Exception) -> Failure:
    """Why an attempt ended, for people, and whether another one may do better."""
    match error:
        case Unanswerable():
            return Failure(error.reason, str(error), repeatable=False)
        case FieldUnknown():
            return Failure("field_unknown", str(error), repeatable=False)
        case TypeUnknown():
            return Failure("type_unknown", str(error), repeatable=False)
        case SourceRefused():
            return Failure("source_refused", str(error), repeatable=False)
        case RowTooLarge():
            return Failure("row_too_large", str(error), repeatable=False)
        case SourcesInvalid():
            return Failure("source_unconfigured", str(error), repeatable=True)
        case Cancelled():
            return Failure("stopped", str(error), repeatable=True)
        case SourceTooSlow():
            return Failure("source_too_slow", str(error), repeatable=True)
        case SourceExhausted():
            return Failure("source_exhausted", str(error), repeatable=True)
        case SourceUnavailable():
            return Failure("source_unavailable", str(error), repeatable=True)
        case StoreFull():
            return Failure("store_full", str(error), repeatable=True)
        case StoreReadOnly():
            return Failure("store_read_only", str(error), repeatable=True)
        case StoreUnreachable():
            return Failure("store_unreachable", str(error), repeatable=True)
        case StoreFailed():
            return Failure("store_failed", str(error), repeatable=True)
        case PipelineError():
            return Failure("export_failed", str(error), repeatable=True)
        case _:
            # A fault of ours; the log has it, people get no internals.
            return Failure("internal", "The export failed on our side; the log has the details.", repeatable=True)
