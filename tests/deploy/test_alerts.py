"""What `promtool`, where there is one, says about the rules and when they fire."""

import shutil
import subprocess

import pytest

from tests.deploy.panels import ROOT

PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool")
@pytest.mark.parametrize(
    "command", ["check config prometheus.yaml", "check rules alerts.yaml", "test rules alerts.test.yaml"]
)
def test_rules_are_those_of_prometheus_and_fire_when_they_should(command: str) -> None:
    done = subprocess.run(
        [str(PROMTOOL), *command.split()],
        cwd=ROOT / "deploy" / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
