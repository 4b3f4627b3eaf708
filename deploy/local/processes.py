"""Child processes of the local stack: started, watched, restarted, and never left behind."""

import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Protocol, Self

Sink = Callable[[str, str], None]
"""Receives (name of the child, one line of its output); must not raise."""

Output = Sink | Path | None
"""Where a child's lines go: to a sink, appended to a file, or nowhere."""

# What a child's own children get to end after it, before they are killed.
_ORPHAN_GRACE = timedelta(seconds=5)

# Sockets on given ports: those of a few stacks, far from the limit of open files.
_KEPT_PORTS = 64
_kept: deque[int] = deque()


class StartFailed(Exception):
    """The process ended, or stayed silent, before it was ready; its last lines are in the message."""

    def __init__(self, name: str, reason: str, lines: Sequence[str] = ()) -> None:
        super().__init__("\n  ".join([f"{name} {reason}", *lines]))
        self.lines = list(lines)


class Child:
    """One subprocess at a time, which can be started again after it ended.

    The child holds the read end of a pipe on its standard input and nothing is ever written to it: a service that
    ends at EOF there cannot survive its parent, however the parent ended. It leads its own session, so that Ctrl-C
    in a terminal reaches only the parent.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        output: Output = None,
        ignored_lines: re.Pattern[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.last_lines: deque[str] = deque(maxlen=20)
        self._command = [str(part) for part in command]
        self._output = output
        self._ignored_lines = ignored_lines
        self._env = env
        self._cwd = cwd
        self._stop_signal = stop_signal
        self._transport: asyncio.SubprocessTransport | None = None
        self._ended: asyncio.Task[int] | None = None
        self._killed = False

    @property
    def pid(self) -> int | None:
        """Of the current process, or of the last one after it ended; None before the first start."""
        return self._transport.get_pid() if self._transport else None

    @property
    def is_running(self) -> bool:
        """False from the moment of `kill`, although the process may need a moment to end."""
        return self._transport is not None and self._transport.get_returncode() is None and not self._killed

    async def start(self) -> None:
        """Start the process and return as soon as it exists; a running one is left alone.

        After an earlier process, waits until everything that inherited its output has ended too.
        """
        if self.is_running:
            return
        if self._ended:
            await self.wait()
        self.last_lines.clear()
        self._killed = False
        self._transport, reader = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Reader(self._deliver),
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._env,
            cwd=self._cwd,
            start_new_session=True,
        )
        self._ended = asyncio.create_task(self._follow(self._transport, reader), name=f"end of {self.name}")

    async def wait(self) -> int:
        """Wait until the process has ended and its output was delivered; the exit code, negative for a signal."""
        if self._ended is None:
            raise RuntimeError(f"{self.name} was not started")
        return await asyncio.shield(self._ended)

    async def stop(self, grace: timedelta = timedelta(seconds=10)) -> None:
        """Ask the process to end, and kill it with its whole group when it has not after `grace`."""
        if self._transport is None:
            return
        self._signal(self._stop_signal)
        try:
            async with asyncio.timeout(grace.total_seconds()):
                await self.wait()
        except TimeoutError:
            _kill_group(self._transport.get_pid())
            await self.wait()

    def kill(self) -> None:
        """End this one process at once, as the kernel would when memory runs out."""
        self._killed = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._transport:
            with contextlib.suppress(ProcessLookupError):
                self._transport.send_signal(number)

    async def _follow(self, transport: asyncio.SubprocessTransport, reader: "_Reader") -> int:
        await reader.exited.wait()
        # Its own children may hold both pipes. They get the end of their input, a moment, and then no mercy: a child
        # that counts as running because of them would never be started again.
        if stdin := transport.get_pipe_transport(0):
            stdin.close()
        for last_resort in (lambda: _kill_group(transport.get_pid()), transport.close):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ORPHAN_GRACE.total_seconds()):
                    await reader.closed.wait()
                    break
            last_resort()
        transport.close()
        code = transport.get_returncode()
        assert code is not None
        return code

    def _deliver(self, line: str) -> None:
        if self._ignored_lines and self._ignored_lines.search(line):
            return
        self.last_lines.append(line)
        if isinstance(self._output, Path):
            self._output.parent.mkdir(parents=True, exist_ok=True)
            with self._output.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        elif self._output:
            self._output(self.name, line)


class _Reader(asyncio.SubprocessProtocol):
    """Cuts what a process writes into lines. Streams would do, but their `wait` also waits for the pipes (3.12)."""

    def __init__(self, deliver: Callable[[str], None]) -> None:
        self.exited = asyncio.Event()
        self.closed = asyncio.Event()
        self._deliver = deliver
        self._rest = b""

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._deliver(line.decode(errors="replace").rstrip("\r"))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            if self._rest:
                self._deliver(self._rest.decode(errors="replace"))
            self.closed.set()

    def process_exited(self) -> None:
        self.exited.set()


class Restartable(Protocol):
    """What a supervisor needs: a `Child`, or a server of the local stack."""

    @property
    def name(self) -> str: ...
    async def start(self) -> None: ...
    async def wait(self) -> int: ...
    async def stop(self, grace: timedelta = ...) -> None: ...


def backoff(failures: int) -> timedelta:
    """The wait before the next start, after so many failures in a row.

    >>> [backoff(n).total_seconds() for n in (1, 2, 3, 5, 6, 100)]
    [0.5, 1.0, 2.0, 8.0, 10.0, 10.0]
    """
    return min(timedelta(seconds=0.5) * 2 ** min(failures - 1, 10), timedelta(seconds=10))


class Supervised:
    """Keeps one child running: whenever it ends unasked, it is started again after a growing wait.

    Every exit, failed start and restart is one line for `report`. A child that ran well for a minute starts again
    at the shortest wait.
    """

    def __init__(
        self,
        child: Restartable,
        *,
        report: Sink,
        wait_before_restart: Callable[[int], timedelta] = backoff,
        good_run: timedelta = timedelta(minutes=1),
    ) -> None:
        self._child = child
        self._report = report
        self._wait_before_restart = wait_before_restart
        self._good_run = good_run
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the child and keep it running from here on; a first start that fails is raised."""
        await self._child.start()
        self._keeper = asyncio.create_task(self._keep_running(), name=f"supervisor of {self._child.name}")

    async def stop(self, grace: timedelta = timedelta(seconds=10)) -> None:
        if self._keeper:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            self._keeper = None
        await self._child.stop(grace)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _keep_running(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            started = loop.time()
            outcome = f"exited with {await self._child.wait()}"
            if loop.time() - started >= self._good_run.total_seconds():
                failures = 0
            while outcome:
                failures += 1
                pause = self._wait_before_restart(failures)
                self._report(self._child.name, f"{outcome}, starting again in {pause.total_seconds():g} s")
                await asyncio.sleep(pause.total_seconds())
                outcome = await self._try_to_start()
            self._report(self._child.name, f"started again after {failures} failure{'s' if failures > 1 else ''}")

    async def _try_to_start(self) -> str:
        try:
            await self._child.start()
        except (StartFailed, OSError) as error:
            return f"did not start ({error})"
        return ""


async def until_ready(child: Child, answers: Callable[[], Awaitable[bool]], within: timedelta) -> None:
    """Ask `answers` every 20 ms until it says yes.

    Raises StartFailed when the child ends first, or when time is up; then the child is ended.
    """
    ended = asyncio.ensure_future(child.wait())
    try:
        async with asyncio.timeout(within.total_seconds()):
            while not await answers():
                await asyncio.wait({ended}, timeout=0.02)
                if ended.done():
                    raise StartFailed(child.name, f"ended with {ended.result()} while starting", child.last_lines)
    except BaseException as error:
        await child.stop(timedelta())
        if isinstance(error, TimeoutError):
            reason = f"was not ready after {within.total_seconds():g} s"
            raise StartFailed(child.name, reason, child.last_lines) from None
        raise
    finally:
        ended.cancel()


async def run_to_end(child: Child, within: timedelta) -> None:
    """Run a command that ends by itself; raises StartFailed with its last lines when it fails or takes too long."""
    await child.start()
    try:
        async with asyncio.timeout(within.total_seconds()):
            code = await child.wait()
    except TimeoutError:
        raise StartFailed(child.name, f"took longer than {within.total_seconds():g} s", child.last_lines) from None
    finally:
        await child.stop(timedelta())
    if code:
        raise StartFailed(child.name, f"failed with {code}", child.last_lines)


async def uses_folder(pid: int, folder: Path) -> bool:
    """Whether this process runs and names `folder`, or a file in it, in its command line.

    A process id alone proves nothing after a crash: the system may have given it to somebody else.
    """
    command = _proc_command_line(pid) if sys.platform == "linux" else await _ps_command_line(pid)
    return f"{folder} " in command or f"{folder}/" in command


async def stop_stale(pid: int, folder: Path, number: signal.Signals, grace: timedelta = timedelta(seconds=10)) -> None:
    """End a process that an earlier, killed parent left running on `folder`; nothing happens if there is none."""
    for attempt in (number, signal.SIGKILL):
        if not await uses_folder(pid, folder):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, attempt)
        # It is nobody's child any more, so there is no event to wait for.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace.total_seconds()):
                while await uses_folder(pid, folder):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)


def read_pid(path: Path) -> int | None:
    """The number on the first line of a pid file, or None when there is no such file or no number."""
    try:
        return int(path.read_text().partition("\n")[0])
    except (FileNotFoundError, ValueError):
        return None


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free, and on Linux is given to no other caller, in no process, for a while.

    Not one the system would choose: from those it takes ports for outgoing connections, at any time.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        probe = socket.socket()
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            probe.close()
            continue
        if sys.platform == "linux":
            # Kept bound, it refuses the next caller's probe, but not servers: those set this option, too.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _kept.append(probe.detach())
            if len(_kept) > _KEPT_PORTS:
                os.close(_kept.popleft())
        probe.close()
        return port


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _proc_command_line(pid: int) -> str:
    """The arguments of a process, each followed by a blank; empty for one that is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


async def _ps_command_line(pid: int) -> str:
    ps = await asyncio.create_subprocess_exec("ps", "-o", "command=", "-p", str(pid), stdout=asyncio.subprocess.PIPE)
    output, _ = await ps.communicate()
    return output.decode(errors="replace").rstrip("\n") + " "
