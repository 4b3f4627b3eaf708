import json
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.exporter.pipeline.errors import Cancelled, RowTooLarge, SourceRefused, SourceTooSlow, SourceUnavailable
from services.exporter.pipeline.extract import Extraction, Query
from tests.conftest import fresh_database
from tests.exporter.queries import query as question
from tests.exporter.queries import records

END = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
async def dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    async with fresh_database(postgres) as dsn:
        # An encoding of times and a zone that a careless reader would pass on.
        database = dsn.rpartition("/")[2]
        execute(dsn, f"ALTER DATABASE {database} SET TimeZone = 'Asia/Kolkata'")
        execute(dsn, f"ALTER DATABASE {database} SET DateStyle = 'German'")
        execute(dsn, f"ALTER DATABASE {database} SET IntervalStyle = 'sql_standard'")
        execute(dsn, f"ALTER DATABASE {database} SET bytea_output = 'escape'")
        yield dsn


def execute(dsn: str, *statements: Any) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def extracted(query: Query) -> list[bytes]:
    with Extraction(query) as source:
        return list(records(source))


def ids(query: Query) -> list[int]:
    return [json.loads(line)["id"] for line in extracted(query)]


# Type, a value in SQL, and the rule: what JSON it must become.
VALUES: Sequence[tuple[str, str, Any]] = [
    ("smallint", "-32768", -32768),
    ("bigint", "9223372036854775807", 9223372036854775807),
    ("numeric", "12345678901234567890.123456789", Decimal("12345678901234567890.123456789")),
    ("numeric(10,2)", "1.50", Decimal("1.50")),
    ("numeric", "'NaN'", "NaN"),
    ("numeric", "'-Infinity'", "-Infinity"),
    ("double precision", "0.1", Decimal("0.1")),
    ("double precision", "1e300", Decimal("1e300")),
    ("double precision", "'NaN'", "NaN"),
    ("real", "'Infinity'", "Infinity"),
    ("boolean", "true", True),
    ("text", "NULL", None),
    ("text", "''", ""),
    ("text", "'NULL'", "NULL"),
    ("text", r"E'\\N'", "\\N"),
    ("text", r"E'\\.'", "\\."),
    ("text", r"""E'say "hi", it''s\n\r\t\b\f \\'""", 'say "hi", it\'s\n\r\t\b\f \\'),
    ("text", r"""E'\u0001\u0002\u001f\u2028 end'""", "\x01\x02\x1f\u2028 end"),
    ("text", "'\u202eשלום مرحبا\u202c'", "\u202eשלום مرحبا\u202c"),
    ("text", "'👩\u200d👩\u200d👧 Zürich ﷽ \ufeff'", "👩\u200d👩\u200d👧 Zürich ﷽ \ufeff"),
    ("text", "'</script><!-- =cmd|'' /C calc''!A0'", "</script><!-- =cmd|' /C calc'!A0"),
    ("char(5)", "'ab'", "ab   "),
    ("timestamptz", "'2026-03-29 01:30:00.123456+02'", "2026-03-28T23:30:00.123456+00:00"),
    ("timestamptz", "'infinity'", "infinity"),
    ("timestamptz", "'0044-03-15 12:00:00+00 BC'", "0044-03-15T12:00:00+00:00 BC"),
    ("timestamp", "'2026-03-29 02:30:00'", "2026-03-29T02:30:00"),
    ("date", "'2026-02-28'", "2026-02-28"),
    ("date", "'-infinity'", "-infinity"),
    ("time", "'23:59:59.999999'", "23:59:59.999999"),
    ("interval", "'1 year -2 days 03:04:05.6'", "1 year -2 days +03:04:05.6"),
    ("uuid", "'6ba7b810-9dad-11d1-80b4-00c04fd430c8'", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
    ("bytea", r"'\x00ff5c0a'", r"\x00ff5c0a"),
    ("jsonb", """'{"a": [1, {"b": null}], "c": "\\n"}'""", {"a": [1, {"b": None}], "c": "\n"}),
    ("json", """E'{"a":\\n\\t[1,\\r\\n2],\\n"b": "\\\\n"}'""", {"a": [1, 2], "b": "\n"}),
    ("json", """'{"k": 1, "k": 2}'""", {"k": 2}),
    ("json", """'"\\ud800"'""", "\ud800"),
    ("json", "'1e400'", Decimal("1e400")),
    ("int[]", "ARRAY[[1,2],[3,NULL]]", [[1, 2], [3, None]]),
    ("text[]", "'{}'", []),
    ("text[]", """ARRAY['a,b', '"', NULL]""", ["a,b", '"', None]),
    ("mood", "'very ''good'''", "very 'good'"),
    ("int4range", "'[1,5)'", "[1,5)"),
    ("tstzrange", "'[2026-01-01 00:00+00,)'", '["2026-01-01 00:00:00+00",)'),
    ("inet", "'192.168.0.1/24'", "192.168.0.1/24"),
    ("macaddr", "'08:00:2b:01:02:03'", "08:00:2b:01:02:03"),
    ("point", "'(1,2)'", "(1,2)"),
    ("bit(3)", "B'101'", "101"),
    ("pair", "ROW(1, 'x')", {"left": 1, "right": "x"}),
]


def test_every_type_becomes_the_json_that_the_rule_states(dsn: str) -> None:
    columns = ", ".join(f'"c{number}" {kind}' for number, (kind, _, _) in enumerate(VALUES))
    values = ", ".join(value for _, value, _ in VALUES)
    execute(
        dsn,
        "CREATE TYPE mood AS ENUM ('very ''good''')",
        'CREATE TYPE pair AS ("left" int, "right" text)',
        f"CREATE TABLE torture (id int, at timestamptz, tenant text, {columns})",
        f"INSERT INTO torture VALUES (1, '2026-01-01', 't1', {values})",
    )

    (line,) = extracted(question(dsn, "torture"))

    assert line.count(b"\n") == 1
    assert line.endswith(b"}\n")
    assert b"\r" not in line
    row = json.loads(line, parse_float=Decimal)
    assert [row[f"c{number}"] for number in range(len(VALUES))] == [expected for _, _, expected in VALUES]


def test_every_row_equals_an_independent_export_in_the_same_order(dsn: str) -> None:
    execute(
        dsn,
        """CREATE TABLE many AS
           SELECT i AS id, timestamptz '2026-01-01' + (i * 7919 % 1000) * interval '1 s' AS at, 't' || i % 3 AS tenant,
                  repeat(chr(i % 50000 + 1), i % 300) AS "Text, ""quoted"" name", i % 5 AS r, sqrt(i) AS root
           FROM generate_series(1, 20000) i""",
    )
    with psycopg.connect(dsn) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        expected = connection.execute(
            "SELECT row_to_json(many.*)::text FROM many WHERE tenant = 't1' ORDER BY at, id"
        ).fetchall()

    assert [line.decode() for line in extracted(question(dsn, "many"))] == [f"{text}\n" for (text,) in expected]


def test_only_the_tenant_the_interval_and_the_media_types_asked_for(dsn: str) -> None:
    execute(
        dsn,
        "CREATE TYPE media AS ENUM ('email', 'chat')",
        "CREATE TABLE filtered (id int, at timestamptz, tenant text, media media)",
        """INSERT INTO filtered VALUES (1, '2026-01-01 00:00Z', 't1', 'email'), (2, '2026-01-02 00:00Z', 't1', 'chat'),
           (3, '2026-01-03 00:00Z', 't1', NULL), (4, NULL, 't1', 'chat'), (5, '2026-01-01 00:00Z', 't''1', 'chat'),
           (6, '2026-01-02 00:00Z', 't2', 'chat')""",
    )
    first, third = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)
    media = {"media_type_column": "media"}

    assert ids(question(dsn, "filtered")) == [1, 2, 3]
    assert ids(question(dsn, "filtered", tenant="t'1")) == [5]
    assert ids(question(dsn, "filtered", interval_from=first, interval_to=third)) == [1, 2]
    assert ids(question(dsn, "filtered", interval_from=third)) == [3]
    assert ids(question(dsn, "filtered", media_types=["chat"], **media)) == [2]
    assert ids(question(dsn, "filtered", media_types=["chat", "email"], **media)) == [1, 2]
    assert ids(question(dsn, "filtered", media_types=[], **media)) == []


