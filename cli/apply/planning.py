"""What has to happen so that the service has the jobs that are wanted: decided, not done."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from cli import settings
from cli.apply.wanted import Wanted
from cli.client import Document
from shared.jobs import JobSettings, Once

ONE_TIME: Final = "a one-time job is never edited once it was submitted: give it another key to submit it anew"
BECOMES_ONE_TIME: Final = "a recurring job can't become a one-time job: give it another key to submit a new one"
ABSENT: Final = object()
"""The value of a setting that the other kind of schedule or timeframe does not have."""


class Change(StrEnum):
    """What a job needs; a job is KEPT when what is wanted can't be done to it."""

    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"
    KEPT = "kept"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that is to change."""

    name: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class Step:
    """What one job needs; `job` is what the service has, `wanted` what the files have."""

    key: str
    change: Change
    wanted: Wanted | None = None
    job: Document | None = None
    differences: Sequence[Difference] = ()
    reason: str = ""

    @property
    def title(self) -> str:
        """What the job is called, or will be."""
        if self.wanted is not None:
            return self.wanted.settings.title
        return str(self.job["settings"]["title"]) if self.job is not None else ""


def plan(wanted: Sequence[Wanted], jobs: Iterable[Document], *, prune: bool) -> list[Step]:
    """A step for each wanted job, then one for each that has a key and is wanted no more, if those are to go."""
    known = {job["settings"]["key"]: job for job in jobs if job["settings"]["key"] is not None}
    steps = [step_for(one, known.get(one.key)) for one in wanted]
    if prune:
        keys = {one.key for one in wanted}
        steps += [Step(key, Change.DELETE, job=known[key]) for key in sorted(known) if key not in keys]
    return steps


def step_for(wanted: Wanted, job: Document | None) -> Step:
    """What a wanted job needs."""
    if job is None:
        return Step(wanted.key, Change.CREATE, wanted)
    has = settings.of(job)
    found = tuple(differences(has, wanted.settings))
    if not found:
        return Step(wanted.key, Change.UNCHANGED, wanted, job)
    if isinstance(has.schedule, Once):
        return Step(wanted.key, Change.KEPT, wanted, job, found, ONE_TIME)
    if isinstance(wanted.settings.schedule, Once):
        return Step(wanted.key, Change.KEPT, wanted, job, found, BECOMES_ONE_TIME)
    return Step(wanted.key, Change.CHANGE, wanted, job, found)


def differences(old: JobSettings, new: JobSettings) -> Iterator[Difference]:
    """The settings in which two jobs differ, one by one."""
    if old == new:
        return
    before, after = (dict(_leaves(one.model_dump(mode="json"))) for one in (old, new))
    for name in [*before, *(name for name in after if name not in before)]:
        was, becomes = before.get(name, ABSENT), after.get(name, ABSENT)
        if was != becomes:
            yield Difference(name, was, becomes)


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner
