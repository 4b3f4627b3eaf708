"""Blocking work in a thread of its own, which nobody has to wait for."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[], T], unwanted: Callable[[], object] = lambda: None) -> T:
    """The result of `work`; who is cancelled while waiting leaves the thread behind.

    A thread that was left behind and ends with a result calls `unwanted`. Not `asyncio.to_thread`: all of a process
    share its few threads, and the process can't end before they have.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()
    left_behind = threading.Event()

    def deliver(settle: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(lambda: None if result.done() else settle())

    def run() -> None:
        try:
            value = work()
        except BaseException as error:
            failure = error
            deliver(lambda: result.set_exception(failure))
            return
        if left_behind.is_set():
            unwanted()
        deliver(lambda: result.set_result(value))

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="exporter-work", daemon=True).start()
    try:
        return await result
    except asyncio.CancelledError:
        left_behind.set()
        raise
