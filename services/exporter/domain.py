"""The rules of runs: what a claim is, how progress is told, and which question a job would ask next."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid5

from shared.events import Progress, Question, RunRequested
from shared.jobs import JobSettings, Once
from shared.slots import data_interval, first_slot, question
from shared.sources import DataType, Source


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt of a run, held under a lease; `attempt` is the fencing token of everything it writes."""

    request: RunRequested
    attempt: int
    attempts_allowed: int

    @property
    def run_id(self) -> UUID:
        """The run that is attempted."""
        return self.request.run_id

    @property
    def prefix(self) -> str:
        """Where the attempt's bytes go in the object store; no other attempt writes there."""
        return f"{self.run_id}/{self.attempt}"

    @property
    def dead_prefixes(self) -> list[str]:
        """Where earlier attempts may have left bytes."""
        return [f"{self.run_id}/{attempt}" for attempt in range(1, self.attempt)]

    @property
    def is_last(self) -> bool:
        """Whether no attempt follows when this one fails."""
        return self.attempt >= self.attempts_allowed


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt ended without result; `reason` is a slug, `message` a sentence for people."""

    reason: str
    message: str
    repeatable: bool


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A part that lies complete and verified in the object store."""

    number: int
    object_key: str
    file_name: str
    size_bytes: int
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a successful attempt leaves behind."""

    snapshot: str
    rows: int
    bytes: int
    files: tuple[StoredFile, ...]


@dataclass(frozen=True, slots=True)
class Download:
    """A file that may be downloaded; the bytes are in `body`, or in the object store under `object_key`."""

    artifact_id: UUID
    run_id: UUID
    file_name: str
    size_bytes: int
    sha256: str
    object_key: str | None
    body: bytes | None
    available: bool


def artifact_id(run_id: UUID, attempt: int, number: int) -> UUID:
    """The id of a part, the same whenever it is asked for."""
    return uuid5(run_id, f"part/{attempt}/{number}")


def manifest_id(run_id: UUID) -> UUID:
    """The id of a run's manifest."""
    return uuid5(run_id, "manifest")


def manifest_name(run_id: UUID) -> str:
    """The file name of a run's manifest."""
    return f"export-{run_id}.manifest.json"


def progress(
    claim: Claim, sequence: int, *, rows: int, bytes_: int, total: int | None, started: datetime, now: datetime
) -> Progress:
    """How far the attempt is; remaining time assumes the average rate so far, and is unknown before the first row."""
    percent = None if total is None else 100.0 if total == 0 else min(100.0, 100.0 * rows / total)
    elapsed = (now - started) / timedelta(seconds=1)
    remaining = None if total is None or rows == 0 else max(0.0, elapsed / rows * (total - rows))
    return Progress(
        attempt=claim.attempt,
        sequence=sequence,
        rows=rows,
        bytes=bytes_,
        total=total,
        percent=None if percent is None else round(percent, 1),
        remaining_seconds=None if remaining is None else round(remaining, 1),
    )


# --- questions that are not asked yet -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fault:
    """One setting that can't be answered, and what to do about it."""

    pointer: str
    message: str
    remedy: str


class SettingsRefused(Exception):
    """The settings ask for something that does not exist."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{fault.pointer}: {fault.message}" for fault in self.faults))


def asked_type(settings: JobSettings, sources: Mapping[str, Source]) -> tuple[Source, DataType]:
    """What `settings` export, from the sources that the tenant may use. Raises SettingsRefused."""
    if (source := sources.get(settings.source)) is None:
        known = ", ".join(sorted(sources))
        raise SettingsRefused([Fault("/source", f"there is no source {settings.source!r}", f"Use one of: {known}.")])
    if (data_type := source.types.get(settings.type)) is None:
        known = ", ".join(sorted(source.types))
        raise SettingsRefused(
            [Fault("/type", f"{settings.source} has no type {settings.type!r}", f"Use one of: {known}.")]
        )
    if settings.media_types != "all" and (unknown := set(settings.media_types) - set(data_type.media_types)):
        remedy = f"Use some of: {', '.join(data_type.media_types)}." if data_type.media_types else 'Use "all".'
        raise SettingsRefused([Fault("/media_types", f"{settings.type} has no {', '.join(sorted(unknown))}", remedy)])
    return source, data_type


def check_fields(settings: JobSettings, existing: Collection[str]) -> None:
    """Raise SettingsRefused for each field that is not among the `existing` ones."""
    if faults := list(_unknown_fields(settings, existing)):
        raise SettingsRefused(faults)


def _unknown_fields(settings: JobSettings, existing: Collection[str]) -> Iterator[Fault]:
    named = [(f"/fields/{index}", field) for index, field in enumerate(settings.fields or ())]
    named += [(f"/masking/{_escaped(field)}", field) for field in settings.masking]
    for pointer, field in named:
        if field not in existing:
            yield Fault(
                pointer, f"{settings.type} has no field {field!r}", "Use a field that GET /api/v1/sources lists."
            )


def _escaped(name: str) -> str:
    """A member's name inside a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def next_question(settings: JobSettings, now: datetime, settle: timedelta) -> tuple[datetime, Question]:
    """The next slot of a job submitted at `now`, and what its run will ask. Raises SettingsRefused when none is due."""
    slot_at = now if settings.immediately else first_slot(settings, now)
    if slot_at is None:
        pointer = "/start" if isinstance(settings.schedule, Once) else "/ends_at"
        raise SettingsRefused([Fault(pointer, "no slot is due any more", "Use a later time.")])
    return slot_at, question(settings, *data_interval(settings.timeframe, slot_at, settle))


def measurable(question: Question, settled_at: datetime) -> Question:
    """The same question about the newest interval of the same length that is over at `settled_at`.

    The rows of an interval that lies ahead are not there yet; the ones before tell how many to expect.
    """
    ahead = question.interval_to - settled_at
    if ahead <= timedelta(0):
        return question
    begins = None if question.interval_from is None else question.interval_from - ahead
    return question.model_copy(update={"interval_from": begins, "interval_to": settled_at})
