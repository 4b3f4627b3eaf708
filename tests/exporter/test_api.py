"""The HTTP edge: who gets which bytes, and what is written down about it."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID, uuid4

import httpx
import pytest

from services.exporter.domain import Outcome, StoredFile, artifact_id, manifest_id, manifest_name
from services.exporter.pipeline import Catalogue, ObjectStore
from services.exporter.pipeline.manifest import SigningKey
from services.exporter.store import Store
from shared.database import Database
from shared.sources import Sources
from tests.exporter.conftest import Serving, TokenFor
from tests.exporter.runs import SCHEMA, claimed, names, published, requested, seal

CONTENT = [b"a" * 9_000_000, b"b" * 9_000_000]


@dataclass(frozen=True)
class Exported:
    """A finished run of tenant t1 with one part and a manifest."""

    run_id: UUID
    part: UUID
    manifest: UUID
    sha256: str


@pytest.fixture
async def exported(store: Store, objects: ObjectStore) -> Exported:
    claim = await claimed(store, requested())
    stored = objects.write(f"{claim.prefix}/0001", iter(CONTENT))
    file = StoredFile(1, f"{claim.prefix}/0001", "export-0001.zip.p7m", stored.size, 10, stored.sha256, "Interaction")
    await store.succeed(claim, Outcome("750:750:", 10, stored.size, (file,), SCHEMA), seal)
    return Exported(claim.run_id, artifact_id(claim.run_id, 1, 1), manifest_id(claim.run_id), stored.sha256)


@pytest.fixture
async def client(serving: Serving) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(Catalogue(Sources(sources={}))) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def assert_problem(answer: httpx.Response, status: int, slug: str) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    body = answer.json()
    assert (body["status"], body["type"].rpartition("/")[2]) == (status, slug)
    assert body["detail"]


async def test_a_part_is_downloaded_byte_for_byte_and_says_what_it_is(
    client: httpx.AsyncClient, exported: Exported, token_for: TokenFor
) -> None:
    answer = await client.get(f"/api/v1/files/{exported.part}", headers=bearer(token_for("operator", "t1")))

    assert answer.status_code == 200
    assert answer.content == b"".join(CONTENT)
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["content-disposition"] == 'attachment; filename="export-0001.zip.p7m"'
    assert answer.headers["content-type"] == "application/pkcs7-mime"
    assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"' == f'"{exported.sha256}"'


async def test_a_manifest_is_downloaded_beside_the_parts_and_outlives_them(
    client: httpx.AsyncClient, exported: Exported, database: Database, token_for: TokenFor
) -> None:
    await expire(database)

    answer = await client.get(f"/api/v1/files/{exported.manifest}", headers=bearer(token_for("admin", "t1")))

    assert answer.status_code == 200
    (event,) = [event for event in await published(database) if type(event).__name__ == "RunSucceeded"]
    assert hashlib.sha256(answer.content).hexdigest() == event.manifest_sha256
    assert answer.headers["content-type"] == "application/json"
    assert manifest_name(exported.run_id) in answer.headers["content-disposition"]


async def test_every_download_is_one_event_with_its_actor(
    client: httpx.AsyncClient, exported: Exported, database: Database, token_for: TokenFor
) -> None:
    operator, admin = token_for("operator", "t1"), token_for("admin", "t1")
    for file, token in ((exported.part, operator), (exported.part, admin), (exported.manifest, admin)):
        await client.get(f"/api/v1/files/{file}", headers=bearer(token))

    events = [event for event in await published(database) if type(event).__name__ == "ArtifactDownloaded"]
    assert [(event.artifact_id, event.actor) for event in events] == [
        (exported.part, "operator@t1"),
        (exported.part, "admin@t1"),
        (exported.manifest, "admin@t1"),
    ]
    assert {(event.run_id, event.tenant) for event in events} == {(exported.run_id, "t1")}


async def test_signing_keys_are_published_to_every_reader(
    client: httpx.AsyncClient, signing_key: SigningKey, token_for: TokenFor
) -> None:
    answer = await client.get("/api/v1/files/signing-keys", headers=bearer(token_for("viewer", "t2")))

    assert answer.status_code == 200
    assert answer.json() == {
        "items": [{"key_id": signing_key.key_id, "algorithm": "Ed25519", "pem": signing_key.public_pem}],
        "next": None,
    }


async def expire(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("UPDATE artifacts SET expires_at = now() - interval '1 s'")


async def test_what_is_refused_is_a_problem_and_no_download(
    client: httpx.AsyncClient, exported: Exported, database: Database, token_for: TokenFor
) -> None:
    part, manifest = f"/api/v1/files/{exported.part}", f"/api/v1/files/{exported.manifest}"
    operator = bearer(token_for("operator", "t1"))
    foreign = bearer(token_for("admin", "t2"))
    before = names(await published(database))

    assert_problem(await client.get(part, headers=foreign), 404, "not-found")
    assert_problem(await client.get(manifest, headers=foreign), 404, "not-found")
    assert_problem(await client.get(f"/api/v1/files/{uuid4()}", headers=operator), 404, "not-found")
    assert_problem(await client.get(part, headers=bearer(token_for("viewer", "t1"))), 403, "forbidden")
    assert_problem(await client.get("/api/v1/files/not-a-uuid", headers=operator), 422, "invalid")
    assert_problem(await client.put(part, headers=operator), 405, "method-not-allowed")
    for headers in ({}, bearer("nonsense"), {"Authorization": "Basic YTpi"}):
        refused = await client.get(part, headers=headers)
        assert_problem(refused, 401, "unauthenticated")
        assert refused.headers["www-authenticate"] == "Bearer"
    await expire(database)
    assert_problem(await client.get(part, headers=operator), 410, "artifact-expired")

    assert names(await published(database)) == before


async def test_another_tenants_file_looks_like_an_unknown_one(
    client: httpx.AsyncClient, exported: Exported, token_for: TokenFor
) -> None:
    foreign = bearer(token_for("admin", "t2"))

    theirs = await client.get(f"/api/v1/files/{exported.part}", headers=foreign)
    unknown = await client.get(f"/api/v1/files/{uuid4()}", headers=foreign)

    assert (theirs.status_code, theirs.json()) == (unknown.status_code, unknown.json())


async def test_a_file_whose_bytes_are_lost_is_not_blamed_on_the_caller(
    client: httpx.AsyncClient, exported: Exported, objects: ObjectStore, token_for: TokenFor
) -> None:
    objects.delete_prefix(f"{exported.run_id}/1")

    answer = await client.get(f"/api/v1/files/{exported.part}", headers=bearer(token_for("operator", "t1")))

    assert_problem(answer, 503, "unavailable")
