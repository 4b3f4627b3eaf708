"""Every page is a look into an index, wherever it begins and whatever is filtered, however much there is in the tables.

The statements are taken from the store at work, so that they are the ones that run, and with their very arguments.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.history.domain.listing import (
    ARTIFACT_COLUMNS,
    EXECUTION_COLUMNS,
    ArtifactFilter,
    AuditFilter,
    ExecutionFilter,
    Order,
    Range,
    SlotFilter,
    SlotOutcome,
    SlotPlace,
    orders,
)
from services.history.store import Store, statement
from shared import database
from shared.database import Connection, Database
from shared.events import RunState, Trigger
from tests.conftest import fresh_database

ROWS = 40_000
BEGIN = datetime.now(UTC).replace(microsecond=0) - timedelta(days=360)
STEP = timedelta(days=350) / ROWS
JOB, RUN = UUID(int=7), UUID(int=20_000)
MONTHS, PAGE = 17, 51
SMALL = 200
"""Rows that may be read or sorted as a whole: one in two hundred of all."""

# Two of five rows are acme's, and one in two hundred of them is of the job that has been running for a year.
NUMBERED = f"""
    SELECT n, CASE WHEN n % 5 < 2 THEN 'acme' ELSE 't' || n % 40 END AS tenant,
           $1::timestamptz + n * $2::interval AS at,
           lpad(to_hex(CASE WHEN n % 200 = 0 THEN 7 ELSE 100 + n % 61 END), 32, '0')::uuid AS job_id,
           lpad(to_hex(n), 32, '0')::uuid AS run_id, n % 7 AS title, n % 3 AS kind
    FROM generate_series(1, {ROWS}) AS n"""
FILL = (
    f"""INSERT INTO executions (requested_at, run_id, tenant, job_id, job_version, title, title_folded, source, type,
          trigger, slot_key, slot_at, interval_from, interval_to, question, state, started_at, finished_at, rows, bytes)
        SELECT at, run_id, tenant, job_id, title, 'Title ' || title, 'title ' || title, 'source' || kind,
               'type' || kind, CASE WHEN n % 1000 = 1 THEN 'manual' ELSE 'schedule' END, 'schedule:' || n, at,
               at - interval '1 h', at, '{{}}',
               CASE WHEN n % 500 = 0 THEN 'failed' WHEN n % 700 = 0 THEN 'running' ELSE 'succeeded' END,
               at + interval '1 min',
               CASE WHEN n % 700 <> 0 OR n % 500 = 0 THEN at + interval '1 min' + n % 977 * interval '1 s' END,
               CASE WHEN n % 500 <> 0 AND n % 700 <> 0 THEN n % 991 END,
               CASE WHEN n % 500 <> 0 AND n % 700 <> 0 THEN n % 997 END
        FROM ({NUMBERED}) AS numbered""",
    f"""INSERT INTO artifacts (requested_at, artifact_id, tenant, run_id, job_id, title, title_folded, source, type,
          number, file_name, size_bytes, rows, sha256, stored_at, expires_at, deleted_at)
        SELECT at, run_id, tenant, run_id, job_id, 'Title ' || title, 'title ' || title, 'source' || kind,
               'type' || kind, 1, 'a', n % 991, n % 997, 'ab', at + interval '1 min', at + interval '30 days',
               CASE WHEN n % 10 > 0 THEN at END
        FROM ({NUMBERED}) AS numbered""",
    f"""INSERT INTO events (occurred_at, event_id, position, tenant, type, job_id, run_id, actor, body)
        SELECT at + interval '1 min', run_id, n, tenant,
               CASE n % 4 WHEN 0 THEN 'ArtifactStored' WHEN 1 THEN 'RunStarted' WHEN 2 THEN 'ArtifactDownloaded'
                          ELSE 'RunQueued' END,
               job_id, run_id, CASE WHEN n % 4 = 2 THEN 'somebody' || n % 3 END,
               json_build_object('part', json_build_object('artifact_id', run_id))
        FROM ({NUMBERED}) AS numbered""",
    f"""INSERT INTO slots_not_run (decided_at, job_id, slot_key, tenant, job_version, slot_at, trigger, outcome, reason)
        SELECT at, job_id, 'skipped:' || n, tenant, title, at, 'schedule',
               CASE WHEN n % 9 > 0 THEN 'skipped' ELSE 'missed' END, 'overlap'
        FROM ({NUMBERED}) AS numbered""",
    f"""INSERT INTO slots_waiting (job_id, slot_key, tenant, job_version, slot_at, trigger, waiting_at)
        SELECT job_id, 'schedule:' || n, tenant, title, at, 'schedule', at FROM ({NUMBERED}) AS numbered
        WHERE n > {ROWS} - 300""",
    f"""INSERT INTO job_versions (job_id, version, tenant, title, title_folded, labels, settings, occurred_at)
        SELECT DISTINCT ON (job_id, title) job_id, title, 'acme', 'Title ' || title, 'title ' || title,
               CASE WHEN n % 200 = 0 AND title = 3 THEN '{{"rare": "yes"}}'::jsonb ELSE '{{}}' END
                 || CASE WHEN n % 200 > 0 AND n % 61 < 5 THEN '{{"few": "yes"}}'::jsonb ELSE '{{}}' END
                 || jsonb_build_object('team', 't' || title), '{{}}'::json, at
        FROM ({NUMBERED}) AS numbered WHERE tenant = 'acme'""",
)


class Recorded(Database):
    """A database that remembers what is asked of it."""

    def __init__(self, pool: database.Pool) -> None:
        super().__init__(pool, "history")
        self.asked: list[tuple[str, tuple[Any, ...]]] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        async with super().transaction() as connection:
            with connection.query_logger(self._record):
                yield connection

    def _record(self, query: asyncpg.connection.LoggedQuery) -> None:
        if query.query.lstrip().startswith("SELECT") and "set_config" not in query.query:
            self.asked.append((query.query, query.args))


@pytest.fixture(scope="module")
async def recorded(postgres: EmbeddedPostgres, templates: dict[str, str]) -> AsyncIterator[Recorded]:
    async with fresh_database(postgres, templates["history"]) as dsn, database.connect(dsn, "history") as filled:
        await Store(filled).keep_partitions()
        async with filled.session() as connection:
            await connection.execute("SET ROLE NONE")
            for statement in FILL:
                await connection.execute(statement, BEGIN, STEP)
            await connection.execute("VACUUM ANALYZE")
            await connection.execute("RESET ROLE")
        yield Recorded(filled._pool)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def assert_cheap(
    recorded: Recorded, call: Callable[[Store], Awaitable[Any]], table: str, index: str, *, blocks: int,
    sorted_rows: int = SMALL,
) -> Any:  # fmt: skip
    """What `call` asks of `table` goes by way of `index`, reads few blocks, and sorts few rows."""
    recorded.asked.clear()
    answer = await call(Store(recorded))
    asked = [(query, arguments) for query, arguments in recorded.asked if f"FROM {table}" in query]
    assert asked
    indexes: set[str] = set()
    for query, arguments in asked:
        async with super(Recorded, recorded).tenant("acme") as connection:
            [explained] = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) {query}", *arguments)
        found = list(nodes(explained["Plan"]))
        read = explained["Plan"]["Shared Hit Blocks"] + explained["Plan"]["Shared Read Blocks"]
        assert read <= blocks, f"{read} blocks: {query} {arguments} {explained}"
        for node in found:
            if node["Node Type"] == "Seq Scan":
                # Of a small table, or a month in which little happened.
                assert node["Actual Rows"] + node.get("Rows Removed by Filter", 0) <= 2 * SMALL, explained
            if node["Node Type"] == "Sort":
                [rows] = [child["Actual Rows"] * child["Actual Loops"] for child in node["Plans"]]
                assert rows <= sorted_rows, f"{rows} rows are sorted: {query} {arguments} {explained}"
        indexes |= {node["Index Name"] for node in found if "Index Name" in node}
    assert not index or any(index in name for name in indexes), indexes
    return answer


EVERY_MONTH = MONTHS * 4 + PAGE * 2
"""Blocks: the descent into each month's index, and a row or two of index and table for each that is shown."""
BY_KEYS = PAGE * 4
"""Blocks: the descent to each row that is shown."""
INDEXES = {
    **{column: f"tenant_{column}" for column in (*EXECUTION_COLUMNS, *ARTIFACT_COLUMNS)},
    "requested_at": "tenant_requested_at_run_id", "title": "tenant_title_folded",
}  # fmt: skip


