"""The commands over HTTP: what is refused is refused with a remedy, and leaves nothing behind."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deploy.local.postgres import EmbeddedPostgres
from services.job_api.store import Store
from shared.auth import Authenticator
from shared.database import Database, connect
from tests.conftest import fresh_database
from tests.job_api import certificates
from tests.job_api.conftest import TokenFor, certify, client_of
from tests.job_api.edge import CERTIFICATES, JOBS, problem, submit, written
from tests.job_api.jobs import WRITTEN

UNKNOWN = UUID(int=1)


async def counts(database: Database) -> tuple[int, int, int]:
    async with database.session() as connection:
        row = await connection.fetchrow(
            """SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM certificates),
                      (SELECT count(*) FROM outbox)"""
        )
    assert row
    return row[0], row[1], row[2]


# --- submitting ---------------------------------------------------------------------------------------------------


async def test_a_submitted_job_is_answered_stored_and_told(
    http: httpx.AsyncClient, database: Database, certified: None
) -> None:
    before = await counts(database)
    answer = await http.post(JOBS, json=written(key="nightly"))
    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["etag"] == '"1"'
    assert answer.headers["location"] == f"{JOBS}/{job['id']}"
    assert (job["state"], job["version"], job["created_by"], job["latest_run"]) == ("active", 1, "alice", None)
    assert {name: job["settings"][name] for name in ("key", "title", "source", "schedule")} == {
        "key": "nightly", **{name: WRITTEN[name] for name in ("title", "source", "schedule")},
    }  # fmt: skip
    assert await counts(database) == (before[0] + 1, before[1], before[2] + 1)
    read = await http.get(answer.headers["location"])
    assert (read.status_code, read.headers["etag"], read.json()) == (200, '"1"', job)


async def test_what_is_answered_can_be_submitted_again(http: httpx.AsyncClient, certified: None) -> None:
    first = await submit(
        http, timeframe={"kind": "fixed", "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}
    )
    answer = await http.post(JOBS, json=first["settings"])
    assert answer.status_code == 201
    assert answer.json()["settings"] == first["settings"]


async def test_an_encrypted_job_without_a_valid_certificate_is_refused(
    http: httpx.AsyncClient, database: Database
) -> None:
    body = problem(await http.post(JOBS, json=WRITTEN), 409, "certificate-required")
    assert CERTIFICATES in body["detail"]
    assert await counts(database) == (0, 0, 0)


async def test_a_certificate_of_another_tenant_does_not_help(http: httpx.AsyncClient, bearer: TokenFor) -> None:
    now = datetime.now(UTC)
    current = certificates.pem(begins=now - timedelta(days=1), ends=now + timedelta(days=1))
    assert (await http.post(CERTIFICATES, content=current, headers=bearer("globex"))).status_code == 201
    problem(await http.post(JOBS, json=WRITTEN), 409, "certificate-required")


BAD = [
    ("unknown source", {"source": "nowhere"}, "/source"),
    ("another tenant's source", {"source": "flights", "type": "flight"}, "/source"),
    ("unknown type", {"type": "fax"}, "/type"),
    ("a type that is no name", {"type": "Fax!"}, "/type"),
    ("N that does not divide 24", {"schedule": {"kind": "hourly", "every": 5}}, "/schedule/every"),
    ("N as text", {"schedule": {"kind": "hourly", "every": "4"}}, "/schedule/every"),
    ("N missing", {"schedule": {"kind": "hourly"}}, "/schedule/every"),
    ("unknown schedule", {"schedule": {"kind": "yearly"}}, "/schedule"),
    ("schedule without kind", {"schedule": {}}, "/schedule"),
    ("schedule as text", {"schedule": "hourly"}, "/schedule"),
    ("unknown field", {"titel": "A job"}, "/titel"),
    ("unknown field inside", {"schedule": {"kind": "hourly", "every": 4, "hourly": 1}}, "/schedule/hourly"),
    ("field with a slash", {"a/b~c": 1}, "/a~1b~0c"),
    ("a title of 1 MB", {"title": "x" * 1_000_000}, "/title"),
    ("an empty title", {"title": "  "}, "/title"),
    ("no title", {"title": None}, "/title"),
    ("a NUL character", {"title": "a\0b"}, "/title"),
    ("a NUL character in the description", {"description": "a\0b"}, "/description"),
    ("a lone surrogate", {"title": "a\ud800b"}, "/title"),
    ("media types as an object", {"media_types": {}}, "/media_types"),
    ("no media type", {"media_types": []}, "/media_types"),
    ("a media type twice", {"media_types": ["voice", "voice"]}, "/media_types"),
    ("a bad media type", {"media_types": ["voice", "No!"]}, "/media_types/1"),
    ("a start without zone", {"start": "2030-01-01T00:00:00"}, "/start"),
    ("a start that is an object", {"start": {}}, "/start"),
    ("a start before the year 1", {"start": "0001-01-01T00:00:00+14:00"}, "/start"),
    ("a start after the year 9999", {"start": "9999-12-31T23:59:59-14:00"}, "/start"),
    ("a start that has no next boundary", {"start": "9999-12-31T23:59:59Z"}, "/start"),
    ("backwards", {"timeframe": {"kind": "fixed", "from": "2026-02-01T00:00Z", "to": "2026-01-01T00:00Z"}},
     "/timeframe"),
    ("too many units", {"timeframe": {"kind": "last", "unit": "month", "count": 1001}}, "/timeframe/count"),
    ("too large a part", {"split_bytes": 2**30 + 1}, "/split_bytes"),
    ("a number too large for anybody", {"split_bytes": 10**400}, "/split_bytes"),
    ("no attempts", {"retry": {"attempts": 0}}, "/retry/attempts"),
    ("a negative pause", {"retry": {"backoff": "-PT1M"}}, "/retry/backoff"),
    ("a pause of a thousand years", {"retry": {"backoff": "P365000D"}}, "/retry/backoff"),
    ("a bad label", {"labels": {"Team": "x"}}, "/labels/Team"),
    ("an unknown recipient", {"recipients": ["ff"]}, "/recipients"),
]  # fmt: skip


@pytest.fixture(scope="module")
async def untouched(
    postgres: EmbeddedPostgres, templates: dict[str, str], verifier: Authenticator, bearer: TokenFor
) -> AsyncIterator[tuple[httpx.AsyncClient, Database]]:
    """One client and database for all that is refused: nothing of it may leave a trace for the next one."""
    async with (
        fresh_database(postgres, templates["job_api"]) as dsn,
        connect(dsn, "job_api", outbox=True) as pool,
        client_of(Store(pool), verifier, bearer()) as client,
    ):
        await certify(client, bearer)
        yield client, pool


@pytest.mark.parametrize(("changes", "pointer"), [pytest.param(c, p, id=n) for n, c, p in BAD])
async def test_bad_settings_are_refused_with_pointer_and_remedy_and_leave_nothing_behind(
    untouched: tuple[httpx.AsyncClient, Database], bearer: TokenFor, changes: dict[str, Any], pointer: str
) -> None:
    http, database = untouched
    before = await counts(database)
    tenant = bearer("globex" if changes.get("source") == "flights" else "acme")
    answer = await http.post(
        JOBS, content=json.dumps(written(**changes)), headers={"Content-Type": "application/json", **tenant}
    )
    body = problem(answer, 422, "invalid")
    assert pointer in [error["pointer"] for error in body["errors"]]
    assert all(error["message"] and error["remedy"] for error in body["errors"])
    assert len(answer.content) < 10_000
    assert await counts(database) == before


@pytest.mark.parametrize("missing", ["title", "source", "type", "schedule", "timeframe"])
async def test_a_missing_field_is_named(http: httpx.AsyncClient, missing: str) -> None:
    incomplete = {name: value for name, value in WRITTEN.items() if name != missing}
    body = problem(await http.post(JOBS, json=incomplete), 422, "invalid")
    assert [error["pointer"] for error in body["errors"]] == [f"/{missing}"]


@pytest.mark.parametrize(
    "content", ["{", "", "nul", '{"title": "\x01"}', "[1, 2", "\ud800".encode("utf-8", "surrogatepass")]
)
async def test_a_body_that_is_not_json_is_malformed(http: httpx.AsyncClient, content: bytes) -> None:
    answer = await http.post(JOBS, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_key_names_one_job_of_a_tenant(
    http: httpx.AsyncClient, database: Database, certified: None, bearer: TokenFor
) -> None:
    await submit(http, key="nightly")
    before = await counts(database)
    body = problem(await http.post(JOBS, json=written(key="nightly")), 422, "invalid")
    assert body["errors"][0]["pointer"] == "/key"
    assert await counts(database) == before
    other = await http.post(JOBS, json=written(key="nightly"), headers=bearer("globex"))
    assert other.status_code == 201


# --- who may ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"), [("POST", JOBS), ("GET", JOBS), ("GET", f"{JOBS}/{UNKNOWN}"), ("POST", CERTIFICATES)]
)
async def test_without_a_token_nothing_is_answered(
    http: httpx.AsyncClient, database: Database, method: str, path: str
) -> None:
    answer = await http.request(method, path, headers={"Authorization": ""}, json=WRITTEN if method == "POST" else None)
    problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert await counts(database) == (0, 0, 0)


@pytest.mark.parametrize("role", ["viewer", "operator"])
async def test_only_an_administrator_submits(
    http: httpx.AsyncClient, database: Database, bearer: TokenFor, role: str
) -> None:
    problem(await http.post(JOBS, json=WRITTEN, headers=bearer(role=role)), 403, "forbidden")
    problem(await http.post(CERTIFICATES, content=b"", headers=bearer(role=role)), 403, "forbidden")
    assert await counts(database) == (0, 0, 0)
    assert (await http.get(JOBS, headers=bearer(role=role))).status_code == 200


async def test_a_job_of_another_tenant_is_as_unknown_as_one_that_does_not_exist(
    http: httpx.AsyncClient, certified: None, bearer: TokenFor
) -> None:
    job = await submit(http)
    theirs = await http.get(f"{JOBS}/{job['id']}", headers=bearer("globex"))
    nobodys = await http.get(f"{JOBS}/{UNKNOWN}", headers=bearer("globex"))
    assert problem(theirs, 404, "not-found") == problem(nobodys, 404, "not-found")
    assert (await http.get(JOBS, headers=bearer("globex"))).json() == {"items": [], "next": None}


# --- certificates -------------------------------------------------------------------------------------------------


async def test_a_certificate_is_listed_with_what_its_owner_should_know(
    http: httpx.AsyncClient, database: Database
) -> None:
    now = datetime.now(UTC)
    content = certificates.der(begins=now - timedelta(days=1), ends=now + timedelta(days=6))
    answers = [await http.post(CERTIFICATES, content=content) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert await counts(database) == (0, 1, 1)
    listed = (await http.get(CERTIFICATES)).json()["items"]
    assert [item["fingerprint"] for item in listed] == [answers[0].json()["fingerprint"]]
    assert any("2048 bits" in warning for warning in listed[0]["warnings"])
    assert any("expires in" in warning for warning in listed[0]["warnings"])


async def test_a_removed_certificate_is_told_warned_of_and_may_be_added_again(
    http: httpx.AsyncClient, database: Database
) -> None:
    now = datetime.now(UTC)
    content = [
        certificates.pem(subject=name, begins=now - timedelta(days=1), ends=now + timedelta(days=90))
        for name in ("one", "two")
    ]
    one, two = [(await http.post(CERTIFICATES, content=pem)).json() for pem in content]
    read = await http.get(f"{CERTIFICATES}/{one['fingerprint']}")
    assert (read.status_code, read.json()) == (200, one)
    assert one["valid"]
    first, last = [await http.delete(f"{CERTIFICATES}/{item['fingerprint']}") for item in (one, two)]
    assert (first.status_code, first.json()) == (200, {"fingerprint": one["fingerprint"], "warnings": []})
    assert "No valid certificate is left" in last.json()["warnings"][0]
    problem(await http.delete(f"{CERTIFICATES}/{one['fingerprint']}"), 404, "not-found")
    problem(await http.get(f"{CERTIFICATES}/{one['fingerprint']}"), 404, "not-found")
    assert (await http.post(CERTIFICATES, content=content[0])).status_code == 201
    async with database.session() as connection:
        told = [row["type"].split(".")[1] for row in await connection.fetch("SELECT type FROM outbox ORDER BY id")]
        audit = [row["action"] for row in await connection.fetch("SELECT action FROM audit ORDER BY id")]
    assert told == [
        "CertificateAdded",
        "CertificateAdded",
        "CertificateRemoved",
        "CertificateRemoved",
        "CertificateAdded",
    ]
    assert audit == [f"certificate.{kind}" for kind in ("add", "add", "remove", "remove", "add")]


@pytest.mark.parametrize("fingerprint", ["x", "0" * 63, "F" * 64, "%00"])
async def test_a_fingerprint_that_is_none_is_refused(http: httpx.AsyncClient, fingerprint: str) -> None:
    for method in ("GET", "DELETE"):
        answer = await http.request(method, f"{CERTIFICATES}/{fingerprint}")
        assert problem(answer, 422, "invalid")["errors"][0]["pointer"] == "/path/fingerprint"


@pytest.mark.parametrize(
    "content", [b"", b"garbage\0\xff", b"-----BEGIN CERTIFICATE-----\n", certificates.private_key()]
)
async def test_a_bad_certificate_is_refused_and_leaves_nothing_behind(
    http: httpx.AsyncClient, database: Database, content: bytes
) -> None:
    body = problem(await http.post(CERTIFICATES, content=content), 422, "invalid")
    assert body["errors"][0]["remedy"]
    assert await counts(database) == (0, 0, 0)


# --- anything -----------------------------------------------------------------------------------------------------

words = st.sampled_from([*WRITTEN, "kind", "every", "hourly", "fixed", "from", "to", "immediately", "labels", "\ud800"])
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(st.characters(), max_size=20)
    | st.sampled_from([2**63, -(2**63), 10**400, "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", "P999999999D"])
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
near_misses = st.dictionaries(
    st.sampled_from(
        [*WRITTEN, "start", "ends_at", "media_types", "split_bytes", "retry", "labels", "recipients", "key", "\ud800"]
    ),
    values,
    max_size=3,
).map(lambda changes: {**WRITTEN, **changes})


@hypothesis_settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(body=near_misses | values)
@example(body={**WRITTEN, "\ud800": 1})
@example(body={**WRITTEN, "schedule": {"kind": "\ud800"}})
@example(body={**WRITTEN, "labels": {"\ud800": "x", "a": "\ud800"}})
async def test_no_json_whatever_makes_the_service_fail(http: httpx.AsyncClient, certified: None, body: object) -> None:
    answer = await http.post(JOBS, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert all(error["pointer"].startswith("/") for error in answer.json().get("errors", []))


@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=200),
    path=st.sampled_from([JOBS, CERTIFICATES]),
    kind=st.sampled_from(["application/json", "text/plain", "application/json; charset=utf-16", "x", ""]),
)
async def test_no_bytes_whatever_make_the_service_fail(
    http: httpx.AsyncClient, content: bytes, path: str, kind: str
) -> None:
    answer = await http.post(path, content=content, headers={"Content-Type": kind})
    assert 400 <= answer.status_code < 500, answer.text


@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(after=st.text(max_size=80), limit=st.text(max_size=5))
async def test_no_query_whatever_makes_the_service_fail(http: httpx.AsyncClient, after: str, limit: str) -> None:
    answer = await http.get(JOBS, params={"after": after, "limit": limit})
    assert answer.status_code < 500, answer.text
