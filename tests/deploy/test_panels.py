"""Every query of a dashboard on the real schema, by the role that Grafana has."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.database import DirectConnection
from tests.deploy.panels import DASHBOARDS, HISTORY, PROMETHEUS, Target, dashboard, read_yaml, sql, targets
from tests.history.events import START

SINCE, UNTIL = START - timedelta(days=1), datetime.now(UTC) + timedelta(days=1)
SQL_TARGETS = list(targets(HISTORY))
CHOICES: list[dict[str, list[str]]] = [{}, {"tenant": ["t1"], "source": ["ucs"]}, {"tenant": ["t1", "t2"]}]


def named(target: Target) -> str:
    return target.name


@pytest.mark.parametrize("variables", CHOICES, ids=str)
@pytest.mark.parametrize("target", SQL_TARGETS, ids=named)
async def test_a_panel_shows_what_is_there(
    grafana: DirectConnection, target: Target, variables: dict[str, list[str]]
) -> None:
    rows = await grafana.fetch(sql(target.query["rawSql"], SINCE, UNTIL, variables))

    assert rows
    if target.query["format"] == "time_series":
        check_time_series(rows)


def check_time_series(rows: list[Any]) -> None:
    """What Grafana draws: a column `time`, numbers, and at most one text that names the series."""
    [first, *others] = rows[0].keys()
    assert first == "time"
    texts = [name for name in others if isinstance(rows[0][name], str)]
    assert texts in ([], ["metric"])
    assert all(row["time"].tzinfo is not None for row in rows)
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    for name in set(others) - set(texts):
        assert float(rows[0][name]) >= 0


@pytest.mark.parametrize("target", SQL_TARGETS, ids=named)
async def test_a_panel_of_nobody_has_no_numbers(grafana: DirectConnection, target: Target) -> None:
    rows = await grafana.fetch(sql(target.query["rawSql"], SINCE, UNTIL, {"tenant": ["nobody"]}))
    if "$tenant" in target.query["rawSql"]:
        assert not any(value for row in rows for value in row)


@pytest.mark.parametrize("target", [t for t in SQL_TARGETS if t.panel], ids=named)
async def test_units_are_set_for_columns_that_there_are(grafana: DirectConnection, target: Target) -> None:
    [row, *_] = await grafana.fetch(sql(target.query["rawSql"], SINCE, UNTIL))
    for override in target.panel["fieldConfig"]["overrides"]:
        if override["matcher"]["id"] == "byName":
            assert override["matcher"]["options"] in row.keys()  # noqa: SIM118 - a record's own `in` is about values


@pytest.mark.parametrize("target", [t for t in SQL_TARGETS if "$__timeF" in t.query["rawSql"]], ids=named)
async def test_a_panel_reads_only_the_months_of_its_time_range(grafana: DirectConnection, target: Target) -> None:
    month = START.replace(day=1)
    query = sql(target.query["rawSql"], month + timedelta(days=2), month + timedelta(days=3))
    plan = "\n".join(row[0] for row in await grafana.fetch("EXPLAIN " + query))
    read = set(re.findall(r"(?:executions|artifacts|slots_not_run|statistics)_(\d{4}_\d\d)\b", plan))
    assert read == {f"{month:%Y_%m}"}, plan


async def test_current_executions_are_looked_up_in_an_index_of_the_open_ones(grafana: DirectConnection) -> None:
    await grafana.execute("SET enable_seqscan = off")  # the tables are too small to make it choose
    plan = "\n".join(row[0] for row in await grafana.fetch("EXPLAIN SELECT * FROM dashboard_progress"))
    used = re.findall(r"Index (?:Only )?Scan (?:using|on) executions_\d{4}_\d\d_(\w+)", plan)
    assert set(used) == {"requested_at_idx"}, plan
    assert "Seq Scan on executions" not in plan


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_one_that_grafana_can_place(path: Any) -> None:
    found = dashboard(path)
    assert found["uid"] == f"cdds-{path.stem}"
    ids = [panel["id"] for panel in found["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in found["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["type"] == "row" or panel["description"].endswith(".")


def test_dashboards_go_by_the_data_sources_that_are_provisioned() -> None:
    provisioned = {
        source["uid"]: source["type"]
        for source in read_yaml("grafana", "provisioning", "datasources", "cdds.yaml")["datasources"]
    }
    used = {
        (panel["datasource"]["uid"], panel["datasource"]["type"])
        for path in DASHBOARDS
        for panel in dashboard(path)["panels"]
        if panel["type"] != "row"
    }
    assert used == set(provisioned.items())
    assert set(provisioned) == {PROMETHEUS, HISTORY}
