"""How much a job would export, against tables whose rows are known."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.exporter.domain import SettingsRefused, measurable, next_question
from services.exporter.pipeline import Catalogue, Estimate, Estimator
from shared.jobs import JobSettings
from shared.sources import Sources
from tests.conftest import fresh_database
from tests.exporter.conftest import Serving, TokenFor
from tests.exporter.test_api import assert_problem, bearer
from tests.exporter.test_pipeline_extract import execute

NOW = datetime(2026, 3, 2, 12, 30, tzinfo=UTC)
ROWS = 100_000
TYPE = """
[sources.{source}.types.{type}]
title = "Interaction"
table = "public.{type}"
id_column = "id"
time_column = "at"
tenant_column = "tenant"
"""
SOURCES = (
    """
[sources.ucs]
title = "Contact centre"
dsn = "file:{folder}/ucs.dsn"
settle = "PT15M"
[sources.away]
title = "Away"
dsn = "file:{folder}/away.dsn"
"""
    + TYPE.format(source="away", type="interaction")
    + TYPE.format(source="ucs", type="interaction")
    + 'media_type_column = "media"\nmedia_types = ["voice", "chat"]\n'
    + "".join(TYPE.format(source="ucs", type=name) for name in ("stuck", "trap"))
)


@pytest.fixture(scope="module")
async def dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A row a second until 2026-03-02 03:46:40, half of them of t1, 90 % of those voice; and traps."""
    async with fresh_database(postgres) as dsn:
        execute(
            dsn,
            f"""CREATE TABLE interaction AS
                SELECT i AS id, timestamptz '2026-03-01 00:00Z' + i * interval '1 s' AS at, 't' || i % 2 + 1 AS tenant,
                       CASE WHEN i % 20 = 0 THEN 'chat' ELSE 'voice' END AS media, repeat(md5(i::text), 10) AS text
                FROM generate_series(1, {ROWS}) i""",
            "ANALYZE interaction",
            "CREATE VIEW stuck AS SELECT id, at, tenant, pg_sleep(600)::text AS text FROM interaction",
            """CREATE FUNCTION secret() RETURNS text LANGUAGE plpgsql AS
               'BEGIN RAISE EXCEPTION ''password is hunter2''; END'""",
            "CREATE VIEW trap AS SELECT id, at, tenant, secret() AS text FROM interaction",
        )
        yield dsn


@pytest.fixture
def catalogue(dsn: str, tmp_path: Path) -> Catalogue:
    (tmp_path / "ucs.dsn").write_text(dsn)
    (tmp_path / "away.dsn").write_text("postgresql://secret-user:hunter2@127.0.0.1:1/nowhere")
    (tmp_path / "sources.toml").write_text(SOURCES.format(folder=tmp_path))
    return Catalogue(Sources.load(tmp_path / "sources.toml"))


@pytest.fixture
async def client(serving: Serving, catalogue: Catalogue) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(catalogue) as client:
        yield client


def written(**changes: Any) -> dict[str, Any]:
    """A job of yesterday's interactions, as a person writes it."""
    settings: dict[str, Any] = {
        "title": "Interactions",
        "source": "ucs",
        "type": "interaction",
        "schedule": {"kind": "daily", "at": "06:00"},
        "timeframe": {"kind": "last", "unit": "day"},
    }
    return settings | changes


async def estimated(catalogue: Catalogue, **changes: Any) -> Estimate:
    settings = JobSettings.model_validate(written(**changes))
    return await Estimator(catalogue).estimate(settings, "t1", NOW)