@pytest.mark.parametrize("sort", orders(EXECUTION_COLUMNS))
async def test_each_order_of_executions_has_an_index_for_the_first_page_and_those_behind(
    recorded: Recorded, sort: str
) -> None:
    order = Order.read(sort)
    place = None
    for _ in range(3):
        rows = await assert_cheap(
            recorded, lambda store, p=place: store.list_executions("acme", order, ExecutionFilter(), PAGE, p),
            # Of a title that a seventh has, the next page is as near by way of the moments.
            "executions", INDEXES[order.column] if place is None else "", blocks=EVERY_MONTH,
        )  # fmt: skip
        place = rows[-1][1]
    rows = await Store(recorded).list_executions("acme", order, ExecutionFilter(), 10_000, None)
    place = rows[-1][1]
    await assert_cheap(
        recorded, lambda store: store.list_executions("acme", order, ExecutionFilter(), PAGE, place),
        "executions", "", blocks=EVERY_MONTH,
    )  # fmt: skip


@pytest.mark.parametrize("sort", orders(ARTIFACT_COLUMNS))
async def test_each_order_of_artifacts_has_an_index_for_the_first_page_and_those_behind(
    recorded: Recorded, sort: str
) -> None:
    order = Order.read(sort)
    place = None
    for _ in range(3):
        rows = await assert_cheap(
            recorded, lambda store, p=place: store.list_artifacts("acme", order, ArtifactFilter(), PAGE, p),
            "artifacts", INDEXES[order.column], blocks=EVERY_MONTH,
        )  # fmt: skip
        place = rows[-1][1]


