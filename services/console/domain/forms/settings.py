"""Form -> settings, exactly as the API takes them, and settings -> form.

What an input does not change stays as it was: a setting whose inputs say the same as before is taken over from the
settings that the form was made of, even when inputs can't say all of it; one that was left out stays left out, so that
the API's own defaults hold, which depend on the timeframe.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from services.console.domain.forms import values
from services.console.domain.forms.faults import Fault
from services.console.domain.forms.form import Form
from services.console.domain.forms.values import Unreadable

Settings = Mapping[str, Any]

WEEK: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
FRESH: Final[Settings] = {
    "schedule": {"kind": "daily", "at": "02:00"},
    "timeframe": {"kind": "last", "count": 1, "unit": "day", "align": True},
}
"""What a new job begins with."""
MANDATORY: Final = {
    "title": "Give the job a title.",
    "source": "Choose one.",
    "type": "Choose one.",
    "schedule": "Choose when it runs.",
    "timeframe": "Choose which data it exports.",
}
_LISTS: Final = frozenset({"media_types", "fields", "recipients"})
"""Choices among things whose order says nothing."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The settings that a form says, as far as they could be read, and what could not."""

    settings: dict[str, Any]
    faults: tuple[Fault, ...]


def settings_of(form: Form, before: Settings) -> Reading:
    """The settings after a person changed the form that showed `before`."""
    mine, unread = _read(form)
    shown, _ = _read(Form.sent((name, value) for name, texts in form_of(before).values.items() for value in texts))
    settings: dict[str, Any] = {name: value for name, value in before.items() if name not in _READERS}
    for name in _READERS:
        if _same(name, mine.get(name), shown.get(name)):
            if name in before:
                settings[name] = before[name]
        elif name in mine:
            settings[name] = mine[name]
    missing = {
        name: (Fault(f"/{name}", "is missing", remedy),)
        for name, remedy in MANDATORY.items()
        if not settings.get(name) and name not in unread
    }
    # In the order of the page, which is that of the settings.
    faults = [fault for name in _READERS for fault in ({**missing, **unread}).get(name, ())]
    return Reading(settings, tuple(faults))


def _same(name: str, mine: Any, shown: Any) -> bool:
    if name in _LISTS and isinstance(mine, list) and isinstance(shown, list):
        return Counter(mine) == Counter(shown)
    return bool(mine == shown)


# --- form -> settings ---------------------------------------------------------------------------------------------


class _Wrong(Exception):
    """Inputs that can't be read."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(faults)
        self.faults = faults


_ABSENT: Final = object()
"""A setting that the form leaves to the API's default."""


def _read(form: Form) -> tuple[dict[str, Any], dict[str, tuple[Fault, ...]]]:
    """What each setting's inputs say, and by its name what is wrong with them."""
    settings: dict[str, Any] = {}
    faults: dict[str, tuple[Fault, ...]] = {}
    for name, reader in _READERS.items():
        try:
            value = reader(form)
        except _Wrong as wrong:
            faults[name] = wrong.faults
        else:
            if value is not _ABSENT:
                settings[name] = value
    return settings, faults


def _at(pointer: str, read: Callable[[], Any], remedy: str = "") -> Any:
    try:
        return read()
    except Unreadable as error:
        raise _Wrong(Fault(pointer, str(error), remedy)) from error


def _media_types(form: Form) -> Any:
    if form.has("media_all", "on"):
        return "all"
    chosen = list(form.every("media"))
    if not chosen:
        raise _Wrong(Fault("/media_types", "none is chosen", "Choose at least one, or let the job apply to all."))
    return chosen


def _schedule(form: Form) -> Any:
    kind = form.one("schedule_kind")
    match kind:
        case "":
            return _ABSENT
        case "hourly":
            return {"kind": kind, "every": _at("/schedule/every", lambda: values.whole(form.one("every")))}
        case "daily":
            return {"kind": kind, "at": _time_of_day(form)}
        case "weekly":
            days = [day for day in WEEK if form.has("days", day)]
            if not days:
                raise _Wrong(Fault("/schedule/days", "none is chosen", "Choose at least one day."))
            return {"kind": kind, "days": days, "at": _time_of_day(form)}
        case "monthly":
            day = form.one("day")
            number = day if day == "last" else _at("/schedule/day", lambda: values.whole(day), "Use 1 to 31 or last.")
            return {"kind": kind, "day": number, "at": _time_of_day(form)}
        case "cron":
            expression = form.one("expression")
            if not expression:
                raise _Wrong(
                    Fault("/schedule/expression", "is missing", "Write five fields, such as 30 2 * * mon-fri.")
                )
            return {"kind": kind, "expression": expression}
        case _:
            return {"kind": kind}


def _time_of_day(form: Form) -> str:
    if not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", at := form.one("at")):
        raise _Wrong(Fault("/schedule/at", "must be a time" if at else "is missing", "Use a UTC time such as 02:30."))
    return at


