"""The chart, rendered by `helm` for the sets of values in `values/`."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.panels import ROOT

CHART = ROOT / "deploy" / "helm" / "cdds"
VALUES = Path(__file__).parent / "values"
SETS = sorted(path.stem for path in VALUES.glob("*.yaml"))
SERVICES = ("job_api", "scheduler", "exporter", "history", "console")
JOBS = ("topics", "migrations")
COMPONENT = "app.kubernetes.io/component"

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Helm:
    """The program, with folders of its own."""

    program: str
    home: Path

    @staticmethod
    def find() -> str | None:
        """Where `helm` is: CDDS_HELM, or on the path."""
        return os.environ.get("CDDS_HELM") or shutil.which("helm")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What `helm` says, whether it succeeds or not."""
        folders = {f"HELM_{kind}_HOME": str(self.home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(self.home), **folders}
        return subprocess.run(
            [self.program, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    def template(self, values: str | None = None, *sets: str) -> subprocess.CompletedProcess[str]:
        """The manifests of a set of values, with `path=value` changed."""
        files = ["--values", str(VALUES / f"{values}.yaml")] if values else []
        # A helm that was not built by its project thinks of an old Kubernetes.
        return self.run(
            "template", "cdds", str(CHART), "--namespace", "exports", "--kube-version", "1.33.0", *files,
            *(word for change in sets for word in ("--set", change)),
        )  # fmt: skip

    def release(self, values: str, *sets: str) -> "Release":
        """The same, read."""
        done = self.template(values, *sets)
        assert done.returncode == 0, done.stderr
        return Release([manifest for manifest in yaml.safe_load_all(done.stdout) if manifest])


@dataclass(frozen=True, slots=True)
class Release:
    """What would be in the cluster."""

    manifests: list[Manifest]

    def of(self, *kinds: str) -> Iterator[Manifest]:
        return (manifest for manifest in self.manifests if manifest["kind"] in kinds)

    def one(self, kind: str, component: str) -> Manifest:
        [found] = [manifest for manifest in self.of(kind) if component_of(manifest) == component]
        return found

    @property
    def workloads(self) -> dict[str, Manifest]:
        """Deployments and jobs by component."""
        return {component_of(manifest): manifest for manifest in self.of("Deployment", "Job")}

    @property
    def pods(self) -> dict[str, Manifest]:
        """The templates of their pods."""
        return {component: manifest["spec"]["template"] for component, manifest in self.workloads.items()}


def component_of(manifest: Manifest) -> str:
    return manifest["metadata"]["labels"].get(COMPONENT, "")


def container_of(pod: Manifest) -> Manifest:
    [container] = pod["spec"]["containers"]
    return container


def selects(selector: Mapping[str, Any], pod: Manifest) -> bool:
    """Whether a selector of labels takes a pod; the chart uses no expressions."""
    assert set(selector) <= {"matchLabels"}, selector
    labels = pod["metadata"]["labels"]
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
