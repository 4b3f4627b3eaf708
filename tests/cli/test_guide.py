"""The commands of the guide for recipients, word for word."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.exports import ANNA, Installation, Run, make_run, write_key

GUIDE = Path(__file__).parents[2] / "docs" / "recipients.md"
TOOLS = ("bash", "openssl", "unzip", "jq", "sha256sum", "base64")

pytestmark = pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs the programs {', '.join(TOOLS)}")


def follow(run: Run) -> subprocess.CompletedProcess[str]:
    write_key(run.folder, ANNA[0])
    (script,) = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=run.folder, env={"RUN": str(run.id), "PATH": "/usr/local/bin:/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("encryption", ["gcm", "smime", "none"])
@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_stock_tools_verify_and_decrypt(installation: Installation, encryption: str, format: str) -> None:
    run = make_run(installation, encryption=encryption, format=format, tenant="Zürich")

    ended = follow(run)

    assert ended.returncode == 0, ended.stderr
    assert "Signature Verified Successfully" in ended.stdout
    assert {name: (run.folder / name).read_bytes() for name in run.plain} == run.plain


def test_stock_tools_refuse_what_was_changed(installation: Installation) -> None:
    run = make_run(installation)
    run.manifest_path.write_bytes(run.manifest_path.read_bytes().replace(b'"rows":300', b'"rows":301'))

    assert follow(run).returncode != 0
