"""Who may talk to whom, read off the network policies as a cluster would."""

import pytest

from tests.deploy.helm.chart import JOBS, SERVICES, Helm, Manifest, Release, component_of, selects

MONITORING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
TO_CONSOLE = {"job_api", "exporter", "history"}


def test_nothing_is_let_in_or_out_by_default(everything: Release) -> None:
    [default] = [policy for policy in everything.of("NetworkPolicy") if not component_of(policy)]
    assert set(default["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert not {"ingress", "egress"} & set(default["spec"])
    assert all(selects(default["spec"]["podSelector"], pod) for pod in everything.pods.values())


def test_each_pod_has_one_policy_beside_that(everything: Release) -> None:
    for component in (*SERVICES, *JOBS):
        policy = everything.one("NetworkPolicy", component)
        assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        assert [name for name, pod in everything.pods.items() if selects(policy["spec"]["podSelector"], pod)] == [
            component
        ]


@pytest.mark.parametrize("sender", [*SERVICES, *JOBS])
def test_only_the_console_reaches_services(sender: str, everything: Release) -> None:
    reached = {receiver for receiver in (*SERVICES, *JOBS) if may_talk(everything, sender, receiver)}
    assert reached == (TO_CONSOLE if sender == "console" else set())


def test_services_let_nobody_of_the_release_in_but_the_console(everything: Release) -> None:
    for component in (*SERVICES, *JOBS):
        peers = [peer for rule in incoming(everything, component) for peer in rule["from"]]
        let_in = {name for name, pod in everything.pods.items() if among(peers, pod)}
        assert let_in == ({"console"} if component in TO_CONSOLE else set()), component


def test_prometheus_reaches_every_service_and_nothing_reaches_jobs(everything: Release) -> None:
    for component in SERVICES:
        assert MONITORING in [peer for rule in incoming(everything, component) for peer in rule["from"]]
    assert not any(incoming(everything, component) for component in JOBS)


def test_the_console_is_reached_by_those_who_are_named(everything: Release, helm: Helm) -> None:
    ingress = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}
    assert incoming(everything, "console")[0]["from"] == [ingress]
    assert "from" not in incoming(helm.release("required"), "console")[0], "by all, unless somebody is named"


@pytest.mark.parametrize(
    ("component", "destinations"),
    [
        ("job_api", {53, 9093, 5432, 443}),
        ("scheduler", {53, 9093, 5432, 443}),
        ("exporter", {53, 9093, 5432, 443, 80}),
        ("history", {53, 9093, 5432, 443}),
        ("console", {53, 443, 8000}),
        ("migrations", {53, 5432}),
        ("topics", {53, 9093}),
    ],
)
def test_pods_go_where_they_have_to(component: str, destinations: set[int], everything: Release) -> None:
    ports = {port["port"] for rule in outgoing(everything, component) for port in rule["ports"]}
    telemetry = {4317, 4318} if component in SERVICES else set()
    assert ports == destinations | telemetry


def test_destinations_are_those_that_are_named(everything: Release) -> None:
    def peers(component: str, port: int) -> list[Manifest]:
        rules = [rule for rule in outgoing(everything, component) if port in {each["port"] for each in rule["ports"]}]
        return [peer for rule in rules for peer in rule.get("to", [])]

    postgres, sources = ({"ipBlock": {"cidr": f"10.0.{part}.0/24"}} for part in (5, 6))
    assert peers("job_api", 5432) == peers("migrations", 5432) == [postgres]
    assert peers("exporter", 5432) == [postgres, sources]
    assert peers("topics", 9093) == [{"podSelector": {"matchLabels": {"strimzi.io/cluster": "kafka"}}}]
    assert peers("exporter", 80) == [{"ipBlock": {"cidr": "169.254.170.23/32"}}]


def test_policies_can_be_left_to_others(helm: Helm) -> None:
    assert not list(helm.release("minimal").of("NetworkPolicy"))


def incoming(release: Release, component: str) -> list[Manifest]:
    return release.one("NetworkPolicy", component)["spec"].get("ingress") or []


def outgoing(release: Release, component: str) -> list[Manifest]:
    return release.one("NetworkPolicy", component)["spec"].get("egress") or []


def may_talk(release: Release, sender: str, receiver: str) -> bool:
    """Whether both sides let a connection between two pods of the release through."""
    out = any(among(rule.get("to", []), release.pods[receiver]) for rule in outgoing(release, sender))
    into = any(among(rule.get("from", []), release.pods[sender]) for rule in incoming(release, receiver))
    return out and into


def among(peers: list[Manifest], pod: Manifest) -> bool:
    """Whether one of the peers is this pod; a namespace is another one, and a rule without peers is for outsiders."""
    return any(set(peer) == {"podSelector"} and selects(peer["podSelector"], pod) for peer in peers)
