"""What docs/operate/kubernetes.md says is what the chart does: its values, its Secrets, its commands."""

import re
from typing import Any

import pytest
import yaml

from tests.deploy.helm.chart import CHART, JOBS, VALUES, Helm, Release, container_of
from tests.deploy.panels import ROOT

DOCUMENT = (ROOT / "docs" / "operate" / "kubernetes.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
TABLES = [
    {(secret, key) for secret, keys in rows for key in re.findall(r"`([\w-]+)`", keys)}
    for rows in (
        re.findall(r"^\| `(cdds-[\w-]+)` \| ([^|]+) \|", table, re.MULTILINE)
        for table in re.findall(r"^\| Secret \|.*?\n\n", DOCUMENT, re.DOTALL | re.MULTILINE)
    )
]
COMMANDS = re.findall(r"^(kubectl|helm) (.*)$", DOCUMENT, re.MULTILINE)


@pytest.mark.parametrize("example", range(len(EXAMPLES)))
def test_examples_of_values_are_taken(example: int, helm: Helm, tmp_path: Any) -> None:
    given = tmp_path / "values.yaml"
    given.write_text(EXAMPLES[example])
    # The first one is whole, the other one a part.
    files = ["--values", str(VALUES / "required.yaml")] if example else []
    done = helm.run("template", "cdds", str(CHART), "--kube-version", "1.33.0", *files, "--values", str(given))
    assert done.returncode == 0, done.stderr


def test_secrets_that_are_listed_are_those_that_are_referred_to(helm: Helm) -> None:
    needed, asked_for = TABLES
    assert references(helm.release("required", "services.console.clientId=cdds")) == needed
    more = references(helm.release("everything", "autoscaling.queue.from=postgresql")) - needed
    # The key of a source is called as you like, and the authority of Kafka is public.
    assert more - {("cdds-sources", "ucs"), ("kafka-cluster-ca-cert", "ca.crt")} == asked_for


def test_secrets_are_made_with_the_keys_that_are_listed() -> None:
    made = {
        (secret, key)
        for program, command in COMMANDS
        for secret, files in re.findall(r"create secret generic ([\w-]+) (.*)", command)
        for key in re.findall(r"--from-file=([\w-]+)", files)
        if program == "kubectl"
    }
    assert made == TABLES[0]


def test_commands_name_what_is_there(helm: Helm) -> None:
    release = helm.release("required")
    there = {f"{manifest['kind'].lower()}/{manifest['metadata']['name']}" for manifest in release.manifests}
    named = {name for _, command in COMMANDS for name in re.findall(r"\b(?:job|deployment)/[\w-]+", command)}
    assert {f"job/cdds-{job}" for job in JOBS} <= named <= there
    for program, command in COMMANDS:
        if program == "helm":
            verb = command.split()[:2] if command.startswith("get") else command.split()[:1]
            flags = set(re.findall(r" (--[\w-]+)", command.partition("|")[0]))
            assert flags <= set(re.findall(r"--[\w-]+", helm.run(*verb, "--help").stdout)), command


def references(release: Release) -> set[tuple[str, str]]:
    """All keys of Secrets that pods and KEDA refer to."""
    found: set[tuple[str, str]] = set()
    for pod in release.pods.values():
        for variable in container_of(pod)["env"]:
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                found.add((reference["name"], reference["key"]))
        for volume in pod["spec"]["volumes"]:
            if secret := volume.get("secret"):
                found |= {(secret["secretName"], item["key"]) for item in secret["items"]}
    for authentication in release.of("TriggerAuthentication"):
        found |= {(each["name"], each["key"]) for each in authentication["spec"].get("secretTargetRef", [])}
    return found


def test_the_examples_are_yaml() -> None:
    assert len(EXAMPLES) == 2
    assert len(TABLES) == 2
    assert all(isinstance(yaml.safe_load(example), dict) for example in EXAMPLES)
