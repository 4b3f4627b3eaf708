"""The settings of a job, as written by people and carried by events; the shapes are fixed in `contracts.md`.

An unknown field is refused, never ignored, and no value is bent into another type. Rules that need the operator's
sources or the clock live in `services.job_api.domain`; what a schedule and a timeframe mean, in `shared.slots`.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from cronsim import CronSim, CronSimError
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from shared.clock import UtcDatetime

MAX_SPLIT_BYTES = 1024**3
"""Stock OpenSSL holds a whole CMS message in memory and fails above about 1.6 GB, so no part exceeds 1 GiB."""

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Line = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]*$")
]
Text = Annotated[str, StringConstraints(max_length=4000, pattern=r"^[^\x00]*$")]
Whole = Annotated[int, Field(strict=True)]
Column = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[^\x00]*$")]


def _written(value: object) -> object:
    """Numbers would be taken for seconds since 1970, or seconds of a duration; people write neither."""
    if not isinstance(value, str | datetime | timedelta):
        raise ValueError("must be text")
    return value


def _moment(value: object) -> object:
    """Digits alone would be taken for seconds since 1970, as text too."""
    if isinstance(value, str) and not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise ValueError("must be a timestamp such as 2026-03-29T04:00:00Z")
    return _written(value)


Moment = Annotated[
    UtcDatetime,
    Field(ge=datetime(1900, 1, 1, tzinfo=UTC), lt=datetime(3000, 1, 1, tzinfo=UTC)),
    BeforeValidator(_moment),
]
"""Far enough from the ends of the calendar that slots and data intervals can be counted from it."""

_DURATION: Final = (
    r"^P(?=[0-9T])([0-9]{1,2}W)?([0-9]{1,3}D)?"
    r"(T(?=[0-9])([0-9]{1,5}H)?([0-9]{1,7}M)?([0-9]{1,9}([.][0-9]{1,6})?S)?)?$"
)


def _duration(value: object) -> object:
    if isinstance(value, str) and not re.match(_DURATION, value):
        raise ValueError("must be an ISO 8601 duration of weeks, days, hours, minutes and seconds, such as PT1M or P7D")
    return _written(value)


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "format": "duration", "pattern": _DURATION, "examples": ["PT1M", "P7D"]}),
]
"""ISO 8601, `PT1M` or `P7D`."""
TimeOfDay = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
"""`HH:MM` in UTC."""


def _whole(value: object) -> object:
    """A literal is compared with `==`, and `True == 1.0 == 1`."""
    if type(value) is not int:
        raise ValueError("must be a whole number")
    return value


class Settings(BaseModel):
    """Base of everything written by people: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Once(Settings):
    """One slot: at submission or at `start`."""

    kind: Literal["once"]


class Hourly(Settings):
    """A slot every `every` hours, counted from 00:00 UTC each day; that is why `every` divides 24."""

    kind: Literal["hourly"]
    every: Annotated[Literal[1, 2, 3, 4, 6, 8, 12, 24], BeforeValidator(_whole)]


class Daily(Settings):
    """A slot a day."""

    kind: Literal["daily"]
    at: TimeOfDay


class Weekday(StrEnum):
    """A day of the week, in the order of `datetime.weekday`."""

    MONDAY = "mon"
    TUESDAY = "tue"
    WEDNESDAY = "wed"
    THURSDAY = "thu"
    FRIDAY = "fri"
    SATURDAY = "sat"
    SUNDAY = "sun"


class Weekly(Settings):
    """A slot on each of `days`."""

    kind: Literal["weekly"]
    days: Annotated[tuple[Weekday, ...], Field(min_length=1, max_length=7)]
    at: TimeOfDay

    @field_validator("days")
    @classmethod
    def _each_once(cls, days: tuple[Weekday, ...]) -> tuple[Weekday, ...]:
        if len(set(days)) != len(days):
            raise ValueError("names a day twice")
        return days


class Monthly(Settings):
    """A slot a month; a month without that day has it on its last day, so that no month is left out."""

    kind: Literal["monthly"]
    day: Annotated[Whole, Field(ge=1, le=31)] | Literal["last"]
    at: TimeOfDay


class Cron(Settings):
    """Slots by a cron expression of five fields, as Debian's cron reads it, in UTC.

    Beside what crontab(5) knows: `5/15` for `5-59/15`, `L` and `LW` for the last day and last weekday of a month, `5L`
    and `5#2` for its last and second Friday.
    """

    kind: Literal["cron"]
    expression: Annotated[str, StringConstraints(strip_whitespace=True, min_length=9, max_length=200)]

    @field_validator("expression")
    @classmethod
    def _comes_due(cls, expression: str) -> str:
        if len(expression.split()) != 5:
            raise ValueError("must have five fields: minute, hour, day of month, month, day of week")
        if re.search(r"\b0*(\w+)-0*\1/", expression, re.IGNORECASE):
            # CronSim takes 5-5/15 for 5/15, cron takes it for 5.
            raise ValueError("has a range from a number to itself with a step, such as 5-5/15: write 5")
        try:
            next(CronSim(expression, datetime(2000, 1, 1, tzinfo=UTC)))
        except CronSimError as error:
            raise ValueError(f"is not a cron expression: {error}") from error
        except StopIteration as error:
            raise ValueError("names a day that never comes") from error
        return expression


Schedule = Annotated[Once | Hourly | Daily | Weekly | Monthly | Cron, Field(discriminator="kind")]


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
    count: Whole = Field(default=1, ge=1, le=1000)
    unit: Unit
    align: bool = Field(default=True, strict=True)


