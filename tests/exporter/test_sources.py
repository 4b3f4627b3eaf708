"""What can be exported: the operator's file, filled with what real sources say about their tables."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.exporter.pipeline import Catalogue
from shared.sources import Sources
from tests.conftest import fresh_database
from tests.exporter.conftest import Serving, TokenFor
from tests.exporter.test_api import assert_problem, bearer

SOURCES = """
[sources.ucs]
title = "Contact centre"
dsn = "file:{folder}/ucs.dsn"
settle = "PT15M"
allow_plaintext = true
[sources.ucs.types.interaction]
title = "Interaction"
table = "public.interaction"
id_column = "id"
time_column = "at"
tenant_column = "tenant"
media_type_column = "media"
media_types = ["voice", "chat"]
[sources.ucs.types.gone]
title = "Gone"
table = "public.gone"
id_column = "id"
time_column = "at"
tenant_column = "tenant"

[sources.private]
title = "Of one tenant"
dsn = "file:{folder}/ucs.dsn"
tenants = ["t2"]
[sources.private.types.interaction]
title = "Interaction"
table = "public.interaction"
id_column = "id"
time_column = "at"

[sources.away]
title = "Away"
dsn = "file:{folder}/away.dsn"
[sources.away.types.interaction]
title = "Interaction"
table = "public.interaction"
id_column = "id"
time_column = "at"
tenant_column = "tenant"
"""


class Clock:
    """Monotonic seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture(scope="module")
async def dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    async with fresh_database(postgres) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                """CREATE TABLE interaction (id bigint PRIMARY KEY, at timestamptz NOT NULL, tenant text NOT NULL,
                                             media text, amount numeric(12,2)[], "Odd ""n" varchar(20))"""
            )
        yield dsn


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def catalogue(dsn: str, tmp_path: Path, clock: Clock) -> Catalogue:
    (tmp_path / "ucs.dsn").write_text(dsn)
    (tmp_path / "away.dsn").write_text("postgresql://secret-user:hunter2@127.0.0.1:1/nowhere")
    (tmp_path / "sources.toml").write_text(SOURCES.format(folder=tmp_path))
    return Catalogue(Sources.load(tmp_path / "sources.toml"), clock)


@pytest.fixture
async def client(serving: Serving, catalogue: Catalogue) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(catalogue) as client:
        yield client


async def listed(client: httpx.AsyncClient, token: str) -> dict[str, Any]:
    """The sources by name."""
    answer = await client.get("/api/v1/sources", headers=bearer(token))
    assert answer.status_code == 200, answer.text
    assert answer.json()["next"] is None
    return {source["name"]: source for source in answer.json()["items"]}


async def test_a_source_is_listed_with_what_a_job_may_ask_of_it(client: httpx.AsyncClient, token_for: TokenFor) -> None:
    source = (await listed(client, token_for("viewer", "t1")))["ucs"]

    assert (source["title"], source["settle"], source["allow_plaintext"]) == ("Contact centre", "PT15M", True)
    (interaction, _) = source["types"]
    assert interaction == {
        "name": "interaction",
        "title": "Interaction",
        "media_types": ["voice", "chat"],
        "id_column": "id",
        "time_column": "at",
        "fields": [
            {"name": "id", "type": "bigint", "nullable": False},
            {"name": "at", "type": "timestamp with time zone", "nullable": False},
            {"name": "tenant", "type": "text", "nullable": False},
            {"name": "media", "type": "text", "nullable": True},
            {"name": "amount", "type": "numeric(12,2)[]", "nullable": True},
            {"name": 'Odd "n', "type": "character varying(20)", "nullable": True},
        ],
        "error": None,
    }


async def test_each_tenant_sees_the_sources_that_are_open_to_it(client: httpx.AsyncClient, token_for: TokenFor) -> None:
    assert list(await listed(client, token_for("viewer", "t1"))) == ["ucs", "away"]
    assert list(await listed(client, token_for("viewer", "t2"))) == ["ucs", "private", "away"]


async def test_a_source_that_can_not_be_reached_is_listed_without_fields_and_tells_nothing_about_itself(
    client: httpx.AsyncClient, token_for: TokenFor, tmp_path: Path, clock: Clock
) -> None:
    for reference in (
        b"postgresql://secret-user:hunter2@127.0.0.1:1/nowhere",
        b"host=127.0.0.1 hunter2 nonsense",
        b"\xff not text",
        None,
    ):
        path = tmp_path / "away.dsn"
        path.write_bytes(reference) if reference else path.unlink()
        clock.seconds += 11

        (type_,) = (await listed(client, token_for("viewer", "t1")))["away"]["types"]

        assert (type_["name"], type_["fields"]) == ("interaction", None)
        assert type_["error"] == "The source can't be reached at the moment."


async def test_a_type_without_its_table_does_not_hide_the_others(
    client: httpx.AsyncClient, token_for: TokenFor
) -> None:
    interaction, gone = (await listed(client, token_for("viewer", "t1")))["ucs"]["types"]

    assert interaction["fields"]
    assert (gone["fields"], gone["error"]) == (None, "The table or query behind this type can't be read.")


async def test_columns_are_read_again_after_a_minute_and_errors_after_ten_seconds(
    client: httpx.AsyncClient, token_for: TokenFor, tmp_path: Path, clock: Clock, dsn: str
) -> None:
    token = token_for("viewer", "t1")
    await listed(client, token)
    (tmp_path / "ucs.dsn").write_text("postgresql://127.0.0.1:1/nowhere")
    (tmp_path / "away.dsn").write_text(dsn)

    clock.seconds += 9
    sources = await listed(client, token)
    assert sources["ucs"]["types"][0]["fields"]
    assert sources["away"]["types"][0]["error"]

    clock.seconds += 2
    sources = await listed(client, token)
    assert sources["ucs"]["types"][0]["fields"]
    assert sources["away"]["types"][0]["fields"]

    clock.seconds += 50
    assert (await listed(client, token))["ucs"]["types"][0]["error"]


async def test_nobody_asks_without_a_token(client: httpx.AsyncClient) -> None:
    assert_problem(await client.get("/api/v1/sources"), 401, "unauthenticated")
