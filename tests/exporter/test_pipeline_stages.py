"""A generator in a thread of its own: order, bounds, errors and endings."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from services.exporter.pipeline.stages import ahead


def stage_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "export-test"]


def test_all_items_come_in_their_order_from_another_thread() -> None:
    makers: set[int] = set()

    def made() -> Iterator[int]:
        for number in range(1000):
            makers.add(threading.get_ident())
            yield number

    assert list(ahead(made(), "test")) == list(range(1000))
    assert len(makers) == 1
    assert makers != {threading.get_ident()}
    assert stage_threads() == []


def test_no_more_than_the_depth_is_made_ahead() -> None:
    made: list[int] = []
    blocked = threading.Event()

    def numbers() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if number == 3:
                blocked.set()
            yield number

    with closing(ahead(numbers(), "test", depth=2)) as items:
        assert next(items) == 0
        assert blocked.wait(10)  # one in hand here, two in the queue, and one that waits to get in
        assert made == [0, 1, 2, 3]
        assert list(items) == list(range(1, 100))


def test_what_making_raises_is_raised_after_what_was_made() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    items = ahead(failing(), "test")
    assert next(items) == 1
    with pytest.raises(ValueError, match="no more"):
        next(items)
    assert stage_threads() == []


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_leaving_early_closes_the_source_in_its_thread_and_waits_for_it(taken: int) -> None:
    closed: list[str] = []

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(threading.current_thread().name)

    with closing(ahead(endless(), "test")) as items:
        for _ in range(taken):
            next(items)

    assert closed == (["export-test"] if taken else [])
    assert stage_threads() == []


def test_an_error_while_closing_is_not_hidden_by_the_end() -> None:
    def stubborn() -> Iterator[int]:
        try:
            yield 1
        finally:
            raise OSError("could not let go")

    with pytest.raises(OSError, match="could not let go"):
        list(ahead(stubborn(), "test"))


def test_stages_can_be_chained() -> None:
    doubled = (2 * number for number in ahead(iter(range(500)), "test"))

    assert list(ahead(doubled, "test")) == list(range(0, 1000, 2))
    assert stage_threads() == []