class Fixed(Settings):
    """Exactly [`from`, `to`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    kind: Literal["fixed"]
    from_: Moment = Field(alias="from")
    to: Moment

    @model_validator(mode="after")
    def _forwards(self) -> Self:
        if self.from_ >= self.to:
            raise ValueError("`to` must be later than `from`")
        return self


class SinceLastRun(Settings):
    """From where the job's last successful run ended; the first time from `from`. No gap, no overlap."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    kind: Literal["since_last_run"]
    from_: Moment = Field(alias="from")


Timeframe = Annotated[AllData | Last | Fixed | SinceLastRun, Field(discriminator="kind")]


class Overlap(StrEnum):
    """What becomes of a slot that is due while an earlier run of the job is still open."""

    BUFFER_ONE = "buffer_one"
    BUFFER_ALL = "buffer_all"
    SKIP = "skip"
    CANCEL_OTHER = "cancel_other"
    ALLOW_ALL = "allow_all"


class CatchUpMode(StrEnum):
    """Which of the slots that nobody could request in time are requested later."""

    LATEST = "latest"
    ALL = "all"
    NONE = "none"


class CatchUp(Settings):
    """What becomes of slots that passed unseen; one older than `window` is missed in every mode."""

    mode: CatchUpMode = CatchUpMode.LATEST
    window: Duration = Field(default=timedelta(days=7), ge=timedelta(0), le=timedelta(weeks=52))


class Retry(Settings):
    """How often the exporter tries a run, and how long it waits before the next attempt."""

    attempts: Whole = Field(default=3, ge=1, le=10)
    backoff: Duration = Field(default=timedelta(minutes=1), ge=timedelta(0), le=timedelta(days=1))


Format = Literal["jsonl", "csv"]
CsvProfile = Literal["spreadsheet", "faithful"]
Encryption = Literal["gcm", "smime", "none"]
Masking = Literal["hash", "redact"]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 of a certificate's DER form."""


class JobSettings(Settings):
    """Exactly what a person writes: `POST`, clone, YAML and history's snapshot of a job.

    For the timeframe `last` a slot left out is data left out, so there `overlap` is `buffer_all` and `catchup` is
    `all` unless something else is written.
    """

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
    split_bytes: Annotated[Whole, Field(ge=64 * 1024, le=MAX_SPLIT_BYTES)] | None = None
    format: Format = "jsonl"
    csv_profile: CsvProfile = "spreadsheet"
    """`spreadsheet` puts an apostrophe before what would be taken for a formula; `faithful` changes nothing."""
    fields: Annotated[tuple[Column, ...], Field(min_length=1, max_length=1600)] | None = None
    masking: Annotated[dict[Column, Masking], Field(max_length=1600)] = Field(default_factory=dict)
    attachments: Annotated[bool, Field(strict=True)] | None = None
    """Whether attachments of the rows are exported, too; null means: unless `fields` or `masking` narrow the rows."""
    encryption: Encryption = "gcm"
    recipients: Annotated[tuple[Fingerprint, ...], Field(min_length=1, max_length=20)] | None = None
    overlap: Overlap = Overlap.BUFFER_ONE
    catchup: CatchUp = CatchUp()
    jitter: Duration = Field(default=timedelta(0), ge=timedelta(0), le=timedelta(days=1))
    retry: Retry = Retry()
    pause_after_failures: Annotated[Whole, Field(ge=1, le=1000)] | None = None
    labels: Annotated[dict[Slug, Line], Field(max_length=20)] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _keep_every_window(cls, written: Any) -> Any:
        """The defaults that depend on the timeframe; what was written stays."""
        if not isinstance(written, Mapping):
            return written
        given: dict[str, Any] = dict(written)  # pyright: ignore[reportUnknownVariableType] - checked field by field below
        timeframe = given.get("timeframe")
        kind = timeframe.get("kind") if isinstance(timeframe, Mapping) else getattr(timeframe, "kind", None)
        if kind == "last":
            given.setdefault("overlap", Overlap.BUFFER_ALL)
            catchup = given.setdefault("catchup", {})
            if isinstance(catchup, Mapping):
                given["catchup"] = {"mode": CatchUpMode.ALL, **catchup}
        return given

    @field_validator("media_types", "fields", "recipients")
    @classmethod
    def _each_once(cls, value: object) -> object:
        if isinstance(value, tuple) and len(set(value)) != len(value):
            raise ValueError("names one twice")
        return value

    @model_validator(mode="after")
    def _is_one_whole(self) -> Self:
        if isinstance(self.timeframe, SinceLastRun) and self.overlap is Overlap.ALLOW_ALL:
            raise ValueError("`since_last_run` needs runs one at a time: use another `overlap` than `allow_all`")
        if self.fields is not None and (unselected := sorted(set(self.masking) - set(self.fields))):
            raise ValueError(f"`masking` names fields that are not exported: {', '.join(unselected)}")
        if self.encryption == "none" and self.recipients is not None:
            raise ValueError("`recipients` have no meaning without encryption: leave them out")
        return self

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
    def with_attachments(self) -> bool:
        """Whether attachments come along, where the source has any: nobody who hides fields gets their contents."""
        return self.attachments if self.attachments is not None else self.fields is None and not self.masking

    @property
    def immediately(self) -> bool:
        """Whether a run is due at submission, beside or instead of the schedule's slots."""
        return self.start == "immediately"
