"""What queries have in common: ranges, orders and places."""

from datetime import datetime

from services.history.domain.listing import Kind, Order, Place, Range
from shared.http import Problem, invalid, position, read_position


def between(name: str, begin: datetime | None, end: datetime | None, *, ends: str = "") -> Range:
    """[`begin`, `end`) of the parameters `name`_from and `name`_to; raises Problem when nothing can lie in it."""
    if begin is not None and end is not None and begin >= end:
        raise invalid(f"/query/{ends or name + '_to'}", "must be later than where it begins", "Use a later moment.")
    return Range(begin, end)


def place(order: Order, kind: Kind, after: str | None) -> Place | None:
    """Where a page in `order` begins by its `after`; raises Problem."""
    read = read_position(after, str(order))
    try:
        return None if read is None else Place.read(kind, *read)
    except ValueError as error:
        raise not_a_cursor() from error


def next_place(order: Order, places: list[Place], limit: int) -> str | None:
    """The `after` of the following page, when there is one."""
    return position(str(order), places[limit - 1].written(), places[limit - 1].key) if len(places) > limit else None


def not_a_cursor() -> Problem:
    """What a cursor of another list is answered."""
    return invalid("/query/after", "is not a cursor of this list", "Use the `next` of the page before.")
