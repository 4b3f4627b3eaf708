"""The file store is full or read-only: the run says so, goes on when it can, and leaves no bytes behind."""

import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.system.driver import Tenant, eventually, execute
from tests.system.faults.lab import GATED, Gate, Lab, failed, submitted
from tests.system.invariants import assert_invariants, assert_same_as_source

pytestmark = pytest.mark.apache

TWICE = {"attempts": 2, "backoff": "PT0.1S"}
PATIENT = {"attempts": 10, "backoff": "PT1S"}
PLENTY = "size=64m"


class Disk:
    """A file system of its own below a folder; only root can make one, and not everywhere."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def mounted(self, size: str) -> Iterator[None]:
        """Cover the folder with an empty disk while inside; what was written there is kept afterwards."""
        if os.geteuid() != 0:
            pytest.skip("only root can mount a file system")
        if said := self._run("mount", "-t", "tmpfs", "-o", size, "tmpfs"):
            pytest.skip(f"no file system can be mounted here: {said}")
        try:
            yield
        finally:
            with TemporaryDirectory(prefix="cdds-test-") as kept:
                shutil.copytree(self._folder, kept, dirs_exist_ok=True)
                said = self._run("umount", "--lazy")
                shutil.copytree(kept, self._folder, dirs_exist_ok=True)
            assert not said

    def becomes(self, options: str) -> None:
        """Change the mounted disk: `ro`, `rw`, another size."""
        deadline = time.monotonic() + 60
        # Not while a part is being written.
        while "busy" in (said := self._run("mount", "-o", f"remount,{options}")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not said, said

    def _run(self, *command: str) -> str:
        ended = subprocess.run([*command, self._folder], capture_output=True, text=True, check=False)
        return ended.stderr or "failed" if ended.returncode else ""


@pytest.fixture(scope="module")
async def disk(lab: Lab) -> AsyncIterator[Disk]:
    """Where the stack's objects are; in the end every invariant holds, and no object is left without a file."""
    yield Disk(lab.stack.data / "objects")
    await assert_invariants(lab.stack)


async def test_a_full_store_fails_the_run_and_one_with_room_again_lets_it_succeed(
    lab: Lab, acme: Tenant, disk: Disk
) -> None:
    with disk.mounted("size=256k"):
        execution = await failed(acme, await submitted(acme, "wide", retry=TWICE))
        assert (execution["reason"], execution["attempt"]) == ("store_full", 2)
        assert "No space left on device" in execution["message"]
        assert lab.stored(execution["run_id"]) == []

        job = await submitted(acme, "wide", retry=PATIENT)
        first = await lab.attempt_failed(await acme.run_id(job))
        assert first["reason"] == "store_full"
        disk.becomes(PLENTY)
        export = await acme.download(await acme.succeeded(job))
        assert len(export.parts) > 2
        await assert_same_as_source(export, lab.dsn, "SELECT * FROM lab.wide")


async def test_a_read_only_store_fails_the_run_and_says_so(lab: Lab, acme: Tenant, disk: Disk) -> None:
    with disk.mounted(PLENTY):
        disk.becomes("ro")
        execution = await failed(acme, await submitted(acme, "small", retry=TWICE))
        assert (execution["reason"], execution["attempt"]) == ("store_read_only", 2)
        assert "Read-only file system" in execution["message"]


async def test_a_store_that_turns_read_only_in_mid_export_keeps_nothing_of_the_attempt_it_broke(
    lab: Lab, acme: Tenant, disk: Disk
) -> None:
    with disk.mounted(PLENTY):
        async with lab.closed(Gate.MIDDLE):
            job = await submitted(acme, "gated", retry=PATIENT)
            await lab.waiting("advisory")
            run_id = await acme.run_id(job)
            await lab.parts(run_id)
            disk.becomes("ro")
        first = await lab.attempt_failed(run_id)
        assert first["reason"] == "store_read_only"
        disk.becomes("rw")
        execution = await acme.succeeded(job)
        await assert_same_as_source(await acme.download(execution), lab.dsn, GATED)
        assert {path.parent.name for path in lab.stored(run_id)} == {str(execution["attempt"])}


@pytest.mark.slow
async def test_what_a_failed_run_could_not_remove_from_a_read_only_store_is_swept_up_later(
    lab: Lab, acme: Tenant, disk: Disk
) -> None:
    with disk.mounted(PLENTY):
        async with lab.closed(Gate.MIDDLE):
            job = await submitted(acme, "gated", retry={"attempts": 1})
            await lab.waiting("advisory")
            await lab.parts(await acme.run_id(job))
            disk.becomes("ro")
        execution = await failed(acme, job)
        assert execution["reason"] == "store_read_only"
        left = lab.stored(execution["run_id"])
        assert left
        disk.becomes("rw")

        # Two hours later: the sweeper leaves young bytes to the worker that wrote them.
        past = time.time() - timedelta(hours=2).total_seconds()
        for path in left:
            os.utime(path, (past, past))
        await execute(lab.stack, "UPDATE exporter.sweeps SET due_at = now()")
        await lab.stack.restart("exporter")

        async def swept() -> bool:
            return not lab.stored(execution["run_id"])

        await eventually(swept, what="a store without orphans")