def test_a_table_without_a_tenant_column_belongs_to_the_tenant_as_a_whole(dsn: str) -> None:
    execute(
        dsn,
        "CREATE TABLE whole (id int, at timestamptz)",
        "INSERT INTO whole VALUES (1, '2026-01-01'), (2, '2026-01-02'), (3, '2031-01-01')",
    )

    assert ids(question(dsn, "whole", tenant_column=None)) == [1, 2]


def test_columns_are_chosen_and_keep_their_order(dsn: str) -> None:
    execute(
        dsn,
        'CREATE SCHEMA "Odd.Schema"',
        'CREATE TABLE "Odd.Schema"."T" (id int, at timestamp, tenant uuid, "a""b" int, r text)',
        """INSERT INTO "Odd.Schema"."T" VALUES (1, '2026-01-01', '00000000-0000-0000-0000-000000000001', 7, 'x')""",
    )
    query = question(dsn, '"Odd.Schema"."T"', fields=["r", 'a"b'], tenant="00000000-0000-0000-0000-000000000001")

    assert extracted(query) == [b'{"r":"x","a\\"b":7}\n']


def test_the_estimate_counts_the_same_rows_in_the_same_snapshot(dsn: str) -> None:
    execute(dsn, "CREATE TABLE growing AS SELECT 1 AS id, timestamptz '2026-01-01' AS at, 't1' AS tenant")

    with Extraction(question(dsn, "growing")) as source:
        execute(dsn, "INSERT INTO growing VALUES (2, '2026-01-01', 't1')", "DROP TABLE IF EXISTS nothing")
        assert source.total() == 1
        assert len(list(records(source))) == 1
        assert source.snapshot.count(":") == 2


