"""The settings of a job, as written by people and carried by events; the shapes are fixed in `contracts.md`.

Only what the services can do today is accepted: an unknown schedule kind or field is refused, never ignored.
Rules that need the operator's sources or the clock live in `services.job_api.domain`.
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from shared.clock import UtcDatetime

MAX_SPLIT_BYTES = 1024**3
"""Stock OpenSSL holds a whole CMS message in memory and fails above about 1.6 GB, so no part exceeds 1 GiB."""

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Line = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]*$")
]
Moment = Annotated[UtcDatetime, Field(ge=datetime(1900, 1, 1, tzinfo=UTC), lt=datetime(3000, 1, 1, tzinfo=UTC))]
"""Far enough from the ends of the calendar that slots and data intervals can be counted from it."""
Text = Annotated[str, StringConstraints(max_length=4000, pattern=r"^[^\x00]*$")]


class Settings(BaseModel):
    """Base of everything written by people: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Once(Settings):
    """One slot: at submission or at `start`."""

    kind: Literal["once"]


class Hourly(Settings):
    """A slot every `every` hours, counted from 00:00 UTC each day; that is why `every` divides 24."""

    kind: Literal["hourly"]
    every: Literal[1, 2, 3, 4, 6, 8, 12, 24]


Schedule = Annotated[Once | Hourly, Field(discriminator="kind")]


class Unit(StrEnum):
    """Calendar unit of a relative timeframe; weeks start on Monday."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class AllData(Settings):
    """Everything up to the slot."""

    kind: Literal["all"]


class Last(Settings):
    """The `count` units before the slot, aligned to whole calendar units unless `align` is false."""

    kind: Literal["last"]
    count: int = Field(default=1, ge=1, le=1000)
    unit: Unit
    align: bool = True


class Fixed(Settings):
    """Exactly [`from`, `to`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    kind: Literal["fixed"]
    from_: Moment = Field(alias="from")
    to: Moment

    @model_validator(mode="after")
    def _forwards(self) -> Self:
        if self.from_ >= self.to:
            raise ValueError("`to` must be later than `from`")
        return self


Timeframe = Annotated[AllData | Last | Fixed, Field(discriminator="kind")]


class Retry(Settings):
    """How often the exporter tries a run, and how long it waits before the next attempt."""

    attempts: int = Field(default=3, ge=1, le=10)
    backoff: timedelta = Field(default=timedelta(minutes=1), ge=timedelta(0), le=timedelta(days=1))


class JobSettings(Settings):
    """Exactly what a person writes: `POST`, clone, YAML and history's snapshot of a job."""

    key: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None = None
    title: Line
    description: Text = ""
    source: Slug
    type: Slug
    media_types: Literal["all"] | Annotated[tuple[Slug, ...], Field(min_length=1, max_length=50)] = "all"
    schedule: Schedule
    start: Literal["immediately"] | Moment | None = None
    ends_at: Moment | None = None
    timeframe: Timeframe
    split_bytes: int | None = Field(default=None, ge=64 * 1024, le=MAX_SPLIT_BYTES)
    format: Literal["jsonl"] = "jsonl"
    encryption: Literal["gcm"] = "gcm"
    recipients: Annotated[tuple[str, ...], Field(min_length=1, max_length=20)] | None = None
    retry: Retry = Retry()
    labels: Annotated[dict[Slug, Line], Field(max_length=20)] = Field(default_factory=dict)

    @field_validator("media_types")
    @classmethod
    def _each_once(cls, value: object) -> object:
        if isinstance(value, tuple) and len(set(value)) != len(value):
            raise ValueError("names a media type twice")
        return value

    @model_validator(mode="after")
    def _starts(self) -> Self:
        if isinstance(self.schedule, Once) and self.start is None:
            raise ValueError('a one-time job needs `start`: "immediately" or a UTC time')
        if isinstance(self.schedule, Once) and self.ends_at is not None:
            raise ValueError("a one-time job has no `ends_at`")
        if isinstance(self.start, datetime) and self.ends_at is not None and self.ends_at <= self.start:
            raise ValueError("`ends_at` must be later than `start`")
        return self

    @property
    def immediately(self) -> bool:
        """Whether a run is due at submission, beside or instead of the schedule's slots."""
        return self.start == "immediately"
