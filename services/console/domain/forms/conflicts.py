"""Two people changed a job: what differs, and which of it to keep."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from services.console.domain import schedules, shown, words
from services.console.domain.forms.faults import INPUTS
from shared.jobs import JobSettings

Settings = Mapping[str, Any]

_UNSET: Final = "–"


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that two people want otherwise."""

    name: str
    label: str
    mine: str
    theirs: str
    changed_by_me: bool
    """Whether the form changed it; otherwise only the other one did."""


def differences(before: Settings, mine: Settings, theirs: Settings) -> list[Difference]:
    """What differs between a form that began with `before` and what was saved meanwhile."""
    begun, here, there = full(before), full(mine), full(theirs)
    return [
        Difference(
            name, INPUTS.get(f"/{name}", ("", name))[1], told(name, here), told(name, there),
            here.get(name) != begun.get(name),
        )
        for name in [*JobSettings.model_fields, *sorted((here.keys() | there.keys()) - JobSettings.model_fields.keys())]
        if here.get(name) != there.get(name)
    ]  # fmt: skip


def combined(mine: Settings, theirs: Settings, keep: Collection[str]) -> dict[str, Any]:
    """What was saved meanwhile, with those settings of mine that are to be kept."""
    here = full(mine)
    kept = {name: here[name] for name in keep if name in here}
    return {**theirs, **kept}


def full(settings: Settings) -> dict[str, Any]:
    """The settings with every default in its place, so that they compare; as they are when they are none."""
    try:
        found: dict[str, Any] = JobSettings.model_validate(settings).model_dump(mode="json")
    except ValidationError:
        return dict(settings)
    return found


def told(name: str, settings: Settings) -> str:
    """A setting in a line.

    >>> told("split_bytes", {"split_bytes": 1048576}), told("labels", {"labels": {"team": "a"}}), told("key", {})
    ('1 MiB', 'team: a', '–')
    """
    value = settings.get(name)
    if value in (None, "", [], {}):
        return _UNSET
    match name, value:
        case "schedule", dict():
            return schedules.described({**settings, "start": settings.get("start")})
        case "timeframe", dict():
            return schedules.timeframe(settings)
        case (("source" | "type"), str()):
            return words.title(value)
        case (("start" | "ends_at"), str()):
            return "Immediately" if value == "immediately" else f"{shown.utc(value)} UTC"
        case "split_bytes", int():
            return shown.size(value)
        case _, bool():
            return "Yes" if value else "No"
        case _, str() | int():
            return str(value)
        case _, list():
            return ", ".join(map(str, value))
        case _, dict():
            return ", ".join(f"{key}: {inner}" for key, inner in value.items())
        case _:
            return json.dumps(value)
