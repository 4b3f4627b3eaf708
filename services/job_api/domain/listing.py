"""How lists of jobs are filtered and sorted, and what a place in a list is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from services.job_api.domain.runs import RunStatus
from shared.events import JobState


class Sort(StrEnum):
    """The columns that jobs are sorted on, ascending; a `-` before it turns it round."""

    TITLE = "title"
    SOURCE = "source"
    TYPE = "type"
    STATE = "state"
    CREATED_AT = "created_at"
    UPDATED_AT = "updated_at"
    LATEST_STATUS = "latest_status"
    LATEST_STARTED_AT = "latest_started_at"
    NEXT_SLOT_AT = "next_slot_at"


OF_TIME: Final = frozenset({Sort.CREATED_AT, Sort.UPDATED_AT, Sort.LATEST_STARTED_AT, Sort.NEXT_SLOT_AT})


@dataclass(frozen=True, slots=True)
class Order:
    """A column, and which end comes first."""

    sort: Sort = Sort.CREATED_AT
    descending: bool = True

    @classmethod
    def read(cls, text: str) -> "Order":
        """The order in a `sort` parameter; raises ValueError."""
        return cls(Sort(text.removeprefix("-")), text.startswith("-"))

    def __str__(self) -> str:
        return f"-{self.sort}" if self.descending else str(self.sort)


ORDERS: Final = tuple(str(Order(sort, descending)) for sort in Sort for descending in (False, True))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins: behind the row with this value and id."""

    value: str | datetime
    job_id: UUID

    @classmethod
    def read(cls, order: Order, value: str, job_id: UUID) -> "Place":
        """A place as a cursor carries it; raises ValueError."""
        if order.sort not in OF_TIME:
            return cls(value, job_id)
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("the time has no zone")
        try:
            return cls(moment.astimezone(UTC), job_id)
        except OverflowError as error:
            raise ValueError("the time lies beyond the calendar") from error

    def written(self) -> str:
        """The value as a cursor carries it."""
        return self.value if isinstance(self.value, str) else self.value.isoformat()


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs; None and nothing are all of them."""

    source: str | None = None
    type: str | None = None
    state: JobState | None = None
    status: RunStatus | None = None
    text: str | None = None
    labels: Mapping[str, str | list[str]] = field(default_factory=dict[str, str | list[str]])
    """As `shared.listing.labelled` makes it."""
