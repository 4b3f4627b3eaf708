"""How lists are filtered and sorted, and what a place in a list is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from math import isfinite
from typing import Final, TypeAlias
from uuid import UUID

import orjson

from shared.events import RunState, Trigger

Value: TypeAlias = str | int | float | datetime | None


class Kind(StrEnum):
    """What a column holds."""

    TEXT = "text"
    MOMENT = "moment"
    WHOLE = "whole"
    REAL = "real"


EXECUTION_COLUMNS: Final[Mapping[str, Kind]] = {
    "requested_at": Kind.MOMENT,
    "started_at": Kind.MOMENT,
    "finished_at": Kind.MOMENT,
    "duration_seconds": Kind.REAL,
    "title": Kind.TEXT,
    "source": Kind.TEXT,
    "type": Kind.TEXT,
    "trigger": Kind.TEXT,
    "state": Kind.TEXT,
    "rows": Kind.WHOLE,
    "bytes": Kind.WHOLE,
}
"""What executions are sorted on."""

ARTIFACT_COLUMNS: Final[Mapping[str, Kind]] = {
    "stored_at": Kind.MOMENT,
    "expires_at": Kind.MOMENT,
    "size_bytes": Kind.WHOLE,
    "rows": Kind.WHOLE,
    "title": Kind.TEXT,
    "source": Kind.TEXT,
    "type": Kind.TEXT,
}
"""What artifacts are sorted on."""


@dataclass(frozen=True, slots=True)
class Order:
    """A column, and which end comes first. What has no value yet comes last, or first when descending."""

    column: str
    descending: bool = False

    @classmethod
    def read(cls, text: str) -> "Order":
        """The order in a `sort` parameter."""
        return cls(text.removeprefix("-"), text.startswith("-"))

    def __str__(self) -> str:
        return f"-{self.column}" if self.descending else self.column


def orders(columns: Mapping[str, Kind]) -> tuple[str, ...]:
    """What `sort` may be in a list with these columns."""
    return tuple(str(Order(column, descending)) for column in columns for descending in (False, True))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins: behind the row with this value, moment and id."""

    value: Value
    moment: datetime
    key: UUID

    @classmethod
    def read(cls, kind: Kind, written: str, key: UUID) -> "Place":
        """A place as a cursor carries it; raises ValueError."""
        found = orjson.loads(written)
        if not isinstance(found, list) or len(found) != 2:
            raise ValueError("it is not a value and a moment")
        value, moment = found
        return cls(None if value is None else _value(kind, value), read_moment(moment), key)

    def written(self) -> str:
        """Value and moment as a cursor carries them."""
        return orjson.dumps([self.value, self.moment]).decode()


def _value(kind: Kind, value: object) -> Value:
    match kind, value:
        case Kind.MOMENT, str():
            return read_moment(value)
        case Kind.TEXT, str() if "\0" not in value:
            return value
        case Kind.WHOLE, int() if not isinstance(value, bool) and -(2**63) <= value < 2**63:
            return value
        case Kind.REAL, int() | float() if not isinstance(value, bool) and isfinite(value):
            return float(value)
        case _:
            raise ValueError(f"{value!r} is no value of that column")


def read_moment(text: object) -> datetime:
    """A moment as a cursor carries it; raises ValueError."""
    if not isinstance(text, str):
        raise ValueError("a moment is a text")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("the time has no zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time lies beyond the calendar") from error


# --- filters ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Range:
    """[`begin`, `end`); None is no bound."""

    begin: datetime | None = None
    end: datetime | None = None


_ALWAYS: Final = Range()


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """Which executions; None and nothing are all of them."""

    job_id: UUID | None = None
    source: str | None = None
    type: str | None = None
    states: Sequence[RunState] = ()
    trigger: Trigger | None = None
    text: str | None = None
    labels: Mapping[str, str | list[str]] = field(default_factory=dict[str, str | list[str]])
    """As `shared.listing.labelled` makes it."""
    requested: Range = _ALWAYS
    started: Range = _ALWAYS
    finished: Range = _ALWAYS
    touching: Range = _ALWAYS
    """Those with data of it."""


@dataclass(frozen=True, slots=True)
class ArtifactFilter:
    """Which artifacts; None and nothing are all of them."""

    job_id: UUID | None = None
    run_id: UUID | None = None
    source: str | None = None
    type: str | None = None
    text: str | None = None
    available: bool | None = None
    stored: Range = _ALWAYS


class SlotOutcome(StrEnum):
    """What became of a slot."""

    WAITING = "waiting"
    REQUESTED = "requested"
    SKIPPED = "skipped"
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class SlotFilter:
    """Which slots; None is all of them."""

    job_id: UUID | None = None
    outcome: SlotOutcome | None = None
    trigger: Trigger | None = None
    at: Range = _ALWAYS


@dataclass(frozen=True, slots=True)
class SlotPlace:
    """Where a page of slots begins: behind the one that was decided then."""

    decided_at: datetime
    job_id: UUID
    slot_key: str

    @classmethod
    def read(cls, written: str, job_id: UUID) -> "SlotPlace":
        """A place as a cursor carries it; raises ValueError."""
        found = orjson.loads(written)
        match found:
            case [str(decided_at), str(slot_key)] if "\0" not in slot_key:
                return cls(read_moment(decided_at), job_id, slot_key)
            case _:
                raise ValueError("it is not a moment and a slot")

    def written(self) -> str:
        """Moment and slot as a cursor carries them."""
        return orjson.dumps([self.decided_at, self.slot_key]).decode()


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which deeds; None is all of them."""

    actor: str | None = None
    action: str | None = None
    job_id: UUID | None = None
    run_id: UUID | None = None
    at: Range = _ALWAYS
