"""What the chart makes is what Kubernetes takes, and what a cautious cluster lets in."""

from copy import deepcopy
from datetime import timedelta
from typing import Any

import jsonschema_rs
import pytest
import yaml
from pydantic import TypeAdapter

from tests.deploy.helm.chart import (
    CHART,
    COMPONENT,
    JOBS,
    SERVICES,
    SETS,
    VALUES,
    Helm,
    Manifest,
    Release,
    component_of,
    container_of,
    selects,
)
from tests.deploy.helm.resources import validate
from tests.deploy.panels import DASHBOARDS, ROOT


@pytest.mark.parametrize("values", SETS)
def test_helm_finds_nothing_to_remark(helm: Helm, values: str) -> None:
    done = helm.run("lint", "--strict", str(CHART), "--values", str(VALUES / f"{values}.yaml"))
    assert done.returncode == 0, done.stdout


def test_manifests_are_those_of_kubernetes(release: Release) -> None:
    for manifest in release.manifests:
        validate(manifest)


def test_a_field_that_nobody_knows_is_found(everything: Release) -> None:
    """Or the test above would say nothing."""
    for manifest in everything.manifests:
        unknown = {**manifest, "unknown": 1}
        with pytest.raises(jsonschema_rs.ValidationError, match="unknown"):
            validate(unknown)
    deployment = deepcopy(everything.one("Deployment", "console"))
    container_of(deployment["spec"]["template"])["readinesProbe"] = {}
    with pytest.raises(jsonschema_rs.ValidationError, match="readinesProbe"):
        validate(deployment)


def test_names_are_unique(release: Release) -> None:
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in release.manifests]
    assert len(names) == len(set(names))


def test_every_service_has_what_belongs_to_it(release: Release) -> None:
    assert {component_of(manifest) for manifest in release.of("Deployment")} == set(SERVICES)
    for kind in ("Service", "ServiceAccount", "PodDisruptionBudget"):
        assert {component_of(manifest) for manifest in release.of(kind)} == set(SERVICES)


def test_pods_are_locked_up(release: Release) -> None:
    for component, pod in release.pods.items():
        spec, container = pod["spec"], container_of(pod)
        assert spec["automountServiceAccountToken"] is False, component
        security = spec["securityContext"]
        assert (security["runAsNonRoot"], security["runAsUser"]) == (True, 10001)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        own = container["securityContext"]
        assert own["readOnlyRootFilesystem"] is True
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(spec)
        assert not any("hostPath" in volume for volume in spec["volumes"])


def test_every_container_is_bounded(release: Release) -> None:
    for component, pod in release.pods.items():
        resources = container_of(pod)["resources"]
        assert set(resources["limits"]) == {"cpu", "memory"}, component
        assert set(resources["requests"]) == {"cpu", "memory"}, component
        assert all("sizeLimit" in volume["emptyDir"] for volume in pod["spec"]["volumes"] if "emptyDir" in volume)


def test_services_are_probed_and_jobs_end(release: Release) -> None:
    for component, workload in release.workloads.items():
        container = container_of(workload["spec"]["template"])
        if component in JOBS:
            assert workload["spec"]["activeDeadlineSeconds"] > 0
            continue
        paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
        assert paths == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}
        startup = container["startupProbe"]
        # A service waits a minute for what it needs, says what is missing, and ends; a probe must not be faster.
        assert startup["periodSeconds"] * startup["failureThreshold"] > 60
        [port] = container["ports"]
        assert all(container[f"{name}Probe"]["httpGet"]["port"] == port["name"] for name in paths)
        assert setting(container, f"CDDS_{component.upper()}_HTTP_PORT") == str(port["containerPort"])


def test_a_pod_has_time_to_stop_in_order(release: Release) -> None:
    for component in SERVICES:
        spec = release.pods[component]["spec"]
        container = container_of(release.pods[component])
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        grace = setting(container, "CDDS_EXPORTER_GRACE") if component == "exporter" else "PT0S"
        needed = TypeAdapter(timedelta).validate_python(grace) + timedelta(seconds=sleep)
        assert timedelta(seconds=spec["terminationGracePeriodSeconds"]) >= needed + timedelta(seconds=30)


def test_selectors_take_the_pods_they_are_for(release: Release) -> None:
    for manifest in release.of("Deployment", "PodDisruptionBudget"):
        assert taken(release, manifest["spec"]["selector"]) == {component_of(manifest)}
    for manifest in release.of("Service"):
        assert taken(release, {"matchLabels": manifest["spec"]["selector"]}) == {component_of(manifest)}
    for component in SERVICES:
        for constraint in release.pods[component]["spec"]["topologySpreadConstraints"]:
            assert taken(release, constraint["labelSelector"]) == {component}
            assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"


def test_selectors_of_an_upgrade_stay(helm: Helm) -> None:
    """Kubernetes refuses to change what a Deployment selects by."""
    before = helm.release("required")
    after = helm.release("required", "image.tag=0.2.0", "pods.labels.team=exports")
    for component in SERVICES:
        selectors = [each.one("Deployment", component)["spec"]["selector"] for each in (before, after)]
        assert selectors[0] == selectors[1]
        assert "version" not in str(selectors[0])


