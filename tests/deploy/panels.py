"""The files under `deploy/` and what their queries are, as Grafana would send them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
PROMETHEUS, HISTORY = "cdds-prometheus", "cdds-history"


@dataclass(frozen=True, slots=True)
class Target:
    """One query of a panel, or of a variable."""

    name: str
    panel: dict[str, Any]
    query: dict[str, Any]


def dashboard(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def read_yaml(*parts: str) -> Any:
    return yaml.safe_load(ROOT.joinpath("deploy", *parts).read_text())


def targets(datasource: str) -> Iterator[Target]:
    """All queries to a data source, in all dashboards."""
    for path in DASHBOARDS:
        found = dashboard(path)
        for panel in found["panels"]:
            if panel["type"] != "row" and panel["datasource"]["uid"] == datasource:
                for query in panel["targets"]:
                    yield Target(f"{path.stem}: {panel['title']} {query['refId']}", panel, query)
        for variable in found["templating"]["list"]:
            if variable["datasource"]["uid"] == datasource:
                yield Target(f"{path.stem}: ${variable['name']}", {}, {"rawSql": variable["query"], "format": "table"})


def alerts() -> list[dict[str, Any]]:
    return [rule for group in read_yaml("prometheus", "alerts.yaml")["groups"] for rule in group["rules"]]


def sql(text: str, since: datetime, until: datetime, variables: dict[str, list[str]] | None = None) -> str:
    """The statement that Grafana makes of a query; without `variables` all of them are "All"."""
    begin, end = (f"'{moment.astimezone(UTC).strftime('%Y-%m-%dT%H:%M:%S.%fZ')}'" for moment in (since, until))
    text = re.sub(r"\$__timeFilter\(([^)]*)\)", rf"\1 BETWEEN {begin} AND {end}", text)
    text = text.replace("$__timeFrom()", begin).replace("$__timeTo()", end)
    # A variable's allValue is put in as it is, chosen values as a list of literals.
    chosen = variables or {}
    text = re.sub(
        r"\$(tenant|source)\b", lambda m: ",".join(f"'{v}'" for v in chosen[m[1]]) if m[1] in chosen else m[1], text
    )
    assert "$" not in text, text
    return text
