"""What helm refuses to install, and how it says so."""

import pytest

from tests.deploy.helm.chart import Helm


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("kafka.bootstrap=", "kafka.bootstrap is missing: set it"),
        ("auth.issuer=", "auth.issuer is missing: set it"),
        ("auth.jwksUrl=", "set exactly one of auth.jwksUrl and auth.publicKey.configMap"),
        ("auth.publicKey.configMap=identity", "set exactly one of auth.jwksUrl and auth.publicKey.configMap"),
        ("sources.configMap.name=", "set exactly one of sources.file and sources.configMap.name"),
        ("sources.file=[sources]", "set exactly one of sources.file and sources.configMap.name"),
        ("objects.location=", "objects.location is missing: set it"),
        ("services.console.publicUrl=", "services.console.publicUrl is missing: set it"),
        ("kafka.ca.secret=a,kafka.ca.configMap=b", "kafka.ca: set one of secret and configMap, not both"),
        ("traces.mode=otlp", "traces.endpoint is missing: set it"),
        ("autoscaling.enabled=true", "autoscaling.queue.prometheus.serverAddress is missing: set it"),
        (
            "autoscaling.enabled=true,autoscaling.queue.from=postgresql,services.history.autoscaling.min=9",
            "services.history.autoscaling: min is greater than max",
        ),
        ("httpRoute.enabled=true", "httpRoute.parentRefs is missing: name the gateway"),
        ("services.exporter.replica=3", "'replica' not allowed"),
        ("networkPolicies.enabled=false", "'networkPolicies' not allowed"),
        ("services.exporter.settings.RETENSION=P3D", "RETENSION"),
    ],
)
def test_what_is_missing_or_misspelt_is_named(helm: Helm, change: str, said: str) -> None:
    done = helm.template("required", change)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stdout == ""


def test_the_first_thing_that_is_missing_is_named(helm: Helm) -> None:
    done = helm.template()
    assert done.returncode == 1
    assert "kafka.bootstrap is missing" in done.stderr