DAY = Range(BEGIN + timedelta(days=100), BEGIN + timedelta(days=101))
LATELY = Range(BEGIN + timedelta(days=340), BEGIN + timedelta(days=341))


@pytest.mark.parametrize(
    ("only", "index", "blocks"),
    [
        pytest.param(ExecutionFilter(job_id=JOB), "tenant_job_id", EVERY_MONTH, id="job"),
        pytest.param(ExecutionFilter(source="source1"), "tenant_source", EVERY_MONTH, id="source"),
        pytest.param(ExecutionFilter(type="type1"), "tenant_type", EVERY_MONTH, id="type"),
        pytest.param(ExecutionFilter(trigger=Trigger.MANUAL), "tenant_trigger", EVERY_MONTH, id="trigger"),
        pytest.param(ExecutionFilter(states=[RunState.FAILED]), "tenant_state", EVERY_MONTH, id="state"),
        pytest.param(
            ExecutionFilter(states=[RunState.FAILED, RunState.RUNNING]), "tenant_state", 3 * EVERY_MONTH, id="states"
        ),
        pytest.param(ExecutionFilter(requested=DAY), "tenant_requested_at", PAGE * 3, id="requested"),
        pytest.param(ExecutionFilter(started=DAY), "tenant_started_at", EVERY_MONTH, id="started"),
        pytest.param(ExecutionFilter(finished=DAY), "tenant_finished_at", EVERY_MONTH, id="finished"),
        pytest.param(ExecutionFilter(touching=LATELY), "tenant_requested_at", PAGE * 20, id="data"),
        pytest.param(ExecutionFilter(text="title 3"), "tenant_requested_at", EVERY_MONTH, id="text"),
        pytest.param(ExecutionFilter(text="title"), "tenant_requested_at", EVERY_MONTH, id="much text"),
        pytest.param(ExecutionFilter(labels={"team": "t3"}), "tenant_requested_at", PAGE * 20, id="label"),
        pytest.param(ExecutionFilter(labels={"rare": "yes"}), "tenant_job_id", EVERY_MONTH, id="rare label"),
        pytest.param(ExecutionFilter(labels={"few": "yes"}), "tenant_job_id", EVERY_MONTH, id="label of a few"),
        pytest.param(
            ExecutionFilter(labels={"few": "yes"}, text="title"), "tenant_job_id", EVERY_MONTH, id="label and text"
        ),
    ],
)
async def test_a_filter_of_executions_has_an_index(
    recorded: Recorded, only: ExecutionFilter, index: str, blocks: int
) -> None:
    order = Order("requested_at", descending=True)
    rows = await assert_cheap(
        recorded, lambda store: store.list_executions("acme", order, only, PAGE, None), "executions", index,
        blocks=blocks + BY_KEYS, sorted_rows=5 * PAGE,
    )  # fmt: skip
    await assert_cheap(
        recorded, lambda store: store.list_executions("acme", order, only, PAGE, rows[-1][1]), "executions", "",
        blocks=blocks + BY_KEYS, sorted_rows=5 * PAGE,
    )  # fmt: skip


