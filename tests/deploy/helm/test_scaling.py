"""KEDA scales what exists, by what is there to be measured, and not beyond what helps."""

import pytest
from promql_parser import parse

from services.exporter import metrics
from shared.events import TOPICS
from tests.deploy.helm.chart import SERVICES, Helm, Manifest, Release

CONSUMERS = ("job_api", "scheduler", "history")


def test_nothing_is_scaled_unless_asked_for(helm: Helm) -> None:
    release = helm.release("required")
    assert not list(release.of("ScaledObject", "TriggerAuthentication"))
    assert all(deployment["spec"]["replicas"] == 2 for deployment in release.of("Deployment"))


def test_what_is_scaled_has_no_replicas_of_its_own(everything: Release) -> None:
    """An upgrade would set them back."""
    targets = {each["spec"]["scaleTargetRef"]["name"] for each in everything.of("ScaledObject")}
    fixed = {each["metadata"]["name"] for each in everything.of("Deployment") if "replicas" in each["spec"]}
    assert targets | fixed == {each["metadata"]["name"] for each in everything.of("Deployment")}
    assert fixed == {everything.one("Deployment", "console")["metadata"]["name"]}
    assert not targets & fixed


def test_one_service_can_be_left_out(helm: Helm) -> None:
    release = helm.release("everything", "services.scheduler.autoscaling.enabled=false")
    assert release.one("Deployment", "scheduler")["spec"]["replicas"] == 2
    assert len(list(release.of("ScaledObject"))) == len(SERVICES) - 2


@pytest.mark.parametrize("service", CONSUMERS)
def test_consumers_are_scaled_by_the_lag_of_their_topics_up_to_its_partitions(
    service: str, everything: Release
) -> None:
    spec = everything.one("ScaledObject", service)["spec"]
    assert spec["maxReplicaCount"] == 6, "history asks for 24"
    assert spec["minReplicaCount"] <= spec["maxReplicaCount"]
    for trigger in spec["triggers"]:
        assert trigger["metadata"]["consumerGroup"] == service
        assert trigger["metadata"]["topic"] in {topic.name for topic in TOPICS}
        # Where a group without offsets begins is where our consumers do.
        assert trigger["metadata"]["offsetResetPolicy"] == "earliest"
        # The default of KEDA speaks a protocol that Kafka 4 has no more.
        assert tuple(map(int, trigger["metadata"]["version"].split("."))) >= (2, 1, 0)


@pytest.mark.parametrize("service", CONSUMERS)
def test_keda_signs_in_as_the_service(service: str, everything: Release, helm: Helm) -> None:
    name = everything.one("ScaledObject", service)["metadata"]["name"]
    triggers = everything.one("ScaledObject", service)["spec"]["triggers"]
    assert all(trigger["authenticationRef"] == {"name": name} for trigger in triggers)
    assert all(trigger["metadata"]["sasl"] == "scram_sha512" for trigger in triggers)
    assert all(trigger["metadata"]["tls"] == "enable" for trigger in triggers)
    spec = everything.one("TriggerAuthentication", service)["spec"]
    assert by_parameter(spec["secretTargetRef"]) == {
        "password": ("cdds-kafka", service),
        "ca": ("kafka-cluster-ca-cert", "ca.crt"),
    }
    [user] = spec["env"]
    pod = everything.pods[service]["spec"]["containers"][0]
    assert user["containerName"] == pod["name"]
    assert user["name"] in {variable["name"] for variable in pod["env"] if "value" in variable}

    external = helm.release("external").one("TriggerAuthentication", service)["spec"]
    secret = service.replace("_", "-")
    assert by_parameter(external["secretTargetRef"]) == {"cert": (secret, "user.crt"), "key": (secret, "user.key")}
    assert by_parameter(external["configMapTargetRef"]) == {"ca": ("kafka-ca", "bundle.pem")}


def test_exporters_are_scaled_by_runs_that_wait_or_go_on(everything: Release) -> None:
    """Queued ones alone would scale down as soon as all are being worked on."""
    [trigger] = everything.one("ScaledObject", "exporter")["spec"]["triggers"]
    query = trigger["metadata"]["query"]
    parse(query)
    [metric] = metrics.RUNS.describe()
    assert metric.name in query
    assert "state=" not in query
    assert 'namespace="exports"' in query
    assert trigger["metadata"]["threshold"] == "2", "as many as one replica takes at once"
    assert trigger["authenticationRef"] == {"name": "prometheus"}


def test_exporters_can_be_scaled_without_prometheus(helm: Helm) -> None:
    release = helm.release("external", "services.exporter.concurrentRuns=4")
    [trigger] = release.one("ScaledObject", "exporter")["spec"]["triggers"]
    assert trigger["type"] == "postgresql"
    assert trigger["metadata"]["targetQueryValue"] == "4"
    [reference] = release.one("TriggerAuthentication", "exporter")["spec"]["secretTargetRef"]
    assert reference == {"parameter": "connection", "name": "cdds-postgres-dashboards", "key": "dsn"}
    assert trigger["authenticationRef"]["name"] == release.one("TriggerAuthentication", "exporter")["metadata"]["name"]


def test_exporters_go_slowly(everything: Release) -> None:
    advanced = everything.one("ScaledObject", "exporter")["spec"]["advanced"]
    down = advanced["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert down == {
        "stabilizationWindowSeconds": 600,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
    }


def by_parameter(references: list[Manifest]) -> dict[str, tuple[str, str]]:
    return {each["parameter"]: (each["name"], each["key"]) for each in references}