def instant(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+00:00")


# --- which interval -----------------------------------------------------------------------------------------------


CASES = [
    # Tomorrow's slot asks for today, whose late rows are in by then: they have 15 minutes, and the slot comes at six.
    ({}, "2026-03-03 06:00", ("2026-03-02 00:00", "2026-03-03 00:00"), ("2026-03-01 12:15", "2026-03-02 12:15")),
    ({"start": "immediately"}, "2026-03-02 12:30", ("2026-03-01 00:00", "2026-03-02 00:00"), None),
    (
        {"schedule": {"kind": "once"}, "start": "immediately", "timeframe": {"kind": "all"}},
        "2026-03-02 12:30", (None, "2026-03-02 12:15"), None,
    ),
    (
        {
            "schedule": {"kind": "hourly", "every": 4},
            "timeframe": {"kind": "since_last_run", "from": "2026-03-01T00:00Z"},
        },
        "2026-03-02 16:00", ("2026-03-01 00:00", "2026-03-02 15:45"), ("2026-02-28 20:30", "2026-03-02 12:15"),
    ),
    (
        {"timeframe": {"kind": "fixed", "from": "2026-01-01T00:00Z", "to": "2026-02-01T00:00Z"}},
        "2026-03-03 06:00", ("2026-01-01 00:00", "2026-02-01 00:00"), None,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "slot", "interval", "measured"), CASES)
def test_the_next_slot_is_asked_and_what_lies_ahead_is_measured_by_what_lies_behind(
    changes: dict[str, Any], slot: str, interval: tuple[str | None, str], measured: tuple[str | None, str] | None
) -> None:
    settle = timedelta(minutes=15)
    slot_at, question = next_question(JobSettings.model_validate(written(**changes)), NOW, settle)

    assert slot_at == instant(slot)
    asked = measurable(question, NOW - settle)
    for found, expected in ((question, interval), (asked, measured or interval)):
        begin, end = expected
        assert (found.interval_from, found.interval_to) == (begin and instant(begin), instant(end))


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"schedule": {"kind": "once"}, "start": "2026-03-01T00:00Z"}, "/start"),
        ({"ends_at": "2026-03-03T06:00Z"}, "/ends_at"),
    ],
)
def test_a_job_without_a_slot_to_come_is_refused(changes: dict[str, Any], pointer: str) -> None:
    with pytest.raises(SettingsRefused) as refused:
        next_question(JobSettings.model_validate(written(**changes)), NOW, timedelta(0))

    assert [fault.pointer for fault in refused.value.faults] == [pointer]


# --- how much -----------------------------------------------------------------------------------------------------


async def test_rows_and_bytes_come_close_to_what_an_export_would_give(catalogue: Catalogue, dsn: str) -> None:
    estimate = await estimated(catalogue, start="immediately", timeframe={"kind": "all"})

    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT count(*), sum(octet_length(row_to_json(i.*)::text) + 1) FROM interaction i WHERE tenant = 't1'"
        ).fetchone()
    assert row is not None
    assert estimate.size.rows == pytest.approx(row[0], rel=0.1)
    assert estimate.size.bytes == pytest.approx(int(row[1]), rel=0.1)
    assert (estimate.size.parts, estimate.size.method) == (1, "rows: the source's planner; bytes: a sample of 200 rows")


async def test_only_the_tenant_the_interval_the_media_types_and_the_fields_count(catalogue: Catalogue) -> None:
    everything = (await estimated(catalogue, start="immediately", timeframe={"kind": "all"})).size
    voice = (await estimated(catalogue, start="immediately", timeframe={"kind": "all"}, media_types=["chat"])).size
    hour = {"kind": "fixed", "from": "2026-03-01T00:00Z", "to": "2026-03-01T01:00Z"}
    short = (await estimated(catalogue, timeframe=hour)).size
    narrow = (await estimated(catalogue, start="immediately", timeframe={"kind": "all"}, fields=["id"])).size

    assert voice.rows < everything.rows / 5
    assert short.rows == pytest.approx(1800, rel=0.2)
    assert narrow.bytes < everything.bytes / 10
    assert narrow.rows == everything.rows