def test_the_planner_and_the_statistics_know_a_table_without_reading_it(dsn: str) -> None:
    execute(
        dsn,
        """CREATE TABLE known AS SELECT i AS id, timestamptz '2026-01-01Z' + i * interval '1 s' AS at, 't1' AS tenant,
                  repeat('x', 100) AS text FROM generate_series(1, 10000) i""",
        "CREATE VIEW unknown AS SELECT * FROM known",
        "ANALYZE known",
    )

    with Extraction(question(dsn, "known", interval_to=datetime(2026, 1, 1, 0, 30, tzinfo=UTC))) as source:
        assert source.planned(source.entities[0]) == pytest.approx(1800, rel=0.2)
        assert source.width(source.entities[0]) == pytest.approx(4 + 8 + 3 + 101, abs=4)
    with Extraction(question(dsn, "known", fields=["id"])) as source:
        assert source.width(source.entities[0]) == 4
    with Extraction(question(dsn, "unknown")) as source:
        assert source.width(source.entities[0]) is None


def test_a_sample_that_fails_leaves_the_extraction_usable(dsn: str) -> None:
    execute(dsn, STUCK)

    with Extraction(question(dsn, "stuck", statement_timeout=timedelta(seconds=3))) as source:
        with pytest.raises(SourceTooSlow):
            source.sample(source.entities[0], 10)
        assert source.planned(source.entities[0]) >= 1


def test_a_row_of_20_megabytes_comes_whole(dsn: str) -> None:
    execute(
        dsn,
        "CREATE TABLE large AS SELECT 1 AS id, timestamptz '2026-01-01' AS at, 't1' AS tenant, "
        "repeat(E'line \"1\"\\n', 2000000) AS text",
    )

    (line,) = extracted(question(dsn, "large"))

    assert len(line) > 20_000_000
    assert json.loads(line)["text"] == 'line "1"\n' * 2_000_000