@pytest.mark.parametrize("column", ["bytes", "rows"])
async def test_failures_are_not_looked_for_among_what_succeeded(recorded: Recorded, column: str) -> None:
    """Only what succeeded has rows and bytes: by the index of those all of it would be read, in vain."""
    only = ExecutionFilter(states=[RunState.FAILED])
    await assert_cheap(
        recorded, lambda store: store.list_executions("acme", Order(column), only, PAGE, None), "executions", "",
        blocks=2 * EVERY_MONTH,
    )  # fmt: skip


@pytest.mark.parametrize("column", ["source", "title", "rows"])
async def test_a_jobs_runs_are_found_by_the_job_in_whatever_order(recorded: Recorded, column: str) -> None:
    """All of them have one source: by its index those of all other jobs would be read, too."""
    only = ExecutionFilter(job_id=JOB)
    await assert_cheap(
        recorded, lambda store: store.list_executions("acme", Order(column), only, PAGE, None), "executions",
        "tenant_job_id", blocks=EVERY_MONTH + BY_KEYS, sorted_rows=2000,
    )  # fmt: skip


@pytest.mark.parametrize("column", ["started_at", "source", "title", "trigger", "bytes"])
@pytest.mark.parametrize(
    ("only", "index"),
    [
        pytest.param(ExecutionFilter(states=[RunState.FAILED]), "tenant_state", id="failed"),
        pytest.param(ExecutionFilter(trigger=Trigger.MANUAL), "tenant_trigger", id="manual"),
        pytest.param(ExecutionFilter(labels={"rare": "yes"}), "tenant_job_id", id="a job's label"),
    ],
)
async def test_what_is_rare_is_found_and_sorted_without_the_table(
    recorded: Recorded, only: ExecutionFilter, index: str, column: str
) -> None:
    await assert_cheap(
        recorded, lambda store: store.list_executions("acme", Order(column), only, PAGE, None), "executions", index,
        blocks=EVERY_MONTH + BY_KEYS, sorted_rows=2000,
    )  # fmt: skip


@pytest.mark.parametrize(
    "only",
    [
        ExecutionFilter(job_id=JOB),
        ExecutionFilter(job_id=JOB, states=[RunState.SUCCEEDED]),
        ExecutionFilter(source="source1", type="type1", states=[RunState.FAILED]),
        ExecutionFilter(trigger=Trigger.MANUAL, states=[RunState.SUCCEEDED]),
        ExecutionFilter(labels={"rare": "yes"}),
        ExecutionFilter(source="source1"),
        ExecutionFilter(requested=Range(BEGIN, BEGIN + timedelta(days=60))),
        ExecutionFilter(),
    ],
    ids=["job", "job-state", "source-type-state", "trigger-state", "label", "source", "requested", "all"],
)
async def test_what_is_counted_is_counted_in_an_index(recorded: Recorded, only: ExecutionFilter) -> None:
    total, is_estimate = await assert_cheap(
        recorded, lambda store: store.count_executions("acme", only), "executions", "tenant_",
        blocks=EVERY_MONTH + statement.COUNTED // 50,
    )  # fmt: skip
    assert total > 0
    assert is_estimate == (total > statement.COUNTED)


