"""Downloads in part, again, and of what is gone; deletion on request."""

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from services.exporter.api import files
from services.exporter.domain import Outcome, StoredFile, artifact_id, manifest_id, schema_id, schema_name
from services.exporter.loops import Janitor
from services.exporter.pipeline import Catalogue, ObjectStore
from services.exporter.store import Store
from shared.database import Database
from shared.http import Problem
from shared.sources import Sources
from tests.exporter.conftest import Serving, TokenFor
from tests.exporter.runs import SCHEMA, claimed, names, published, requested, seal

CONTENT = bytes(range(256)) * 40_000  # 10.24 MB: two pieces of the store


@dataclass(frozen=True)
class Files:
    """A finished run of tenant t1, and what its files are called by."""

    run_id: UUID
    part: str
    manifest: str
    schema: str
    artifact: UUID


@pytest.fixture
async def exported(store: Store, objects: ObjectStore) -> Files:
    claim = await claimed(store, requested())
    stored = objects.write(f"{claim.prefix}/0001", [CONTENT])
    file = StoredFile(1, f"{claim.prefix}/0001", "export-0001.zip.p7m", stored.size, 10, stored.sha256, "Interaction")
    await store.succeed(claim, Outcome("750:750:", 10, stored.size, (file,), SCHEMA), seal)
    part, manifest, schema = artifact_id(claim.run_id, 1, 1), manifest_id(claim.run_id), schema_id(claim.run_id)
    return Files(claim.run_id, *(f"/api/v1/files/{each}" for each in (part, manifest, schema)), part)