def _start(form: Form) -> Any:
    match form.one("start_kind"):
        case "immediately":
            return "immediately"
        case "at":
            remedy = "Choose a UTC date and time."
            return _at("/start", lambda: values.moment(form.one("start_date"), form.one("start_time")), remedy)
        case _ if form.one("schedule_kind") == "once":
            raise _Wrong(Fault("/start", "is not chosen", "A one-time job starts immediately or at a UTC time."))
        case _:
            return None


def _ends_at(form: Form) -> Any:
    if form.one("schedule_kind") == "once" or not (form.one("ends_date") or form.one("ends_time")):
        return None
    return _at("/ends_at", lambda: values.moment(form.one("ends_date"), form.one("ends_time"), end=True))


def _timeframe(form: Form) -> Any:
    kind = form.one("timeframe_kind")
    match kind:
        case "":
            return _ABSENT
        case "last":
            count = _at("/timeframe/count", lambda: values.whole(form.one("count")), "Use 1 to 1,000.")
            return {"kind": kind, "count": count, "unit": form.one("unit"), "align": form.has("align", "on")}
        case "fixed":
            found: dict[str, str] = {"kind": kind}
            faults: list[Fault] = []
            for name in ("from", "to"):
                try:
                    found[name] = values.moment(form.one(f"{name}_date"), form.one(f"{name}_time"), end=name == "to")
                except Unreadable as error:
                    faults.append(Fault(f"/timeframe/{name}", str(error)))
            if faults:
                raise _Wrong(*faults)
            return found
        case "since_last_run":
            since = _at("/since", lambda: values.moment(form.one("since_date"), form.one("since_time")))
            return {"kind": kind, "from": since}
        case _:
            return {"kind": kind}


def _split_bytes(form: Form) -> Any:
    number = form.one("split_number")
    remedy = "Use a size from 64 KiB to 1 GiB, or leave it empty."
    return _at("/split_bytes", lambda: values.size(number, form.one("split_unit")), remedy) if number else None


def _fields(form: Form) -> Any:
    if form.has("all_fields", "on"):
        return None
    chosen = list(form.every("field"))
    if not chosen:
        raise _Wrong(Fault("/fields", "none is chosen", "Choose at least one, or export all of them."))
    return chosen


def _masking(form: Form) -> Any:
    exported = None if form.has("all_fields", "on") else form.every("field")
    return {
        column: mask
        for column, mask in form.rows("column", "mask")
        if mask not in ("", "none") and (exported is None or column in exported)
    }


def _attachments(form: Form) -> Any:
    return {"yes": True, "no": False}.get(form.one("attachments"))


def _recipients(form: Form) -> Any:
    if form.has("all_recipients", "on") or form.one("encryption") == "none":
        return None
    chosen = list(form.every("recipient"))
    if not chosen:
        raise _Wrong(Fault("/recipients", "none is chosen", "Choose at least one, or encrypt for all certificates."))
    return chosen


def _duration(form: Form, name: str, pointer: str) -> Any:
    number = form.one(f"{name}_number")
    return _at(pointer, lambda: values.duration(number, form.one(f"{name}_unit"))) if number else _ABSENT


def _catchup(form: Form) -> Any:
    window = _duration(form, "window", "/catchup/window")
    return _present(mode=form.one("catchup_mode") or _ABSENT, window=window)


def _retry(form: Form) -> Any:
    attempts = form.one("attempts")
    return _present(
        attempts=_at("/retry/attempts", lambda: values.whole(attempts), "Use 1 to 10.") if attempts else _ABSENT,
        backoff=_duration(form, "backoff", "/retry/backoff"),
    )


def _present(**parts: Any) -> Any:
    return {name: value for name, value in parts.items() if value is not _ABSENT} or _ABSENT


def _pause_after_failures(form: Form) -> Any:
    number = form.one("pause_after_failures")
    remedy = "Use a number from 1, or leave it empty."
    return _at("/pause_after_failures", lambda: values.whole(number), remedy) if number else None


def _labels(form: Form) -> Any:
    labels: dict[str, str] = {}
    for typed, value in form.rows("label_name", "label_value"):
        name = typed.strip()
        if not name:
            raise _Wrong(Fault("/labels", f"the value {value!r} has no name", "Give it one, or clear the value."))
        if name in labels:
            raise _Wrong(Fault("/labels", f"{name} is there twice", "Use each name once."))
        labels[name] = value
    return labels


def _text(name: str) -> Callable[[Form], Any]:
    return lambda form: form.text(name)


def _choice(name: str) -> Callable[[Form], Any]:
    return lambda form: form.one(name) or _ABSENT