@pytest.mark.faults
def test_a_row_that_the_server_can_not_build_is_too_large(dsn: str) -> None:
    execute(
        dsn,
        "CREATE VIEW oversized AS SELECT 1 AS id, timestamptz '2026-01-01' AS at, 't1' AS tenant, "
        "repeat('x', 600000000) AS a, repeat('x', 600000000) AS b",
    )

    with pytest.raises(RowTooLarge, match=r"memory alloc|string buffer|out of memory"):
        extracted(question(dsn, "oversized"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"table": "nowhere"}, "nowhere"),
        ({"table": "no.where"}, "no.where"),
        ({"table": "x; DROP TABLE refusing"}, "x; DROP TABLE refusing"),
        ({"fields": ["id", "gone", "lost"]}, "gone, lost"),
        ({"fields": ["id) FROM refusing; --"]}, "id\\) FROM"),
        ({"time_column": "written"}, "written"),
        ({"media_type_column": "media", "media_types": ["chat"]}, "media"),
        ({"tenant": "not a number"}, "not a number"),
    ],
)
def test_what_is_missing_or_wrong_is_refused_by_name(dsn: str, changes: dict[str, Any], named: str) -> None:
    execute(dsn, "CREATE TABLE IF NOT EXISTS refusing (id int, at timestamptz, tenant int)")

    with pytest.raises(SourceRefused, match=named):
        extracted(question(dsn, **{"table": "refusing"} | changes))


def test_a_table_without_permission_is_refused_by_name(dsn: str) -> None:
    execute(dsn, "CREATE TABLE secret (id int, at timestamptz, tenant text)")
    execute(dsn, "DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN")

    with pytest.raises(SourceRefused, match="secret"):
        extracted(question(dsn.replace("postgres@", "reader@"), "secret"))


def test_a_dsn_that_can_not_be_read_is_not_repeated() -> None:
    with pytest.raises(SourceRefused) as caught:
        extracted(question("host=127.0.0.1 password=hunter2 nonsense", "t"))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_nobody_listening_is_unavailable_and_the_address_is_for_the_log_only() -> None:
    with pytest.raises(SourceUnavailable, match="no connection") as raised:
        extracted(question("host=127.0.0.1 port=1", "anything"))

    assert "127.0.0.1" not in str(raised.value)
    assert "127.0.0.1" in str(raised.value.__cause__)


def test_the_source_can_not_be_written_to(dsn: str) -> None:
    execute(
        dsn,
        "CREATE TABLE written (id int)",
        """CREATE FUNCTION intruder() RETURNS int LANGUAGE sql VOLATILE AS
           'INSERT INTO written VALUES (1) RETURNING id'""",
        "CREATE VIEW trap AS SELECT intruder() AS id, timestamptz '2026-01-01' AS at, 't1' AS tenant",
    )

    with pytest.raises(SourceRefused, match="read-only"):
        extracted(question(dsn, "trap"))


STUCK = """CREATE OR REPLACE VIEW stuck AS
    SELECT 1 AS id, timestamptz '2026-01-01' AS at, 't1' AS tenant FROM (SELECT pg_sleep(600) OFFSET 0) s"""


def test_a_source_that_takes_too_long_is_unavailable(dsn: str) -> None:
    execute(dsn, STUCK)

    with pytest.raises(SourceUnavailable, match="timeout"):
        extracted(question(dsn, "stuck", statement_timeout=timedelta(milliseconds=50)))


def test_cancelling_ends_a_silent_source(dsn: str) -> None:
    execute(dsn, STUCK)
    with Extraction(question(dsn, "stuck")) as source:
        over = threading.Event()

        def insist() -> None:
            while not over.wait(0.05):
                source.cancel()

        watcher = threading.Thread(target=insist)
        watcher.start()
        with pytest.raises(Cancelled), closing(records(source)) as rows:
            next(rows)
        over.set()
        watcher.join()


def test_cancelling_ends_a_running_extraction_at_the_next_batch(dsn: str) -> None:
    execute(
        dsn,
        "CREATE VIEW endless AS SELECT i AS id, timestamptz '2026-01-01' AS at, 't1' AS tenant, repeat('x', 1000) AS t "
        "FROM generate_series(1, 200000) i",
    )
    with Extraction(question(dsn, "endless")) as source, closing(source.batches(source.entities[0])) as batches:
        next(batches)
        source.cancel()
        with pytest.raises(Cancelled):
            next(batches)


def test_leaving_early_is_quiet(dsn: str) -> None:
    execute(dsn, "CREATE TABLE left_early AS SELECT i AS id, now() AS at, 't1' AS tenant FROM generate_series(1, 9) i")

    with Extraction(question(dsn, "left_early")) as source, closing(records(source)) as rows:
        assert next(rows)
