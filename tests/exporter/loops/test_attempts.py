"""Whole attempts, with a real source, a real store and real files."""

import hashlib
import hmac
import io
import json
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import SecretStr, ValidationError

from services.exporter.config import Settings
from services.exporter.loops import Worker
from services.exporter.pipeline import ObjectStore
from services.exporter.pipeline.cms import unseal
from services.exporter.pipeline.content import tenant_key
from services.exporter.pipeline.manifest import SigningKey, verify
from services.exporter.store import Store
from shared.database import Database
from shared.sources import Sources
from tests.exporter.loops.working import added, failure_of, manifest_of, stored_files
from tests.exporter.runs import (
    LEASE,
    digest,
    expire_lease,
    names,
    published,
    requested,
)
from tests.exporter.test_pipeline_cms import identity


async def test_an_attempt_turns_the_tenants_rows_into_signed_and_sealed_files(
    worker: Worker,
    store: Store,
    database: Database,
    tmp_path: Path,
    signing_key: SigningKey,
    recipient: tuple[rsa.RSAPrivateKey, x509.Certificate],
    certificate: x509.Certificate,
) -> None:
    request = requested()
    await store.queue_run(request)

    assert await worker.step() == 1
    assert await worker.step() == 0

    *_, stored, succeeded = await published(database, request.run_id)
    assert names([stored, succeeded]) == ["ArtifactStored", "RunSucceeded"]
    kept = (tmp_path / "objects" / f"{request.run_id}/1/0001").read_bytes()
    assert stored_files(tmp_path) == [f"{request.run_id}/1/0001"]
    assert (stored.part.size_bytes, stored.part.sha256) == (len(kept), hashlib.sha256(kept).hexdigest())
    assert stored.part.file_name == f"export-{request.run_id}-0001-of-0001.zip.p7m"
    with zipfile.ZipFile(io.BytesIO(b"".join(unseal(io.BytesIO(kept), *recipient)))) as opened:
        content = opened.read(f"Interaction-{request.run_id}-0001.jsonl")
    assert [json.loads(line)["id"] for line in content.splitlines()] == list(range(2, 21, 2))
    assert b"canary of t2" not in content

    body = await manifest_of(store, request.run_id)
    public: Any = load_pem_public_key(signing_key.public_pem.encode())
    manifest = verify(body, public)
    assert digest(body) == succeeded.manifest_sha256
    assert manifest["parts"][0]["stored_sha256"] == stored.part.sha256
    assert manifest["parts"][0]["plain_sha256"] == digest(content)
    assert manifest["recipients"] == [certificate.fingerprint(hashes.SHA256()).hex()]
    assert (manifest["rows"], manifest["attempt"], manifest["tenant"]) == (10, 1, "t1")
    assert manifest["snapshot"] == succeeded.snapshot
    assert manifest["previous_manifest_sha256"] is None


async def test_each_run_of_a_job_signs_the_hash_of_the_manifest_before(
    worker: Worker, store: Store, certificate: x509.Certificate
) -> None:
    first = requested()
    second = requested(job_id=first.job_id)
    for request in (first, second):
        await store.queue_run(request)
        await worker.step()

    manifest = json.loads(await manifest_of(store, second.run_id))

    assert manifest["previous_manifest_sha256"] == digest(await manifest_of(store, first.run_id))


async def test_a_large_answer_is_split_and_every_part_is_published(
    worker: Worker, store: Store, database: Database, tmp_path: Path, certificate: x509.Certificate
) -> None:
    request = requested(type="endless", split_bytes=8 * 1024**2)
    await store.queue_run(request)

    await worker.step()

    events = await published(database, request.run_id)
    parts = [event.part for event in events if type(event).__name__ == "ArtifactStored"]
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert len(parts) > 1
    assert sum(part.rows for part in parts) == events[-1].rows == 400_000
    assert len(stored_files(tmp_path)) == len(parts)