async def test_one_execution_and_its_timeline_are_looked_up(recorded: Recorded) -> None:
    for table, index in (
        ("executions", "run_id"), ("job_versions", "job_versions"), ("artifacts", "run_id"), ("events", "run_id"),
    ):  # fmt: skip
        found = await assert_cheap(
            recorded, lambda store: store.execution("acme", RUN), table, index, blocks=MONTHS * 3
        )
        assert found is not None
    await assert_cheap(
        recorded, lambda store: store.timeline("acme", RUN, PAGE, None), "events", "run_id", blocks=MONTHS * 3,
    )  # fmt: skip


async def test_the_feed_of_artifacts_goes_by_position(recorded: Recorded) -> None:
    position = 0
    for _ in range(3):
        _, position = await assert_cheap(
            recorded, lambda store, p=position: store.artifacts_after("acme", p, PAGE), "events", "tenant_position",
            blocks=EVERY_MONTH,
        )  # fmt: skip
        await assert_cheap(
            recorded, lambda store, p=position: store.artifacts_after("acme", p, PAGE), "artifacts", "",
            blocks=PAGE * MONTHS * 3,
        )  # fmt: skip


@pytest.mark.parametrize("job_id", [None, JOB])
@pytest.mark.parametrize("outcome", [None, *SlotOutcome])
async def test_the_ledger_goes_by_when_slots_were_decided(
    recorded: Recorded, job_id: UUID | None, outcome: SlotOutcome | None
) -> None:
    only = SlotFilter(job_id, outcome)
    waiting = outcome is SlotOutcome.WAITING
    table = "slots_waiting" if waiting else "executions" if outcome is SlotOutcome.REQUESTED else "slots_not_run"
    # So few wait that PostgreSQL reads them all.
    index = "" if waiting else "tenant_job_id" if job_id else "tenant_"
    place = None
    for _ in range(2):
        rows = await assert_cheap(
            recorded, lambda store, p=place: store.list_slots("acme", only, PAGE, p), table, index, blocks=PAGE * 5,
        )  # fmt: skip
        if not rows:
            break
        place = SlotPlace(rows[-1]["decided_at"], rows[-1]["job_id"], rows[-1]["slot_key"])


async def test_whether_a_waiting_slot_was_decided_is_looked_up(recorded: Recorded) -> None:
    for table in ("executions", "slots_not_run"):
        await assert_cheap(
            recorded, lambda store: store.list_slots("acme", SlotFilter(outcome=SlotOutcome.WAITING), PAGE, None),
            table, "", blocks=SMALL * 5,
        )  # fmt: skip


async def test_a_calendar_reads_the_runs_of_its_job_in_its_months(recorded: Recorded) -> None:
    begin, end = BEGIN + timedelta(days=200), BEGIN + timedelta(days=300)
    rows = await assert_cheap(
        recorded, lambda store: store.intervals("acme", JOB, begin, end, 10_000), "executions", "job_id", blocks=400,
    )  # fmt: skip
    assert len(rows) > 50


@pytest.mark.parametrize(
    ("only", "index"),
    [
        (AuditFilter(), "tenant_occurred_at"),
        (AuditFilter(actor="somebody1"), "tenant_occurred_at"),
        (AuditFilter(run_id=UUID(int=20_002)), "run_id"),
        (AuditFilter(at=DAY), "tenant_occurred_at"),
    ],
    ids=["all", "actor", "run", "day"],
)
async def test_the_audit_goes_by_time(recorded: Recorded, only: AuditFilter, index: str) -> None:
    await assert_cheap(
        recorded, lambda store: store.list_audit("acme", only, PAGE, None), "events", index, blocks=PAGE * 5,
    )  # fmt: skip
