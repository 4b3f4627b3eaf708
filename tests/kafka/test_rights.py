"""The table of rights is what the code does, and what the script permits."""

import os
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from cli.acls import as_script, permissions
from services.exporter import consumers as exporter
from services.history import consumers as history
from services.job_api import consumers as job_api
from services.scheduler import consumers as scheduler
from shared.events import TOPICS
from shared.inbox import Inbox
from shared.messaging import Producer
from shared.rights import CONSUMES, RIGHTS, Operation
from tests.cli.operate.commands import cdds
from tests.contracts.test_documents import NoStore

SCRIPT = Path(__file__).parents[2] / "deploy" / "kafka" / "acls.sh"
REGISTERS: dict[str, Callable[[Inbox, Any], None]] = {
    "job_api": job_api.register,
    "scheduler": scheduler.register,
    "exporter": exporter.register,
    "history": history.register,
}


@pytest.mark.parametrize("service", CONSUMES)
async def test_each_service_may_read_what_it_has_handlers_for(service: str) -> None:
    inbox = Inbox(service, cast("Producer", None), timedelta(seconds=1))
    REGISTERS[service](inbox, NoStore())
    assert sorted(topic.name for topic in CONSUMES[service]) == inbox.topics
    may = RIGHTS[service].topics
    live = {topic.name for topic in TOPICS}
    assert {name for name in live if Operation.READ in may.get(name, ())} == set(inbox.topics)
    assert {f"{name}.dead" for name in inbox.topics} == {name for name in may if name.endswith(".dead")}
    assert {name for name in live if Operation.WRITE in may.get(name, ())} == {
        topic.name for topic in TOPICS if topic.owner == service
    }


def test_the_committed_script_is_current() -> None:
    """After a change: `cdds topics acls --script > deploy/kafka/acls.sh`."""
    assert SCRIPT.read_text() == as_script(list(permissions({})))
    assert os.access(SCRIPT, os.X_OK)


def test_the_script_permits_what_the_table_says(tmp_path: Path) -> None:
    tool = tmp_path / "kafka-acls.sh"
    tool.write_text(f"#!/bin/sh\nprintf '%s\\t' \"$@\" >> {tmp_path}/calls\necho >> {tmp_path}/calls\n")
    tool.chmod(0o755)
    subprocess.run(
        [SCRIPT, "--bootstrap-server", "kafka:9093"],
        check=True,
        env={"PATH": os.environ["PATH"], "KAFKA_ACLS": str(tool), "SCHEDULER": "User:CN=the scheduler"},
    )
    permitted: set[tuple[str, str, str, str]] = set()
    for line in (tmp_path / "calls").read_text().splitlines():
        server, address, add, *options = line.strip("\t").split("\t")
        assert (server, address, add) == ("--bootstrap-server", "kafka:9093", "--add")
        said = list(zip(options[::2], options[1::2], strict=True))
        [who] = [value for option, value in said if option == "--allow-principal"]
        permitted |= {
            (who, option, resource, operation)
            for option, resource in said
            if option in ("--topic", "--group")
            for name, operation in said
            if name == "--operation"
        }
    names = {name: f"User:{name}" for name in RIGHTS} | {"scheduler": "User:CN=the scheduler"}
    assert permitted == {
        (names[one.name], f"--{one.kind}", one.resource, str(operation))
        for one in permissions({})
        for operation in one.operations
    }


@pytest.mark.parametrize("principal", ["scheduler", "scheduler=", "somebody=User:x", 'scheduler=User:"$(id)"'])
async def test_a_principal_that_is_none_is_refused(principal: str) -> None:
    ended = await cdds("topics", "acls", "--script", "--principal", principal)
    assert ended.code == 1
    assert "write NAME=User:WHO" in ended.error
