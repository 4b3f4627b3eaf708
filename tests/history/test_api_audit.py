"""Who did what: in pages, and as a file."""

import csv
import io
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
import pytest

from services.history.store import Store, audit
from shared.clock import utc_text
from shared.events import ArtifactDownloaded, CertificateRemoved, Event, RunNowRequested
from tests.history.conftest import HeadersFor
from tests.history.events import START, Run, project
from tests.history.lists import HOUR, pages

JOB = UUID(int=7)
RUN = Run("t1", JOB)
RUN.run_id = UUID(int=8)  # both are in the names of tests, which are the same in every worker


@pytest.fixture
async def deeds(store: Store) -> list[Event]:
    """Five things that people did, an hour after each other, beside what nobody did."""
    artifact_id = RUN.part(1).artifact_id

    def at(hour: int, tenant: str = "t1") -> dict[str, Any]:
        return {"occurred_at": START + hour * HOUR, "tenant": tenant}

    found: list[Event] = [
        RunNowRequested(**at(1), job_id=JOB, actor="alice"),
        CertificateRemoved(**at(2), fingerprint="f", actor="bob"),
        ArtifactDownloaded(**at(3), run_id=RUN.run_id, artifact_id=artifact_id, actor='=HYPERLINK("x")'),
        RunNowRequested(**at(4), job_id=uuid4(), actor="alice"),
        ArtifactDownloaded(**at(4), run_id=uuid4(), artifact_id=uuid4(), actor="@bob"),
    ]
    await project(store, [*found, RunNowRequested(**at(5, "t2"), job_id=JOB, actor="alice"), RUN.requested()])
    return sorted(found, key=lambda event: (event.occurred_at, event.event_id), reverse=True)


def ids(events: list[Event]) -> list[str]:
    return [str(event.event_id) for event in events]


@pytest.mark.parametrize("limit", [1, 2, 50])
async def test_deeds_are_paged_newest_first(
    client: httpx.AsyncClient, headers_for: HeadersFor, deeds: list[Event], limit: int
) -> None:
    items = await pages(client, "audit", headers_for("t1", "admin"), limit=limit)

    assert [item["event_id"] for item in items] == ids(deeds)
    first = items[-1]
    assert (first["actor"], first["action"], first["job_id"]) == ("alice", "RunNowRequested", str(JOB))
    assert first["details"] == deeds[-1].model_dump(mode="json")
    assert items[2]["artifact_id"] == str(RUN.part(1).artifact_id)


@pytest.mark.parametrize(
    ("query", "hours"),
    [
        ({"actor": "alice"}, [4, 1]),
        ({"actor": "nobody"}, []),
        ({"action": "ArtifactDownloaded"}, [4, 3]),
        ({"job_id": str(JOB)}, [1]),
        ({"run_id": str(RUN.run_id)}, [3]),
        ({"from": utc_text(START + 2 * HOUR), "to": utc_text(START + 4 * HOUR)}, [3, 2]),
        ({"actor": "alice", "job_id": str(JOB), "action": "RunNowRequested"}, [1]),
    ],
    ids=str,
)
@pytest.mark.usefixtures("deeds")
async def test_a_filter_of_deeds_keeps_what_it_says_in_pages_and_in_files(
    client: httpx.AsyncClient, headers_for: HeadersFor, query: dict[str, str], hours: list[int]
) -> None:
    headers = headers_for("t1", "admin")
    items = await pages(client, "audit", headers, **query)
    lines = (await client.get("/api/v1/audit", params={"format": "jsonl", **query}, headers=headers)).text.splitlines()

    assert [item["occurred_at"] for item in items] == [utc_text(START + hour * HOUR) for hour in hours]
    assert [orjson.loads(line) for line in lines] == items


async def test_a_file_holds_all_deeds_however_many_and_leaves_none_out(
    client: httpx.AsyncClient, headers_for: HeadersFor, deeds: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "CHUNK", 2)
    headers = headers_for("t1", "admin")

    answer = await client.get("/api/v1/audit", params={"format": "jsonl", "limit": 1}, headers=headers)

    assert answer.headers["content-type"] == "application/jsonl"
    assert answer.headers["content-disposition"] == 'attachment; filename="audit.jsonl"'
    assert [orjson.loads(line)["event_id"] for line in answer.text.splitlines()] == ids(deeds)


async def test_a_table_opens_in_a_spreadsheet_and_runs_nothing_there(
    client: httpx.AsyncClient, headers_for: HeadersFor, deeds: list[Event]
) -> None:
    answer = await client.get("/api/v1/audit", params={"format": "csv"}, headers=headers_for("t1", "admin"))

    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [row["event_id"] for row in rows] == ids(deeds)
    assert {row["actor"] for row in rows} == {"alice", "bob", "'@bob", '\'=HYPERLINK("x")'}
    assert orjson.loads(rows[-1]["details"])["job_id"] == rows[-1]["job_id"] == str(JOB)
    assert rows[-1]["run_id"] == ""
    assert not any(value.startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for value in row.values())


@pytest.mark.usefixtures("deeds")
@pytest.mark.parametrize("format", ["jsonl", "csv"])
async def test_a_tenant_without_deeds_gets_an_empty_file(
    client: httpx.AsyncClient, headers_for: HeadersFor, format: str
) -> None:
    answer = await client.get("/api/v1/audit", params={"format": format}, headers=headers_for("t3", "admin"))
    assert (answer.status_code, len(answer.text.splitlines())) == (200, 1 if format == "csv" else 0)


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"actor": ""}, "actor"),
        ({"actor": "a\0"}, "actor"),
        ({"action": "RunSucceeded"}, "action"),
        ({"job_id": "7"}, "job_id"),
        ({"run_id": "7"}, "run_id"),
        ({"from": "now"}, "from"),
        ({"from": utc_text(START), "to": utc_text(START - timedelta(days=1))}, "to"),
        ({"format": "xlsx"}, "format"),
        ({"after": "xyz"}, "after"),
        ({"after": "xyz", "format": "csv"}, "after"),
        ({"limit": 0}, "limit"),
    ],
    ids=str,
)
async def test_an_audit_that_cannot_be_is_refused(
    client: httpx.AsyncClient, headers_for: HeadersFor, query: dict[str, Any], pointer: str
) -> None:
    answer = await client.get("/api/v1/audit", params=query, headers=headers_for("t1", "admin"))

    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), answer.text
    assert [(error["pointer"], bool(error["remedy"])) for error in answer.json()["errors"]] == [
        (f"/query/{pointer}", True)
    ]


@pytest.mark.parametrize("role", ["viewer", "operator"])
async def test_only_administrators_read_it(client: httpx.AsyncClient, headers_for: HeadersFor, role: str) -> None:
    for format in ({}, {"format": "csv"}):
        answer = await client.get("/api/v1/audit", params=format, headers=headers_for("t1", role))
        assert answer.status_code == 403
