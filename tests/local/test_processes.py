"""Children, their supervisor, and what is left behind when a parent is killed; all with real processes."""

import asyncio
import os
import re
import shlex
import signal
import socket
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from deploy.local.processes import (
    Child,
    StartFailed,
    Supervised,
    backoff,
    free_port,
    read_pid,
    run_to_end,
    stop_stale,
    until_ready,
)

SOON = timedelta(milliseconds=1)
NEVER = timedelta(days=1)


def shell(script: str, name: str = "child", **options: object) -> Child:
    return Child(name, ["sh", "-c", script], **options)


class Lines:
    """A sink whose lines can be awaited."""

    def __init__(self) -> None:
        self._queue = asyncio.Queue[tuple[str, str]]()

    def __call__(self, name: str, line: str) -> None:
        self._queue.put_nowait((name, line))

    async def next(self) -> str:
        return (await self._queue.get())[1]

    def all(self) -> list[tuple[str, str]]:
        return [self._queue.get_nowait() for _ in range(self._queue.qsize())]


async def test_every_line_of_both_streams_reaches_the_sink_under_the_childs_name():
    lines = Lines()
    child = shell("echo one; echo two >&2; printf three", output=lines)
    await child.start()
    assert await child.wait() == 0
    assert lines.all() == [("child", "one"), ("child", "two"), ("child", "three")]


async def test_ignored_lines_are_left_out():
    child = shell("echo noise; echo news", ignored_lines=re.compile("^noise$"))
    await child.start()
    await child.wait()
    assert list(child.last_lines) == ["news"]


async def test_lines_are_appended_to_a_log_file(tmp_path: Path):
    child = shell("echo again", output=tmp_path / "logs" / "child.log")
    for _ in range(2):
        await child.start()
        await child.wait()
    assert (tmp_path / "logs" / "child.log").read_text() == "again\nagain\n"


async def test_a_line_of_several_megabytes_does_not_block_the_child():
    child = Child("child", [sys.executable, "-c", "print('x' * 5_000_000); print('after')"])
    await child.start()
    assert await child.wait() == 0
    assert child.last_lines[-1] == "after"


async def test_stop_sends_the_chosen_signal_and_waits_for_the_end():
    lines = Lines()
    child = shell(
        "trap 'echo stopping; exit 7' USR1; echo up; while :; do sleep 0.01; done",
        output=lines,
        stop_signal=signal.SIGUSR1,  # SIGINT can't be trapped where the tests run in the background of a shell
    )
    await child.start()
    assert await lines.next() == "up"
    await child.stop()
    assert await lines.next() == "stopping"
    assert await child.wait() == 7
    assert not child.is_running


async def test_a_child_that_ignores_the_signal_is_killed_with_its_group_after_the_grace():
    lines = Lines()
    # The inner process holds the output open; were it left alive, `stop` would not return.
    child = shell("trap '' TERM; cat <&0 & echo up; wait; sleep 1000", output=lines)
    await child.start()
    assert await lines.next() == "up"
    await child.stop(grace=timedelta(milliseconds=50))
    assert await child.wait() == -signal.SIGKILL


async def test_a_childs_own_children_are_killed_soon_after_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("deploy.local.processes._ORPHAN_GRACE", timedelta(milliseconds=50))
    fifo = tmp_path / "open while the orphan lives"
    os.mkfifo(fifo)
    child = shell(f"sleep 1000 3>{shlex.quote(str(fifo))} & exit 3")
    await child.start()
    assert await asyncio.to_thread(fifo.read_bytes) == b""
    assert await child.wait() == 3


async def test_stopping_what_never_started_or_has_ended_is_nothing():
    child = shell("exit 0")
    await child.stop()
    await child.start()
    await child.wait()
    await child.stop()
    with pytest.raises(RuntimeError, match="was not started"):
        await shell("exit 0").wait()


async def test_a_killed_child_can_be_started_again_at_once():
    child = shell("cat")
    await child.start()
    first = child.pid
    child.kill()
    await child.start()
    assert child.is_running
    assert child.pid != first
    await child.stop()


async def test_a_child_leads_its_own_session_so_that_ctrl_c_passes_it_by():
    child = shell("cat")
    await child.start()
    assert child.pid
    assert os.getsid(child.pid) == child.pid
    await child.stop()


async def test_a_child_that_reads_its_input_does_not_survive_the_kill_of_its_parent(tmp_path: Path):
    fifo = tmp_path / "open while the grandchild lives"
    os.mkfifo(fifo)
    grandchild = f"exec 3>{shlex.quote(str(fifo))}; echo up >&3; cat"
    parent_script = f"""
import asyncio
from deploy.local.processes import Child

async def main():
    await Child("grandchild", ["sh", "-c", {grandchild!r}]).start()
    await asyncio.Event().wait()

asyncio.run(main())
"""
    parent = Child("parent", [sys.executable, "-c", parent_script])
    await parent.start()
    with await asyncio.to_thread(fifo.open) as writer_lives:
        assert await asyncio.to_thread(writer_lives.readline) == "up\n"
        parent.kill()
        assert await asyncio.to_thread(writer_lives.read) == ""
    await parent.wait()


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(1, 0.5), (2, 1), (3, 2), (4, 4), (5, 8), (6, 10), (1000, 10)],
)
def test_the_wait_before_a_restart_doubles_from_half_a_second_to_ten(failures: int, seconds: float):
    assert backoff(failures) == timedelta(seconds=seconds)