def test_jobs_run_before_all_else_and_need_nothing_of_the_release(release: Release) -> None:
    """Hooks come before a first install has made anything; topics and schema are there when services start."""
    made = {manifest["metadata"]["name"] for manifest in release.of("ConfigMap", "ServiceAccount", "Secret")}
    for job in release.of("Job"):
        assert "serviceAccountName" not in job["spec"]["template"]["spec"]
        assert made.isdisjoint(names_in(job["spec"]["template"]["spec"]))
    weights = {
        (manifest["kind"], component_of(manifest)): int(manifest["metadata"]["annotations"]["helm.sh/hook-weight"])
        for manifest in release.manifests
        if "helm.sh/hook" in manifest["metadata"].get("annotations", {})
    }
    assert {kind for kind, _ in weights} <= {"Job", "NetworkPolicy"}
    for (kind, component), weight in weights.items():
        if kind == "Job":
            assert weights.get(("NetworkPolicy", component), -1) < weight
    if ("Job", "migrations") in weights:
        assert weights["Job", "topics"] < weights["Job", "migrations"]


def test_hooks_are_of_installs_and_upgrades_and_not_of_rollbacks(everything: Release) -> None:
    """What an older version knows of the schema must not be applied to a newer one."""
    for component in JOBS:
        annotations = everything.workloads[component]["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    assert container_of(everything.pods["migrations"])["args"] == ["cdds", "migrate"]
    assert container_of(everything.pods["topics"])["args"] == ["cdds", "topics", "ensure", "--repair"]


def test_the_image_is_pinned_by_tag_or_digest(helm: Helm, everything: Release) -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    images = {container_of(pod)["image"] for pod in helm.release("required").pods.values()}
    assert images == {f"cdds:{version}"}
    [image] = {container_of(pod)["image"] for pod in everything.pods.values()}
    assert image.startswith("registry.example.com/cdds@sha256:")


def test_a_changed_file_of_sources_starts_services_anew(helm: Helm) -> None:
    def sums(*changes: str) -> dict[str, str]:
        pods = helm.release("everything", *changes).pods
        return {name: pods[name]["metadata"]["annotations"].get("checksum/sources", "") for name in SERVICES}

    before, after = sums(), sums("sources.file=[sources]")
    assert {name for name in SERVICES if before[name] != after[name]} == {"job_api", "scheduler", "exporter", "history"}


def test_alerts_and_dashboards_are_those_of_deploy(everything: Release) -> None:
    [rule] = everything.of("PrometheusRule")
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text())
    [dashboards] = [each for each in everything.of("ConfigMap") if each["metadata"]["name"].endswith("dashboards")]
    assert dashboards["data"] == {path.name: path.read_text() for path in DASHBOARDS}


def test_prometheus_finds_services_by_the_names_that_alerts_go_by(everything: Release) -> None:
    [monitor] = everything.of("ServiceMonitor")
    found = [service for service in everything.of("Service") if selects(monitor["spec"]["selector"], service)]
    assert {component_of(service) for service in found} == set(SERVICES)
    [endpoint] = monitor["spec"]["endpoints"]
    relabelled = {rule["targetLabel"]: rule for rule in endpoint["relabelings"]}
    assert relabelled["job"]["replacement"] == "cdds"
    label = "__meta_kubernetes_service_label_" + COMPONENT.translate(str.maketrans("./", "__"))
    assert relabelled["service"]["sourceLabels"] == [label]
    assert all(endpoint["port"] in {port["name"] for port in service["spec"]["ports"]} for service in found)


def test_routes_lead_to_the_console(everything: Release) -> None:
    service = everything.one("Service", "console")
    [ingress] = everything.of("Ingress")
    [rule] = ingress["spec"]["rules"]
    assert rule["host"] == "cdds.example.com"
    assert rule["http"]["paths"][0]["backend"]["service"]["name"] == service["metadata"]["name"]
    [route] = everything.of("HTTPRoute")
    assert route["spec"]["hostnames"] == ["cdds.example.com"]
    [backend] = route["spec"]["rules"][0]["backendRefs"]
    assert (backend["name"], backend["port"]) == (service["metadata"]["name"], service["spec"]["ports"][0]["port"])


def test_a_packaged_chart_has_what_it_links_to(helm: Helm, tmp_path: Any) -> None:
    done = helm.run("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    [package] = tmp_path.iterdir()
    done = helm.run(
        "template", "cdds", str(package), "--kube-version", "1.33.0", "--values", str(VALUES / "everything.yaml"),
        "--show-only", "templates/monitoring.yaml",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "CddsQueueStuck" in done.stdout
    assert DASHBOARDS[0].name in done.stdout


def setting(container: Manifest, name: str) -> str:
    [value] = [each["value"] for each in container["env"] if each["name"] == name]
    return value


def taken(release: Release, selector: Manifest) -> set[str]:
    return {component for component, pod in release.pods.items() if selects(selector, pod)}


def names_in(spec: Any) -> set[str]:
    """Every name of a ConfigMap or Secret below."""
    if isinstance(spec, list):
        return {name for item in spec for name in names_in(item)}
    if not isinstance(spec, dict):
        return set()
    own = {spec[kind]["name"] for kind in ("configMap", "secretKeyRef", "configMapKeyRef") if kind in spec}
    own |= {spec["secret"].get("secretName") or spec["secret"]["name"]} if "secret" in spec else set()
    return own | {name for value in spec.values() for name in names_in(value)}
