"""Stages side by side: a generator that is run by a thread of its own, a few items ahead of whoever consumes it."""

import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from queue import Empty, Queue
from typing import Final, TypeVar

T = TypeVar("T")

DEPTH: Final = 2
"""Items that wait between two stages: one being handed over and one in reserve, so that memory stays flat."""
_LOOK_SECONDS: Final = 0.05


class _End:
    """The last thing a stage hands over, with what ended it."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(items: Iterable[T], name: str, depth: int = DEPTH) -> Generator[T, None, None]:
    """The same `items`, made in a thread that is at most `depth` items ahead.

    What making them raises is raised here. When this is closed early, `items` is closed by its own thread, which is
    waited for: whoever lets `items` wait for something has to interrupt that first.
    """
    handed: Queue[T | _End] = Queue(depth)
    over = threading.Event()
    maker = threading.Thread(target=_make, args=(items, handed, over), name=f"export-{name}", daemon=True)
    maker.start()
    try:
        while not isinstance(item := handed.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        over.set()
        while maker.is_alive():
            with suppress(Empty):  # makes room for what the thread may be waiting to hand over
                handed.get(timeout=_LOOK_SECONDS)
        maker.join()


def _make(items: Iterable[T], handed: "Queue[T | _End]", over: threading.Event) -> None:
    error: BaseException | None = None
    try:
        for item in items:
            handed.put(item)
            if over.is_set():
                break
    except BaseException as raised:
        error = raised
    finally:
        if isinstance(items, Generator):
            try:
                items.close()
            except BaseException as raised:
                error = error or raised
        handed.put(_End(error))