async def test_a_crashing_child_is_started_again_after_growing_waits_and_each_time_is_reported():
    reports = Lines()
    supervised = Supervised(
        shell("exit 3", name="scheduler"),
        report=reports,
        wait_before_restart=lambda failures: SOON * failures,
    )
    async with supervised:
        assert [await reports.next() for _ in range(4)] == [
            "exited with 3, starting again in 0.001 s",
            "started again after 1 failure",
            "exited with 3, starting again in 0.002 s",
            "started again after 2 failures",
        ]


async def test_a_good_run_is_followed_by_the_shortest_wait():
    reports = Lines()
    supervised = Supervised(
        shell("exit 3"),
        report=reports,
        wait_before_restart=lambda failures: SOON * failures,
        good_run=timedelta(),
    )
    async with supervised:
        seen = [await reports.next() for _ in range(4)]
    assert seen[0] == seen[2] == "exited with 3, starting again in 0.001 s"


async def test_a_start_that_fails_is_tried_again():
    class ThirdTimeLucky:
        name = "broker"
        starts = 0
        running = asyncio.Event()

        async def start(self) -> None:
            self.starts += 1
            if self.starts in (2, 3):
                raise StartFailed(self.name, "found its port taken")

        async def wait(self) -> int:
            if self.starts == 1:
                return 1
            await self.running.wait()
            return 0

        async def stop(self, grace: timedelta = SOON) -> None:
            self.running.set()

    reports = Lines()
    async with Supervised(ThirdTimeLucky(), report=reports, wait_before_restart=lambda _: SOON):
        assert [await reports.next() for _ in range(4)] == [
            "exited with 1, starting again in 0.001 s",
            "did not start (broker found its port taken), starting again in 0.001 s",
            "did not start (broker found its port taken), starting again in 0.001 s",
            "started again after 3 failures",
        ]


async def test_a_supervised_child_is_not_started_again_after_stop():
    reports = Lines()
    child = shell("exit 3")
    supervised = Supervised(child, report=reports, wait_before_restart=lambda _: NEVER)
    await supervised.start()
    assert await reports.next() == "exited with 3, starting again in 86400 s"
    await supervised.stop()
    assert not child.is_running


async def test_the_first_start_of_a_supervised_child_may_fail_loudly():
    with pytest.raises(FileNotFoundError):
        await Supervised(Child("child", ["/no/such/program"]), report=Lines()).start()


async def test_a_child_that_ends_before_it_is_ready_is_an_error_with_its_last_lines():
    async def never() -> bool:
        return False

    child = shell("echo the reason; exit 4")
    await child.start()
    with pytest.raises(StartFailed, match="child ended with 4 while starting\n  the reason"):
        await until_ready(child, never, NEVER)


async def test_a_child_that_is_never_ready_is_ended():
    async def never() -> bool:
        return False

    child = shell("cat")
    await child.start()
    with pytest.raises(StartFailed, match=r"child was not ready after 0\.01 s"):
        await until_ready(child, never, timedelta(milliseconds=10))
    assert not child.is_running


async def test_a_command_that_fails_or_hangs_is_an_error():
    await run_to_end(shell("exit 0"), NEVER)
    with pytest.raises(StartFailed, match="child failed with 5\n  why"):
        await run_to_end(shell("echo why; exit 5"), NEVER)
    with pytest.raises(StartFailed, match=r"child took longer than 0\.01 s"):
        await run_to_end(shell("cat"), timedelta(milliseconds=10))


async def test_a_forgotten_process_is_found_by_its_folder_and_stopped_even_if_it_ignores_signals(tmp_path: Path):
    lines = Lines()
    stale = Child("stale", ["sh", "-c", "trap '' TERM; echo up; cat", "sh", tmp_path], output=lines)
    await stale.start()
    assert stale.pid
    assert await lines.next() == "up"
    await stop_stale(stale.pid, tmp_path, signal.SIGTERM, grace=timedelta(milliseconds=50))
    assert await stale.wait() == -signal.SIGKILL


async def test_a_process_id_that_now_belongs_to_somebody_else_is_left_alone(tmp_path: Path):
    # Its folder's name only begins like ours.
    stranger = Child("stranger", ["sh", "-c", "cat", "sh", f"{tmp_path}-2"])
    await stranger.start()
    assert stranger.pid
    await stop_stale(stranger.pid, tmp_path, signal.SIGKILL)
    assert stranger.is_running
    await stranger.stop()
    assert await stranger.wait() == -signal.SIGTERM


@pytest.mark.parametrize(("content", "pid"), [("17\n/data\n", 17), ("", None), ("half written", None), (None, None)])
def test_a_pid_file_that_says_nothing_is_like_none(tmp_path: Path, content: str | None, pid: int | None):
    if content is not None:
        (tmp_path / "pid").write_text(content)
    assert read_pid(tmp_path / "pid") == pid


def test_a_free_port_is_for_a_server():
    with socket.create_server(("127.0.0.1", free_port())):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a port is free, and no more is promised")
def test_a_free_port_is_given_to_one_caller_only():
    with socket.socket() as probe_of_another, pytest.raises(OSError, match="in use"):
        probe_of_another.bind(("127.0.0.1", free_port()))


def test_ports_that_were_given_are_not_open_files_for_ever():
    def opened() -> int:
        return len(os.listdir("/dev/fd"))

    before = opened()
    for _ in range(300):
        free_port()
    assert opened() - before <= 64
