"""Every metric and label that panels and alerts ask for is one that the services expose."""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import promql_parser as promql
import pytest
from aiokafka.errors import KafkaError
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

import services.console.app
import services.exporter.app
import services.history.app
import services.job_api.app
import services.scheduler.app  # noqa: F401 - importing a service is what registers its metrics
from services.exporter.loops import measure_files, measure_runs
from services.exporter.store import Store as ExporterStore
from services.job_api.loops import measure_certificates
from services.job_api.store import Store as JobApiStore
from shared.cluster import Cluster
from shared.events import JobCreated
from shared.inbox import Inbox
from shared.messaging import Producer
from tests.conftest import DatabaseOf
from tests.deploy.panels import PROMETHEUS, ROOT, alerts, read_yaml, targets

PROMETHEUS_OWN = {"up": frozenset[str]()}
TARGET_LABELS = {"job", "service", "instance"}
DOCUMENTATION = (ROOT / "docs/operate/metrics.md").read_text()
EXPRESSIONS = {
    **{target.name: target.query["expr"].replace("$__rate_interval", "5m") for target in targets(PROMETHEUS)},
    **{rule["alert"]: rule["expr"] for rule in alerts()},
}


def exposed() -> dict[str, frozenset[str]]:
    """The series of this process and their labels, also of those that have no value yet."""
    found: dict[str, frozenset[str]] = dict(PROMETHEUS_OWN)
    for collector in set(REGISTRY._names_to_collectors.values()):
        for family in collector.collect():
            labels = frozenset(collector._labelnames if isinstance(collector, MetricWrapperBase) else ())
            match family.type:
                case "counter":
                    found[f"{family.name}_total"] = labels
                case "histogram":
                    found[f"{family.name}_bucket"] = labels | {"le"}
                    found |= dict.fromkeys((f"{family.name}_count", f"{family.name}_sum"), labels)
                case _:
                    found[family.name] = labels
    return found


def walk(node: Any) -> Iterator[Any]:
    """A node of an expression and all below it."""
    yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        below = getattr(node, name, None)
        if below is not None and not isinstance(below, str):
            yield from walk(below)
    for argument in getattr(node, "args", ()):
        yield from walk(argument)


def selectors(node: Any) -> list[promql.VectorSelector]:
    return [below for below in walk(node) if isinstance(below, promql.VectorSelector)]


def labels_of(node: Any) -> set[str]:
    """The labels that the series below may have."""
    known = exposed()
    return TARGET_LABELS.union(*(known.get(str(selector.name), ()) for selector in selectors(node)))


def grouped(node: Any) -> Iterator[tuple[set[str], Any]]:
    """The labels that aggregations below name, each with what it aggregates."""
    for below in walk(node):
        if isinstance(below, promql.AggregateExpr) and below.modifier is not None:
            yield set(below.modifier.labels), below.expr


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_what_is_asked_for_is_exposed(expression: str) -> None:
    known = exposed()
    parsed = promql.parse(expression)
    assert selectors(parsed)
    for selector in selectors(parsed):
        assert selector.name in known, selector.name
        for matcher in selector.matchers.matchers:
            assert matcher.name in known[selector.name] | TARGET_LABELS, (selector.name, matcher.name)
    for labels, below in grouped(parsed):
        assert labels <= labels_of(below), labels


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_gauges_of_the_database_are_not_added_up_over_replicas(expression: str) -> None:
    for below in walk(promql.parse(expression)):
        if isinstance(below, promql.AggregateExpr) and str(below.op) == "sum":
            of_database = {str(selector.name) for selector in selectors(below)} & documented("database")
            assert not of_database


def documented(where: str = "") -> set[str]:
    """The metrics of the table, all or those of `where`."""
    rows = [line.split("|") for line in DOCUMENTATION.splitlines() if line.startswith("| `cdds_")]
    return {name for row in rows if where in row[3] for name in re.findall(r"`(cdds_\w+)`", row[1])}


def test_every_metric_is_documented_with_its_labels() -> None:
    own = {
        re.sub(r"_(bucket|count|sum)$", "", name): labels - {"le"}
        for name, labels in exposed().items()
        if name.startswith("cdds_")
    }
    assert set(own) == documented()
    for line in DOCUMENTATION.splitlines():
        if line.startswith("| `cdds_"):
            _, names, labels, *_ = line.split("|")
            for name in re.findall(r"`(cdds_\w+)`", names):
                assert own[name] == set(labels.replace(",", " ").split()), name


def test_legends_and_texts_name_labels_that_are_left() -> None:
    for target in targets(PROMETHEUS):
        expression = promql.parse(EXPRESSIONS[target.name])
        left = set().union(*(labels for labels, _ in grouped(expression))) or labels_of(expression)
        assert set(re.findall(r"{{(\w+)}}", target.query["legendFormat"])) <= left, target.name
    for rule in alerts():
        expression = promql.parse(rule["expr"])
        aggregated = any(isinstance(below, promql.AggregateExpr) for below in walk(expression))
        left = set().union(*(labels for labels, _ in grouped(expression))) if aggregated else labels_of(expression)
        for text in rule["annotations"].values():
            assert set(re.findall(r"\$labels\.(\w+)", text)) <= left, rule["alert"]


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in alerts()}) == len(alerts())
    for rule in alerts():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        assert all(rule["annotations"].values())
        assert f"| {rule['alert']} |" in DOCUMENTATION
        assert f"| {rule['labels']['severity']} |" in DOCUMENTATION.split(f"| {rule['alert']} |")[1].splitlines()[0]


def test_what_is_scraped_has_the_labels_that_alerts_and_dashboards_go_by() -> None:
    config = read_yaml("prometheus", "prometheus.yaml")
    assert config["rule_files"] == ["alerts.yaml"]
    [job] = config["scrape_configs"]
    assert job["job_name"] == "cdds"
    assert {each["labels"]["service"] for each in job["static_configs"]} == {
        "job_api", "scheduler", "exporter", "history", "console",
    }  # fmt: skip


async def test_the_values_of_labels_that_are_asked_for_exist(database_of: DatabaseOf) -> None:
    exporter = ExporterStore(await database_of("exporter"), cast(Any, None))
    await measure_runs(exporter)
    await measure_files(exporter)
    await measure_certificates(JobApiStore(await database_of("job_api")))
    inbox = Inbox("test", cast(Producer, None), cast(Any, None))

    @inbox.on(JobCreated)
    async def ignore(event: JobCreated) -> None: ...

    with suppress(KafkaError):  # there is no broker, but it counts dead letters from before it connects
        await inbox.run(Cluster("127.0.0.1:1"))
    samples = [sample for family in REGISTRY.collect() for sample in family.samples]
    for expression in EXPRESSIONS.values():
        for selector in selectors(promql.parse(expression)):
            for matcher in selector.matchers.matchers:
                if matcher.name not in TARGET_LABELS:
                    values = {sample.labels[matcher.name] for sample in samples if sample.name == selector.name}
                    assert set(matcher.value.split("|")) <= values, (expression, values)
