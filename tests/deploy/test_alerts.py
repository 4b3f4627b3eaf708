"""What Prometheus' own `promtool` says about the rules and when they fire, and that each one is made to."""

import os
import re
import shutil
import subprocess

import pytest

from tests.deploy.panels import ROOT, alerts, read_yaml

REQUIRED = "CDDS_REQUIRE_PROMTOOL"


@pytest.mark.parametrize(
    "command", ["check config prometheus.yaml", "check rules alerts.yaml", "test rules alerts.test.yaml"]
)
def test_rules_are_those_of_prometheus_and_fire_when_they_should(command: str) -> None:
    if (promtool := shutil.which("promtool")) is None:
        assert REQUIRED not in os.environ, "there is no promtool, and it is required here"
        pytest.skip("there is no promtool; Debian has it in the package prometheus")
    done = subprocess.run(
        [promtool, *command.split()],
        cwd=ROOT / "deploy" / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_fired_and_kept_silent_by_a_case() -> None:
    cases = read_yaml("prometheus", "alerts.test.yaml")["tests"]
    fired, silent = set[str](), 0
    for case in cases:
        for asked in case["promql_expr_test"]:
            assert 'ALERTS{alertstate="firing"}' in asked["expr"]
            names = {
                re.fullmatch(r'{alertname="(\w+)"}', sample["labels"])[1]  # pyright: ignore[reportOptionalSubscript]
                for sample in asked["exp_samples"]
                if sample["value"]
            }
            fired |= names
            silent += not names
    assert fired == {rule["alert"] for rule in alerts()}
    assert silent, "a case in which all is well"
