"""The examples of docs/command-line.md, each of them run, in their order."""

import re
import shlex
from pathlib import Path

import pytest

from tests.cli.exports import cdds
from tests.cli.tenants import Tenant, json_of

GUIDE = Path(__file__).parents[2] / "docs" / "command-line.md"
BLOCK = re.compile(r"```(sh|yaml)\n(.*?)```", re.DOTALL)
SOME_RUN = "1f2e3d4c"


def run(line: str) -> None:
    """A command as a shell would read it; `> FILE` is all that is needed of one."""
    words = shlex.split(line)
    target = None
    if words[-2] == ">":
        *words, _, target = words
    if SOME_RUN in words:
        newest = json_of("runs", "list", "--limit", "1")[0]["run_id"]
        words = [newest[:8] if word == SOME_RUN else word for word in words]
    told = cdds(*words[1:])
    assert told.code == 0, f"{line}\n{told.err}"
    if target is not None:
        Path(target).write_text(told.out)


def test_every_example_works(tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipient.pem").write_bytes(tenant.recipient.pem)
    lines: list[str] = []

    for language, text in BLOCK.findall(GUIDE.read_text()):
        if language == "yaml":
            name, content = text.split("\n", 1)
            Path(name.removeprefix("# ")).write_text(content)
            continue
        for line in text.splitlines():
            lines.append(line)
            run(line)

    assert len(lines) > 25
    assert {one["settings"]["key"] for one in json_of("jobs", "list")} == {"nightly-contacts", "weekly-interactions"}
    assert json_of("jobs", "show", "nightly-contacts")["settings"]["schedule"]["at"] == "04:00"
    assert any((tmp_path / "received").glob("*.manifest.json"))