_READERS: Final[Mapping[str, Callable[[Form], Any]]] = {
    "key": lambda form: form.one("key") or None,
    "title": _choice("title"),
    "description": _text("description"),
    "source": _choice("source"),
    "type": _choice("type"),
    "media_types": _media_types,
    "schedule": _schedule,
    "start": _start,
    "ends_at": _ends_at,
    "timeframe": _timeframe,
    "split_bytes": _split_bytes,
    "format": _choice("format"),
    "csv_profile": _choice("csv_profile"),
    "fields": _fields,
    "masking": _masking,
    "attachments": _attachments,
    "encryption": _choice("encryption"),
    "recipients": _recipients,
    "overlap": _choice("overlap"),
    "catchup": _catchup,
    "jitter": lambda form: _duration(form, "jitter", "/jitter"),
    "retry": _retry,
    "pause_after_failures": _pause_after_failures,
    "labels": _labels,
}


# --- settings -> form ---------------------------------------------------------------------------------------------


def form_of(settings: Settings) -> Form:
    """The form that shows `settings`; what they leave out is shown as its default."""
    return Form.shown(**dict(_inputs(settings)))


def _inputs(settings: Settings) -> Iterator[tuple[str, Any]]:
    for name in ("key", "title", "description", "source", "type"):
        yield name, settings.get(name) or ""
    yield from _chosen(
        "media_all", "media", None if settings.get("media_types", "all") == "all" else settings["media_types"]
    )
    yield from _schedule_inputs(settings)
    yield from _timeframe_inputs(settings.get("timeframe") or {})
    split = settings.get("split_bytes")
    yield from zip(
        ("split_number", "split_unit"), ("", "MiB") if split is None else values.size_inputs(split), strict=True
    )
    yield "format", settings.get("format", "jsonl")
    yield "csv_profile", settings.get("csv_profile", "spreadsheet")
    masking: Mapping[str, str] = settings.get("masking") or {}
    yield from _chosen("all_fields", "field", settings.get("fields"))
    yield "column", tuple(masking)
    yield "mask", tuple(masking.values())
    attachments = settings.get("attachments")
    yield "attachments", "" if attachments is None else "yes" if attachments else "no"
    yield "encryption", settings.get("encryption", "gcm")
    yield from _chosen("all_recipients", "recipient", settings.get("recipients"))
    yield from _policy_inputs(settings)
    labels: Mapping[str, str] = settings.get("labels") or {}
    yield "label_name", tuple(labels)
    yield "label_value", tuple(labels.values())


def _chosen(everything: str, name: str, chosen: Any) -> Iterator[tuple[str, Any]]:
    """A switch for all, and what is chosen when it is off."""
    yield everything, "on" if chosen is None else ()
    yield name, () if chosen is None else tuple(chosen)


def _schedule_inputs(settings: Settings) -> Iterator[tuple[str, Any]]:
    schedule = settings.get("schedule") or {}
    yield "schedule_kind", schedule.get("kind", "")
    yield "every", str(schedule.get("every", 1))
    yield "at", schedule.get("at", "02:00")
    yield "days", tuple(schedule.get("days", ("mon",)))
    yield "day", str(schedule.get("day", "last"))
    yield "expression", schedule.get("expression", "")
    start = settings.get("start")
    yield "start_kind", "none" if start is None else "immediately" if start == "immediately" else "at"
    yield from _moment("start", None if start == "immediately" else start)
    yield from _moment("ends", settings.get("ends_at"), end=True)


def _timeframe_inputs(timeframe: Settings) -> Iterator[tuple[str, Any]]:
    kind = timeframe.get("kind", "")
    yield "timeframe_kind", kind
    yield "count", str(timeframe.get("count", 1))
    yield "unit", timeframe.get("unit", "day")
    yield "align", "on" if timeframe.get("align", True) else ()
    fixed = timeframe if kind == "fixed" else {}
    yield from _moment("from", fixed.get("from"))
    yield from _moment("to", fixed.get("to"), end=True)
    yield from _moment("since", timeframe.get("from") if kind == "since_last_run" else None)


def _policy_inputs(settings: Settings) -> Iterator[tuple[str, Any]]:
    catchup, retry = settings.get("catchup") or {}, settings.get("retry") or {}
    yield "overlap", settings.get("overlap", "")
    yield "catchup_mode", catchup.get("mode", "")
    yield "attempts", str(retry.get("attempts", 3))
    for name, text in (
        ("window", catchup.get("window", "P7D")), ("jitter", settings.get("jitter", "PT0S")),
        ("backoff", retry.get("backoff", "PT1M")),
    ):  # fmt: skip
        number, unit = values.duration_inputs(text)
        yield f"{name}_number", number
        yield f"{name}_unit", unit
    pause = settings.get("pause_after_failures")
    yield "pause_after_failures", "" if pause is None else str(pause)


def _moment(name: str, text: str | None, *, end: bool = False) -> Iterator[tuple[str, Any]]:
    day, at = ("", "") if text is None else values.moment_inputs(text, end=end)
    yield f"{name}_date", day
    yield f"{name}_time", at
