"""Questions that are not asked yet: which one a job would ask next, and whether it can be answered."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.events import Question
from shared.jobs import JobSettings, Once
from shared.slots import data_interval, first_slot, question
from shared.sources import DataType, Source


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
