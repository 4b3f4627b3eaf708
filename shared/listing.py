"""How lists are asked for, wherever they are: filters as callers write them, orders, and the size of a page."""

from collections.abc import Iterable, Sequence
from typing import Annotated

from fastapi import Query
from pydantic import AfterValidator, StringConstraints
from pydantic_core import PydanticCustomError

Label = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}:[^\x00-\x1f]{1,200}$")]
"""`name:value`."""
SearchText = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
Limit = Annotated[int, Query(ge=1, le=200)]
After = Annotated[str | None, Query(description="The `next` of the page before.")]


def one_of(orders: Sequence[str]) -> AfterValidator:
    """Refuses a `sort` that is none of `orders`."""

    def check(text: str) -> str:
        if text not in orders:
            raise PydanticCustomError("enum", "is no column to sort on", {"expected": f"one of {', '.join(orders)}"})
        return text

    return AfterValidator(check)


def labelled(pairs: Iterable[str]) -> dict[str, str | list[str]]:
    """The labels that `name:value` ask for; two values of one label stay two, which nothing has.

    >>> labelled(["team:a", "site:x:y", "team:b"])
    {'team': ['a', 'b'], 'site': 'x:y'}
    """
    wanted: dict[str, list[str]] = {}
    for pair in pairs:
        name, _, value = pair.partition(":")
        values = wanted.setdefault(name, [])
        if value not in values:
            values.append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in wanted.items()}


def folded(text: str) -> str:
    """`text` as it is compared and sorted, whatever its case."""
    return text.casefold()