async def test_a_source_of_one_tenant_needs_no_tenant_column_and_is_closed_to_others(
    worker: Worker, store: Store, database: Database, certificate: x509.Certificate
) -> None:
    own, foreign = (requested(source="private", type="note", tenant=tenant) for tenant in ("t1", "t2"))
    await store.keep_certificate(added(certificate).model_copy(update={"tenant": "t2"}))
    for request in (own, foreign):
        await store.queue_run(request)
        await worker.step()

    assert (await published(database, own.run_id))[-1].rows == 1
    assert await failure_of(database, foreign.run_id) == ("RunFailed", "source_unknown", 1)


@pytest.mark.parametrize("known", ["none", "expired", "of another tenant", "not named"])
async def test_without_a_valid_certificate_the_run_fails_and_no_byte_is_written(
    worker: Worker, store: Store, database: Database, tmp_path: Path, known: str
) -> None:
    event = added(identity("late", ends_in=timedelta(hours=-1) if known == "expired" else timedelta(days=1))[1])
    if known != "none":
        tenant = "t2" if known == "of another tenant" else "t1"
        await store.keep_certificate(event.model_copy(update={"tenant": tenant}))
    request = requested(recipients=("00" * 32,) if known == "not named" else None)
    await store.queue_run(request)

    assert await worker.step() == 1

    assert await failure_of(database, request.run_id) == ("RunFailed", "certificate_required", 1)
    assert stored_files(tmp_path) == []


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ({"source": "nowhere"}, "source_unknown"),
        ({"type": "parcel"}, "source_unknown"),
        ({"type": "gone"}, "source_refused"),
        ({"fields": ("id", "subject")}, "field_unknown"),
        ({"masking": {"subject": "redact"}}, "field_unknown"),
        ({"masking": {"text": "hash"}}, "masking_unconfigured"),
        ({"encryption": "none"}, "plaintext_not_allowed"),
    ],
)
async def test_what_trying_again_can_not_help_fails_at_the_first_attempt(
    worker: Worker,
    store: Store,
    database: Database,
    tmp_path: Path,
    certificate: x509.Certificate,
    question: dict[str, Any],
    reason: str,
) -> None:
    request = requested(**question)
    await store.queue_run(request)

    assert await worker.step() == 1

    assert await failure_of(database, request.run_id) == ("RunFailed", reason, 1)
    assert stored_files(tmp_path) == []


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [("postgresql://postgres@127.0.0.1:1/postgres", "source_unavailable"), (None, "source_unconfigured")],
)
async def test_a_source_that_comes_back_is_read_by_the_next_attempt(
    worker: Worker,
    store: Store,
    database: Database,
    tmp_path: Path,
    source: str,
    certificate: x509.Certificate,
    dsn: str | None,
    reason: str,
) -> None:
    request = requested()
    await store.queue_run(request)
    reference = tmp_path / "ucs.dsn"
    reference.write_text(dsn) if dsn else reference.unlink()

    assert await worker.step() == 1
    assert await failure_of(database, request.run_id) == ("RunAttemptFailed", reason, 1)
    reference.write_text(source)
    assert await worker.step() == 1

    (*_, succeeded) = await published(database, request.run_id)
    assert (type(succeeded).__name__, succeeded.attempt) == ("RunSucceeded", 2)
    assert stored_files(tmp_path) == [f"{request.run_id}/2/0001"]


async def test_what_a_dead_attempt_stored_is_removed_by_the_next_one(
    worker: Worker,
    store: Store,
    database: Database,
    objects: ObjectStore,
    tmp_path: Path,
    certificate: x509.Certificate,
) -> None:
    request = requested()
    await store.queue_run(request)
    dead = await store.claim_run("killed", LEASE)
    assert dead is not None
    objects.write(f"{dead.prefix}/0001", [b"half an answer"])
    await expire_lease(database, request.run_id)

    await worker.step()

    assert stored_files(tmp_path) == [f"{request.run_id}/2/0001"]


# --- the process stops --------------------------------------------------------------------------------------------