async def test_few_rows_are_counted(catalogue: Catalogue) -> None:
    minute = {"kind": "fixed", "from": "2026-03-01T00:00Z", "to": "2026-03-01T00:01Z"}
    none = {"kind": "fixed", "from": "2020-03-01T00:00Z", "to": "2020-03-01T01:00Z"}

    some, nothing = [(await estimated(catalogue, timeframe=frame)).size for frame in (minute, none)]

    assert (some.rows, some.parts, some.method) == (29, 1, "counted: the source has no more rows")
    assert (nothing.rows, nothing.bytes, nothing.parts) == (0, 0, 1)


async def test_parts_follow_from_the_split_size_after_compression(catalogue: Catalogue) -> None:
    size = (await estimated(catalogue, start="immediately", timeframe={"kind": "all"}, split_bytes=256 * 1024)).size

    assert 4 <= size.parts < size.bytes / (256 * 1024)


async def test_a_sample_that_takes_too_long_is_replaced_by_statistics(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.exporter.pipeline.estimate.ANSWERS_WITHIN", timedelta(seconds=3))

    size = (await estimated(catalogue, type="stuck", start="immediately", timeframe={"kind": "all"})).size

    assert size.rows == pytest.approx(ROWS / 2, rel=0.1)
    assert size.bytes > 50 * size.rows
    assert "took too long" in size.method


# --- the answers --------------------------------------------------------------------------------------------------


async def asked(client: httpx.AsyncClient, token: str, **changes: Any) -> httpx.Response:
    return await client.post("/api/v1/estimates", json=written(**changes), headers=bearer(token))


async def test_a_reader_is_told_slot_interval_and_size(client: httpx.AsyncClient, token_for: TokenFor) -> None:
    hour = {"kind": "fixed", "from": "2026-03-01T00:00:00Z", "to": "2026-03-01T01:00:00Z"}

    answer = await asked(client, token_for("viewer", "t1"), timeframe=hour)

    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["slot_at"].endswith("T06:00:00Z")
    assert body["interval"] == body["measured"] == {"from": "2026-03-01T00:00:00Z", "to": "2026-03-01T01:00:00Z"}
    assert set(body) == {"slot_at", "interval", "measured", "rows", "bytes", "parts", "method"}


@pytest.mark.parametrize(
    ("changes", "pointers"),
    [
        ({"source": "nowhere"}, ["/source"]),
        ({"type": "parcel"}, ["/type"]),
        ({"media_types": ["voice", "fax"]}, ["/media_types"]),
        ({"fields": ["id", "gone", "text"], "masking": {"gone": "hash"}}, ["/fields/1", "/masking/gone"]),
        ({"masking": {"a/b~c": "redact"}}, ["/masking/a~1b~0c"]),
        ({"title": ""}, ["/title"]),
        ({"unknown": 1}, ["/unknown"]),
    ],
)
async def test_what_does_not_exist_is_pointed_at(
    client: httpx.AsyncClient, token_for: TokenFor, changes: dict[str, Any], pointers: list[str]
) -> None:
    answer = await asked(client, token_for("viewer", "t1"), **changes)

    assert_problem(answer, 422, "invalid")
    assert [error["pointer"] for error in answer.json()["errors"]] == pointers
    assert all(error["message"] and error["remedy"] for error in answer.json()["errors"])


@pytest.mark.parametrize("changes", [{"source": "away"}, {"type": "trap", "timeframe": {"kind": "all"}}])
async def test_a_source_that_does_not_answer_is_unavailable_and_tells_nothing_about_itself(
    client: httpx.AsyncClient, token_for: TokenFor, changes: dict[str, Any]
) -> None:
    answer = await asked(client, token_for("viewer", "t1"), **changes)

    assert_problem(answer, 503, "unavailable")
    assert "hunter2" not in answer.text
    assert "127.0.0.1" not in answer.text


async def test_nobody_asks_without_a_token(client: httpx.AsyncClient) -> None:
    assert_problem(await client.post("/api/v1/estimates", json=written()), 401, "unauthenticated")