@pytest.fixture
async def client(serving: Serving, token_for: TokenFor) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the administrator of t1."""
    async with serving(Catalogue(Sources(sources={}))) as client:
        client.headers["Authorization"] = f"Bearer {token_for('admin', 't1')}"
        yield client


def assert_problem(answer: httpx.Response, status: int, slug: str) -> None:
    assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (status, slug)
    assert answer.json()["detail"]


async def downloads(database: Database) -> int:
    return names(await published(database)).count("ArtifactDownloaded")


async def rows(database: Database, sql: str) -> list[Mapping[str, Any]]:
    async with database.transaction() as connection:
        return await connection.fetch(sql)


TAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'
SIZE = len(CONTENT)


async def test_a_download_says_what_it_is_and_how_to_check_it(client: httpx.AsyncClient, exported: Files) -> None:
    answer = await client.get(exported.part)

    assert (answer.status_code, answer.content) == (200, CONTENT)
    expected = {
        "accept-ranges": "bytes",
        "cache-control": "private, no-store",
        "content-disposition": 'attachment; filename="export-0001.zip.p7m"',
        "content-length": str(SIZE),
        "content-type": "application/pkcs7-mime",
        "etag": TAG,
        "repr-digest": f"sha-256=:{b64encode(hashlib.sha256(CONTENT).digest()).decode()}:",
        "x-content-type-options": "nosniff",
    }
    assert {name: answer.headers.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=8388600-8388700", 8_388_600, 8_388_701),  # over the edge of two pieces
        ("bytes=9000000-", 9_000_000, SIZE),
        ("bytes=-7", SIZE - 7, SIZE),
        ("bytes=5-99999999999", 5, SIZE),
        ("bytes=0-", 0, SIZE),
    ],
)
async def test_a_range_is_answered_with_its_bytes(
    client: httpx.AsyncClient, exported: Files, asked: str, start: int, stop: int
) -> None:
    answer = await client.get(exported.part, headers={"Range": asked, "If-Range": TAG})

    assert (answer.status_code, answer.content) == (206, CONTENT[start:stop])
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert (answer.headers["content-length"], answer.headers["etag"]) == (str(stop - start), TAG)


async def test_manifest_and_schema_are_downloaded_in_the_same_way(
    client: httpx.AsyncClient, exported: Files, database: Database
) -> None:
    schema = await client.get(exported.schema)
    part = await client.get(exported.schema, headers={"Range": "bytes=1-3"})
    manifest = await client.get(exported.manifest)
    again = await client.get(exported.manifest, headers={"If-None-Match": manifest.headers["etag"]})
    described = await client.head(exported.manifest)

    assert (schema.content, part.content, part.status_code) == (SCHEMA, SCHEMA[1:4], 206)
    assert part.headers["content-range"] == f"bytes 1-3/{len(SCHEMA)}"
    assert schema.headers["content-type"] == "application/schema+json"
    assert schema.headers["content-disposition"] == f'attachment; filename="{schema_name(exported.run_id)}"'
    assert manifest.headers["content-type"] == "application/json"
    assert (again.status_code, again.content) == (304, b"")
    assert described.headers["content-length"] == str(len(manifest.content))
    assert await downloads(database) == 3


@pytest.mark.parametrize("headers", [{"If-Range": '"another"'}, {"Range": "bytes=0-1,5-6"}, {"Range": "rows=1-2"}])
async def test_a_range_that_can_not_be_given_is_answered_with_the_whole_file(
    client: httpx.AsyncClient, exported: Files, headers: dict[str, str]
) -> None:
    answer = await client.get(exported.part, headers={"Range": "bytes=1-2"} | headers)

    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert "content-range" not in answer.headers


async def test_what_is_answered_without_bytes_is_no_download(
    client: httpx.AsyncClient, exported: Files, database: Database
) -> None:
    described = await client.head(exported.part, headers={"Range": "bytes=0-0"})
    known = await client.get(exported.part, headers={"If-None-Match": f'"x", {TAG}', "Range": "bytes=0-0"})
    described_known = await client.head(exported.part, headers={"If-None-Match": "*"})
    outside = await client.get(exported.part, headers={"Range": f"bytes={SIZE}-"})

    assert (described.status_code, described.content) == (200, b"")
    assert (described.headers["content-length"], described.headers["etag"]) == (str(SIZE), TAG)
    for answer in (known, described_known):
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", TAG)
    assert_problem(outside, 416, "range-not-satisfiable")
    assert outside.headers["content-range"] == f"bytes */{SIZE}"
    assert await downloads(database) == 0


async def test_every_range_is_a_download_of_its_own(
    client: httpx.AsyncClient, exported: Files, database: Database
) -> None:
    for start in (0, 5_000_000):
        await client.get(exported.part, headers={"Range": f"bytes={start}-{start + 9}"})

    assert await downloads(database) == 2


async def test_a_file_whose_bytes_are_lost_is_no_download(
    client: httpx.AsyncClient, exported: Files, objects: ObjectStore, database: Database
) -> None:
    objects.delete_prefix(str(exported.run_id))

    answer = await client.get(exported.part)
    assert_problem(answer, 503, "unavailable")
    assert "does not have this file" in answer.json()["detail"]
    assert await downloads(database) == 0


async def test_more_downloads_than_there_is_memory_for_are_put_off(
    serving: Serving, exported: Files, token_for: TokenFor, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    monkeypatch.setattr(files, "CONCURRENT", 0)
    async with serving(Catalogue(Sources(sources={}))) as client:
        answer = await client.get(exported.part, headers={"Authorization": f"Bearer {token_for('admin', 't1')}"})

    assert_problem(answer, 503, "unavailable")
    assert answer.headers["retry-after"]
    assert await downloads(database) == 0


def test_a_turn_is_given_back_also_by_who_got_none() -> None:
    turns = files.Turns(1)
    for _ in range(3):
        with turns.one(), pytest.raises(Problem), turns.one():
            pass


async def test_downloads_that_ended_give_their_turn_back(
    serving: Serving, exported: Files, token_for: TokenFor, monkeypatch: pytest.MonkeyPatch, objects: ObjectStore
) -> None:
    monkeypatch.setattr(files, "CONCURRENT", 1)
    async with serving(Catalogue(Sources(sources={}))) as client:
        client.headers["Authorization"] = f"Bearer {token_for('admin', 't1')}"
        for _ in range(3):
            assert (await client.get(exported.part)).status_code == 200
        objects.delete_prefix(str(exported.run_id))
        for _ in range(2):
            refused = await client.get(exported.part)
            assert_problem(refused, 503, "unavailable")
            assert "Too many" not in refused.text


# --- deletion -----------------------------------------------------------------------------------------------------


async def test_a_deleted_file_is_gone_at_once_and_its_bytes_and_the_event_follow(
    client: httpx.AsyncClient, exported: Files, objects: ObjectStore, store: Store, database: Database
) -> None:
    deleted = await client.delete(exported.part)

    assert (deleted.status_code, deleted.content) == (204, b"")
    (row,) = await rows(database, "SELECT state, deletion_reason, deletion_actor FROM artifacts")
    assert tuple(row.values()) == ("deleting", "requested", "admin@t1")
    for answer in (await client.get(exported.part), await client.delete(exported.part)):
        assert_problem(answer, 410, "artifact-expired")
    assert (await client.head(exported.part)).status_code == 410

    assert await Janitor(store, objects, timedelta()).step() == 1

    assert not objects.exists(f"{exported.run_id}/1/0001")
    (event,) = [each for each in await published(database) if type(each).__name__ == "ArtifactDeleted"]
    assert (event.artifact_id, event.run_id, event.tenant) == (exported.artifact, exported.run_id, "t1")
    assert (event.reason, event.actor) == ("requested", "admin@t1")
    for answer in (await client.get(exported.part), await client.delete(exported.part)):
        assert_problem(answer, 410, "artifact-expired")
    assert (await client.get(exported.manifest)).status_code == (await client.get(exported.schema)).status_code == 200


async def test_two_orders_at_once_are_one_deletion(
    client: httpx.AsyncClient, exported: Files, store: Store, objects: ObjectStore, database: Database
) -> None:
    answers = await asyncio.gather(*(client.delete(exported.part) for _ in range(6)))
    await Janitor(store, objects, timedelta()).step()

    assert sorted(answer.status_code for answer in answers) == [204] + [410] * 5
    assert names(await published(database)).count("ArtifactDeleted") == 1


async def test_documents_can_not_be_deleted(client: httpx.AsyncClient, exported: Files, database: Database) -> None:
    for document in (exported.manifest, exported.schema):
        refused = await client.delete(document)

        assert_problem(refused, 422, "invalid")
        (error,) = refused.json()["errors"]
        assert (error["pointer"], bool(error["remedy"])) == ("/path/artifact_id", True)
    assert {row["state"] for row in await rows(database, "SELECT state FROM artifacts")} == {"available"}


async def test_only_administrators_of_the_tenant_delete(
    client: httpx.AsyncClient, exported: Files, token_for: TokenFor, database: Database
) -> None:
    def by(role: str, tenant: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {token_for(role, tenant)}"}

    for role in ("viewer", "operator"):
        assert_problem(await client.delete(exported.part, headers=by(role, "t1")), 403, "forbidden")
    for file in (exported.part, exported.manifest):
        assert_problem(await client.delete(file, headers=by("admin", "t2")), 404, "not-found")
    assert_problem(await client.delete(f"/api/v1/files/{uuid4()}"), 404, "not-found")
    assert {row["state"] for row in await rows(database, "SELECT state FROM artifacts")} == {"available"}


async def test_the_edge_can_withdraw_but_not_rewrite_a_file(exported: Files, database: Database) -> None:
    async with database.tenant("t2") as connection:
        assert await connection.execute("UPDATE artifacts SET deletion_actor = 'x'") == "UPDATE 0"
    for change in ("sha256 = 'x'", "expires_at = now()", "tenant = 't2'", "deleted_at = now()"):
        with pytest.raises(Exception, match="permission denied"):
            async with database.tenant("t1") as connection:
                await connection.execute(f"UPDATE artifacts SET {change}")
