"""The values that are documented are those that are taken, and a typo is refused by name. Needs no helm."""

import importlib
import json
import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import jsonschema_rs
import pytest
import yaml

from shared.database import DirectConnection
from shared.inbox import Inbox
from tests.deploy.helm.chart import CHART, SERVICES, SETS, VALUES
from tests.deploy.panels import ROOT

DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
VALIDATOR = jsonschema_rs.validator_for(SCHEMA)
# Taken as they are: maps by names of your own, and what Kubernetes defines.
FREE = re.compile(
    r"sources\.dsns|objects\.options|services\.\w+\.(settings|serviceAccount\.annotations)"
    r"|pods\.(labels|annotations|nodeSelector|affinity)|(ingress|httpRoute|dashboards)\.annotations"
    r"|(serviceMonitor|prometheusRule|dashboards)\.labels"
)
# What the chart says itself, or what has no place in a pod.
NOT_SETTINGS = {
    "http_host", "http_port", "log_format", "log_level", "stop_with_parent", "local", "insecure", "traces",
    "auth_issuer", "auth_audience", "auth_jwks_url", "auth_public_key",
    "postgres", "migrate", "sources", "objects", "object_options", "signing_key", "masking_key",
    "concurrent_runs", "grace", "worker", "kafka", "kafka_security", "kafka_ca", "kafka_certificate", "kafka_key",
    "kafka_mechanism", "kafka_username", "kafka_password", "kafka_topics", "kafka_partitions", "kafka_replication",
    "kafka_member", "short_retentions",
    "job_api", "exporter", "history", "public_url", "client_id", "client_secret", "session_keys",
}  # fmt: skip


def test_the_defaults_fit_the_schema() -> None:
    VALIDATOR.validate(DEFAULTS)


@pytest.mark.parametrize("values", SETS)
def test_the_tested_sets_fit_the_schema(values: str) -> None:
    VALIDATOR.validate(merged(DEFAULTS, yaml.safe_load((VALUES / f"{values}.yaml").read_text())))


def test_a_typo_is_refused_by_name_wherever_it_is() -> None:
    strict = [path for path in paths(DEFAULTS) if not FREE.fullmatch(".".join(path))]
    assert len(strict) > 50
    for path in strict:
        values = deepcopy(DEFAULTS)
        place = values
        for name in path:
            place = place[name]
        place["tpyo"] = 1
        with pytest.raises(jsonschema_rs.ValidationError, match="tpyo"):
            VALIDATOR.validate(values)


def test_every_value_is_documented_and_every_documented_one_taken() -> None:
    """The schema has what `values.yaml` shows, and nothing that it hides."""
    for path in [(), *paths(DEFAULTS)]:
        if FREE.fullmatch(".".join(path)):
            continue
        schema, shown = SCHEMA, DEFAULTS
        for name in path:
            schema, shown = resolved(schema["properties"][name]), shown[name]
        hidden = set(schema["properties"]) - set(shown) - {"global", "ephemeral-storage"}
        assert not hidden, (path, hidden)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"kafka": {"bootstrap": "kafka"}}, "kafka/bootstrap"),
        ({"kafka": {"security": "sasl_plaintext"}}, "kafka/security"),
        ({"services": {"exporter": {"concurrentRuns": 0}}}, "concurrentRuns"),
        ({"services": {"history": {"settings": {"STREAM_READER": 1}}}}, "STREAM_READER"),
        ({"services": {"job_api": {"settings": {"KAFKA_PASSWORD": "x"}}}}, "KAFKA_PASSWORD"),
        ({"services": {"console": {"publicUrl": "https://cdds.example.com/"}}}, "publicUrl"),
        ({"services": {"job_api": {"resources": {"limits": {"memory": "1 GB"}}}}}, "memory"),
        ({"objects": {"options": {"secret_access_key": "x"}}}, "secret_access_key"),
        ({"objects": {"credentials": {"password": "x"}}}, "password"),
        ({"networkPolicy": {"kafka": {"to": [{"cidr": "10.0.0.0/8"}]}}}, "cidr"),
        ({"networkPolicy": {"kafka": {"to": [{"ipBlock": {"cidr": "10.0.0.1"}}]}}}, "cidr"),
        ({"image": {"digest": "0123"}}, "digest"),
    ],
)
def test_what_can_not_work_is_refused_where_it_is(values: dict[str, Any], named: str) -> None:
    with pytest.raises(jsonschema_rs.ValidationError) as refused:
        VALIDATOR.validate(merged(DEFAULTS, values))
    assert named in str(refused.value) + "/".join(map(str, refused.value.instance_path))


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_can_be_set(service: str) -> None:
    """By a value of its own, or by its name under `settings`; a new one has to be put into the schema."""
    fields = set(importlib.import_module(f"services.{service}.config").Settings.model_fields)
    schema = SCHEMA["properties"]["services"]["properties"][service]["properties"]["settings"]
    assert set(schema["propertyNames"]["enum"]) == {field.upper() for field in fields - NOT_SETTINGS}


@pytest.mark.parametrize("service", ["job_api", "scheduler", "exporter", "history"])
async def test_the_topics_that_scale_a_service_are_those_that_it_consumes(service: str) -> None:
    template = (CHART / "templates" / "_names.tpl").read_text()
    [block] = re.findall(r'define "cdds.topics" -}}\n(.*?){{- end', template, re.DOTALL)
    nothing: Any = None
    inbox = Inbox(service, nothing, nothing)
    importlib.import_module(f"services.{service}.consumers").register(inbox, FakeStore())
    assert sorted(yaml.safe_load(block)[service]) == inbox.topics


def test_alerts_and_dashboards_are_no_copies() -> None:
    assert (CHART / "files" / "alerts.yaml").samefile(ROOT / "deploy" / "prometheus" / "alerts.yaml")
    assert (CHART / "files" / "dashboards").samefile(ROOT / "deploy" / "grafana" / "dashboards")


def test_no_template_makes_or_reads_a_secret() -> None:
    for template in (CHART / "templates").iterdir():
        assert not re.search(
            r"kind: Secret\b|stringData|\blookup\b|randAlpha|genPrivateKey|b64enc", template.read_text()
        )


def test_every_block_of_values_is_explained() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    blocks = {name for name in DEFAULTS if isinstance(DEFAULTS[name], dict)}
    for name in blocks:
        at = next(number for number, line in enumerate(lines) if line.startswith(f"{name}:"))
        assert lines[at - 1].startswith("#"), name


async def test_the_query_that_scales_exporters_is_allowed_to_its_login(grafana: DirectConnection) -> None:
    query = DEFAULTS["autoscaling"]["queue"]["postgresql"]["query"]
    # Of two tenants, each has some that have not ended.
    assert await grafana.fetchval(query) == await grafana.fetchval("SELECT count(*) FROM dashboard_progress") > 2


class FakeStore:
    """Whatever handlers are registered with; they are not called."""

    def __getattr__(self, name: str) -> Any:
        return None


def paths(values: dict[str, Any], at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where in the values there are maps, those in free ones left out."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield (*at, name)
            if not FREE.fullmatch(".".join((*at, name))):
                yield from paths(value, (*at, name))


def merged(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """As helm does it: maps grow, all else is replaced."""
    both = {
        name: merged(values[name], more[name]) for name in values.keys() & more.keys() if isinstance(more[name], dict)
    }
    return {**values, **more, **both}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
