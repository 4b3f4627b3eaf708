"""Sums of runs."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from services.history.api.answers import StatisticsAnswer, SumAnswer
from services.history.store import Store
from services.history.store.statistics import GROUPS
from shared.http import Reader, invalid

LONGEST_DAYS: Final = 1100
MOST: Final = 10_000
USUAL: Final = timedelta(days=29)


def _groups(text: str) -> str:
    names = text.split(",")
    if not set(names) <= GROUPS.keys() or len(set(names)) < len(names):
        raise PydanticCustomError("enum", "is nothing to group by", {"expected": "day, source and type, each once"})
    return text


def _day(text: object) -> object:
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise ValueError("must be a day such as 2026-03-29")
    return text


Group = Annotated[str, AfterValidator(_groups)]
Day = Annotated[date, BeforeValidator(_day), Field(ge=date(1900, 1, 1), lt=date(3000, 1, 1))]


def router(store: Store) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/statistics", tags=["statistics"])

    @api.get("")
    async def read_statistics(
        caller: Reader,
        from_: Annotated[Day | None, Query(alias="from", description="A UTC day; by default there are 30.")] = None,
        to: Annotated[Day | None, Query(description="A UTC day, included; today by default.")] = None,
        group: Annotated[Group | None, Query(description="Some of `day,source,type`; without, one sum.")] = None,
    ) -> StatisticsAnswer:
        """How many runs ended from the day `from` to the day `to`, and how."""
        last = to or datetime.now(UTC).date()
        first = from_ or last - USUAL
        if first > last:
            raise invalid("/query/to", "is before `from`", "Use a later day.")
        if (last - first).days >= LONGEST_DAYS:
            raise invalid("/query/to", f"is {LONGEST_DAYS} days or more after `from`", "Ask for less at a time.")
        rows = await store.statistics(caller.tenant, first, last, frozenset((group or "").split(",")), MOST + 1)
        if len(rows) > MOST:
            raise invalid("/query/group", f"makes more than {MOST:,} sums", "Group by less, or ask for fewer days.")
        return StatisticsAnswer(from_=first, to=last, items=[SumAnswer.of(row) for row in rows])

    return api