async def test_the_whole_question_is_answered_and_stands_in_the_manifest(
    settings: Settings,
    store: Store,
    database: Database,
    objects: ObjectStore,
    sources: Sources,
    signing_key: SigningKey,
    ticks: Any,
    tmp_path: Path,
    recipient: tuple[rsa.RSAPrivateKey, x509.Certificate],
    certificate: x509.Certificate,
) -> None:
    keyed = settings.model_copy(update={"masking_key": SecretStr("k" * 32)})
    request = requested(format="csv", fields=("text", "id", "at"), masking={"text": "hash", "at": "redact"})
    await store.queue_run(request)

    await Worker(keyed, store, objects, sources, signing_key, ticks).step()

    kept = (tmp_path / "objects" / f"{request.run_id}/1/0001").read_bytes()
    with zipfile.ZipFile(io.BytesIO(b"".join(unseal(io.BytesIO(kept), *recipient)))) as opened:
        content = opened.read(f"Interaction-{request.run_id}-0001.csv").decode()
    key = tenant_key("k" * 32, "t1")
    digest_ = hmac.new(key, ("canary of t1" * 20).encode(), hashlib.sha256).hexdigest()
    assert content == "text,id,at\n" + "".join(f"{digest_},{number},\n" for number in range(2, 21, 2))
    manifest = json.loads(await manifest_of(store, request.run_id))
    assert manifest["entities"]["Interaction"]["fields"] == ["text", "id", "at"]
    assert manifest["masking"] == {"text": "hash", "at": "redact"}
    assert (manifest["format"], manifest["encryption"]) == ("csv", "gcm")


@pytest.mark.parametrize(("encryption", "suffix"), [("none", "zip"), ("smime", "zip.smime")])
async def test_other_profiles_are_followed_where_they_are_allowed(
    worker: Worker,
    store: Store,
    database: Database,
    tmp_path: Path,
    certificate: x509.Certificate,
    encryption: str,
    suffix: str,
) -> None:
    request = requested(source="private", type="note", encryption=encryption)
    await store.queue_run(request)

    await worker.step()

    *_, stored, succeeded = await published(database, request.run_id)
    assert names([stored, succeeded]) == ["ArtifactStored", "RunSucceeded"]
    assert stored.part.file_name == f"export-{request.run_id}-0001-of-0001.{suffix}"
    manifest = json.loads(await manifest_of(store, request.run_id))
    assert manifest["encryption"] == encryption
    fingerprints = [] if encryption == "none" else [certificate.fingerprint(hashes.SHA256()).hex()]
    assert manifest["recipients"] == fingerprints
    kept = (tmp_path / "objects" / f"{request.run_id}/1/0001").read_bytes()
    assert zipfile.is_zipfile(io.BytesIO(kept)) is (encryption == "none")


async def test_a_plain_export_needs_no_certificate(worker: Worker, store: Store, database: Database) -> None:
    request = requested(source="private", type="note", encryption="none")
    await store.queue_run(request)

    await worker.step()

    assert names(await published(database, request.run_id))[-1] == "RunSucceeded"


async def test_an_attempt_that_fails_before_it_exports_still_clears_up_after_a_dead_one(
    worker: Worker, store: Store, database: Database, objects: ObjectStore, tmp_path: Path
) -> None:
    request = requested()
    await store.queue_run(request)
    dead = await store.claim_run("killed", LEASE)
    assert dead is not None
    objects.write(f"{dead.prefix}/0001", [b"half an answer"])
    await expire_lease(database, request.run_id)

    await worker.step()

    assert await failure_of(database, request.run_id) == ("RunFailed", "certificate_required", 2)
    assert stored_files(tmp_path) == []


@pytest.mark.parametrize("key", ["", "too short to be a secret"])
def test_a_masking_key_that_can_be_guessed_is_refused_at_the_start(settings: Settings, key: str) -> None:
    written = settings.model_dump() | {"masking_key": key}

    with pytest.raises(ValidationError, match="at least 32"):
        Settings.model_validate(written)
