"""What is wrong with which input, in the words of its label."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

INPUTS: Final[Mapping[str, tuple[str, str]]] = {
    "/title": ("title", "Title"),
    "/description": ("description", "Description"),
    "/source": ("source", "Source"),
    "/type": ("type", "Type"),
    "/media_types": ("media", "Media types"),
    "/schedule": ("schedule_kind", "Schedule"),
    "/schedule/every": ("every", "Every"),
    "/schedule/at": ("at", "Time of day"),
    "/schedule/days": ("days", "Days of the week"),
    "/schedule/day": ("day", "Day of the month"),
    "/schedule/expression": ("expression", "Cron expression"),
    "/start": ("start_kind", "Start"),
    "/ends_at": ("ends_date", "Ends"),
    "/timeframe": ("timeframe_kind", "Export timeframe"),
    "/timeframe/count": ("count", "How many units"),
    "/timeframe/unit": ("unit", "Unit of the timeframe"),
    "/timeframe/from": ("from_date", "Start of the timeframe"),
    "/timeframe/to": ("to_date", "End of the timeframe"),
    "/since": ("since_date", "First run from"),
    "/split_bytes": ("split_number", "File split size"),
    "/format": ("format", "Format"),
    "/csv_profile": ("csv_profile", "CSV for"),
    "/fields": ("fields", "Fields"),
    "/masking": ("fields", "Masking"),
    "/attachments": ("attachments", "Attachments"),
    "/encryption": ("encryption", "Encryption"),
    "/recipients": ("recipients", "Recipients"),
    "/overlap": ("overlap", "When a run is still open"),
    "/catchup": ("catchup_mode", "Catch-up"),
    "/catchup/window": ("window_number", "Catch-up window"),
    "/jitter": ("jitter_number", "Jitter"),
    "/retry/attempts": ("attempts", "Attempts"),
    "/retry/backoff": ("backoff_number", "Wait between attempts"),
    "/pause_after_failures": ("pause_after_failures", "Suspend after failures"),
    "/key": ("key", "Key"),
    "/labels": ("labels", "Labels"),
    "/from": ("from_date", "Start"),
    "/to": ("to_date", "End"),
    "/reprocess": ("reprocess", "Which slots"),
    "/max_parallel": ("max_parallel", "Runs at a time"),
}
"""Where a JSON pointer leads: the input, and its name for people."""

SHAPES: Final = {
    "title": "must be one line of text",
    "key": "must be letters, digits, dots, dashes and underscores, at most 100, beginning with a letter or digit",
    "labels": "must have names of lower-case letters, digits and underscores, and values of one line",
}
"""What a regular expression means in words."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a value, and what to do about it."""

    pointer: str
    message: str
    remedy: str = ""

    @property
    def input(self) -> str:
        """The input it belongs to; empty for what belongs to none."""
        return _place(self.pointer)[0]

    @property
    def label(self) -> str:
        """The name of that input."""
        return _place(self.pointer)[1]

    @property
    def sentence(self) -> str:
        """The message and the remedy as people read them."""
        return " ".join(_sentence(part) for part in (self.message, self.remedy) if part)


def faults_of(errors: Iterable[Mapping[str, str]], *, since_last_run: bool = False) -> list[Fault]:
    """The faults that a service found, each at the input that can mend it."""
    return [_fault(error["pointer"], error["message"], error.get("remedy", ""), since_last_run) for error in errors]


def by_input(faults: Iterable[Fault]) -> dict[str, str]:
    """What each input shows."""
    told: dict[str, str] = {}
    for fault in faults:
        told[fault.input] = " ".join(filter(None, (told.get(fault.input), fault.sentence)))
    return told


def _fault(pointer: str, message: str, remedy: str, since_last_run: bool) -> Fault:
    aimed = _aimed(pointer, message, since_last_run)
    shape = SHAPES.get(aimed.split("/")[1]) if message.startswith("String should match") else None
    return Fault(aimed, shape, "") if shape else Fault(aimed, message.replace("`", ""), remedy.replace("`", ""))


def _aimed(pointer: str, message: str, since_last_run: bool) -> str:
    pointer = pointer.removeprefix("/settings") or "/"
    if pointer == "/timeframe/from" and since_last_run:
        return "/since"
    if pointer.count("/") == 1:
        # What is wrong with several values together says in its message which of them are meant.
        inside = "" if pointer == "/" else pointer
        for named in re.findall(r"`(\w+)`", message):
            if f"{inside}/{named}" in INPUTS:
                return f"{inside}/{named}"
    return pointer


def _place(pointer: str) -> tuple[str, str]:
    while pointer and pointer != "/":
        if pointer in INPUTS:
            return INPUTS[pointer]
        pointer = pointer.rpartition("/")[0]
    return "", "The job"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"
