"""How a service process lives: settings, logs, one task group, an orderly stop.

Everything a service runs is a coroutine in one task group. If one fails, the process ends with exit code 1 and its
supervisor starts it again; a signal, or the end of standard input where a parent asked for it, stops all of them.
"""

import asyncio
import gc
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, Final, NoReturn, TypeVar

import uvicorn
import uvloop
from fastapi import FastAPI
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared import observability, starting, tracing
from shared.cluster import Refused
from shared.config import ProcessSettings
from shared.database import outlast
from shared.observability import log
from shared.safety import Fault
from shared.starting import Read, Unusable, sentence, variable
from shared.tracing import tracer

S = TypeVar("S", bound=ProcessSettings)

HTTP_GRACE_SECONDS: Final = 5
GARBAGE_THRESHOLD: Final = 10_000
"""New containers between two looks for cycles; Python's 700 is for smaller programs."""
MEASURE: Final = timedelta(seconds=15)
"""How old a gauge from the database may be; Prometheus mostly looks as often."""


class Stopped(Exception):
    """The process was asked to stop."""


def main(service: str, settings: type[S], application: Callable[[S], Coroutine[Any, Any, None]]) -> NoReturn:
    """Run `application` until it fails or the process is told to stop; exit code 2 for unusable settings."""
    try:
        read = starting.read(settings)
    except Unusable as unusable:
        for line in unusable.sentences:
            sys.stderr.write(f"{service}: {line}\n")
        sys.exit(2)
    chosen = read.settings
    if chosen.traces == "otlp":
        _trace(service, type(chosen))
    observability.configure(
        service, json=chosen.log_format == "json", level=chosen.log_level, more=tracer().log_processors()
    )
    _say(read)
    # Some hundred thousand objects of imported modules live as long as the process: looking through them again and
    # again took history a third of its CPU time (`make bench-history`).
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    try:
        uvloop.run(application(chosen))
    except BaseExceptionGroup as group:
        _, failures = group.split(Stopped)
        if failures is not None:
            _give_up(failures)
    except Exception as error:
        _give_up(error)
    finally:
        tracer().stop()
    log.info("stopped")
    sys.exit(0)


def _trace(service: str, model: type[ProcessSettings]) -> None:
    try:
        tracing.start(service)
    except ImportError:
        missing = "is otlp, but OpenTelemetry is not installed"
        fault = Fault("traces", missing, "install the extra `otel` (`pip install 'cdds[otel]'`), or set TRACES to off")
        sys.stderr.write(f"{service}: {sentence(fault, model)}\n")
        sys.exit(2)


def _say(read: Read[S]) -> None:
    """What is odd about the settings, at every start."""
    model = type(read.settings)
    for name in read.unknown:
        log.warning("variable is no setting and does nothing", variable=name)
    for danger in read.taken:
        observability.INSECURE.labels(danger.risk).set(1)
        log.warning(
            "risk taken by the settings", risk=danger.risk, variable=variable(danger.setting, model),
            message=danger.message, remedy=danger.remedy,
        )  # fmt: skip


def _give_up(error: BaseException) -> NoReturn:
    if (refused := _refusal(error)) is not None:
        log.error("service failed", reason=refused.message, remedy=refused.remedy)
    else:
        log.error("service failed", exc_info=error)
    sys.exit(1)


def _refusal(error: BaseException) -> Refused | None:
    """What needs no traceback, for it says by itself what to do."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, Refused) else None


async def run_all(
    settings: ProcessSettings,
    *work: Coroutine[Any, Any, None],
    drain: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Run `work` until one part fails or the process is told to stop; then all of it is cancelled.

    `drain` may put that off while what is in hand ends; a second signal, or the end of the parent, does not wait.
    """
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_stop_signal(drain, parent=settings.stop_with_parent))
        for part in work:
            tasks.create_task(part)


async def _stop_signal(drain: Callable[[], Coroutine[Any, Any, None]] | None, *, parent: bool) -> None:
    loop = asyncio.get_running_loop()
    stop, at_once = asyncio.Event(), asyncio.Event()

    def ask() -> None:
        (at_once if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)
    if parent:
        await loop.connect_read_pipe(lambda: _ParentWatch(stop, at_once), sys.stdin)
    await stop.wait()
    if drain is not None and not at_once.is_set():
        log.info("stopping when what is in hand has ended")
        await _first_of(drain(), at_once.wait())
    raise Stopped


async def _first_of(*parts: Coroutine[Any, Any, object]) -> None:
    """Wait until one of them ends, and cancel the others; raises what it raised."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _ParentWatch(asyncio.Protocol):
    def __init__(self, *stops: asyncio.Event) -> None:
        self._stops = stops

    def connection_lost(self, exc: Exception | None) -> None:
        for stop in self._stops:
            stop.set()


async def every(interval: timedelta, step: Callable[[], Awaitable[int]], patience: timedelta) -> None:
    """Repeat `step`, one pass that returns how much it did: at once while there is work, else after `interval`.

    An outage of PostgreSQL is waited out for `patience`; then, as for any other failure, what `step` raised is raised.
    """
    while True:
        if await outlast(step, patience) == 0:
            await asyncio.sleep(interval.total_seconds())


async def measure_every(interval: timedelta, measure: Callable[[], Awaitable[None]], patience: timedelta) -> None:
    """Set gauges by what is in the database, again and again; an outage is waited out as by `every`."""

    async def step() -> int:
        await measure()
        return 0

    await every(interval, step, patience)


async def serve_http(app: FastAPI, host: str, port: int) -> None:
    """Serve `app` until cancelled, then let open requests end for a few seconds."""
    server = _Server(
        uvicorn.Config(
            app, host=host, port=port, log_config=None, access_log=False, server_header=False,
            timeout_graceful_shutdown=HTTP_GRACE_SECONDS, lifespan="off", http=_Connection,
        )
    )  # fmt: skip
    async with _stopping(server) as serving:
        await asyncio.shield(serving)
        raise RuntimeError(f"the HTTP server on {host}:{port} ended")


@asynccontextmanager
async def _stopping(server: uvicorn.Server) -> AsyncGenerator["asyncio.Task[None]"]:
    serving = asyncio.create_task(server.serve())
    try:
        yield serving
    finally:
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: the process has one place for that."""

    @contextmanager
    def capture_signals(self) -> Any:
        yield


_BREAK_OFF: Final = "cdds.break_off"


def break_off(scope: Scope) -> bool:
    """End the connection of a request at once, whatever is still to be sent; says whether the server can."""
    extension = scope.get("extensions", {}).get(_BREAK_OFF)
    if extension is not None:
        extension["now"]()
    return extension is not None


def break_off_at_stop(scope: Scope) -> None:
    """Let a stop not wait for the response to this request, because it has no end; if the server can."""
    if (extension := scope.get("extensions", {}).get(_BREAK_OFF)) is not None:
        extension["at_stop"]()


class _Connection(HttpToolsProtocol):
    """uvicorn's own, and ways for an application to give a connection up."""

    _endless = False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._endless = False
        self.scope["extensions"] = {_BREAK_OFF: {"now": self.transport.abort, "at_stop": self._set_endless}}

    def shutdown(self) -> None:
        if self._endless:
            self.transport.abort()
        else:
            super().shutdown()

    def _set_endless(self) -> None:
        self._endless = True
