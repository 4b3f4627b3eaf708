"""What a form offers to choose from: sources, types, media types, fields and certificates, as they are now.

What a form has chosen already is offered too, when it is there no more: nobody loses a setting by looking at it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from services.console.domain import words
from services.console.domain.forms.form import Form

Record = Mapping[str, Any]

DAYS_OF_MONTH: Final = (("last", "Last day"), *((str(day), str(day)) for day in range(1, 32)))


@dataclass(frozen=True, slots=True)
class Choice:
    """Something to choose; `known` is false for what is there no more."""

    value: str
    label: str
    chosen: bool
    known: bool = True
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A field of the exported rows."""

    name: str
    type: str
    exported: bool
    mask: str
    known: bool = True


@dataclass(frozen=True, slots=True)
class Offer:
    """All that a form offers."""

    sources: Sequence[tuple[str, str]]
    types: Sequence[tuple[str, str]]
    media_types: Sequence[Choice]
    columns: Sequence[Column]
    unreadable: str | None
    """Why the fields of the type can't be read at the moment."""
    recipients: Sequence[Choice]
    allow_plaintext: bool


def first(sources: Sequence[Record]) -> dict[str, str]:
    """The source and type that a new job begins with."""
    for source in sources:
        for type_ in source["types"]:
            return {"source": source["name"], "type": type_["name"]}
    return {}


def offered(form: Form, sources: Sequence[Record], certificates: Iterable[Record]) -> Offer:
    """What `form` offers and what of it is chosen."""
    source, type_ = _chosen(form, sources)
    encryption = form.one("encryption")
    return Offer(
        sources=_options(words.source_options(sources), form.one("source")),
        types=_options([(each["name"], each["title"]) for each in (source or {}).get("types", [])], form.one("type")),
        media_types=_choices(
            [(name, words.title(name)) for name in (type_ or {}).get("media_types", [])], form.every("media")
        ),
        columns=_columns(form, (type_ or {}).get("fields") or []),
        unreadable=(type_ or {}).get("error"),
        recipients=_recipients(form, certificates),
        allow_plaintext=encryption == "none" or bool((source or {}).get("allow_plaintext")),
    )


def fitted(form: Form, sources: Sequence[Record]) -> Form:
    """The form after another source or type was chosen: what those do not know is not chosen any more."""
    source, type_ = _chosen(form, sources)
    if source is None:
        return form
    if type_ is None:
        type_ = source["types"][0]
        form = form.with_values(type=type_["name"])
    media = [name for name in form.every("media") if name in type_["media_types"]]
    form = form.with_values(media=media, media_all="on" if form.has("media_all", "on") or not media else ())
    if type_["fields"] is None:
        return form
    known = {field["name"] for field in type_["fields"]}
    columns = [name for name in form.every("field") if name in known]
    masks = [(column, mask) for column, mask in form.rows("column", "mask") if column in known]
    return form.with_values(
        field=columns, all_fields="on" if form.has("all_fields", "on") or not columns else (),
        column=[column for column, _ in masks], mask=[mask for _, mask in masks],
    )  # fmt: skip


def _chosen(form: Form, sources: Sequence[Record]) -> tuple[Record | None, Record | None]:
    source = next((each for each in sources if each["name"] == form.one("source")), None)
    types = [] if source is None else source["types"]
    return source, next((each for each in types if each["name"] == form.one("type")), None)


def _options(known: list[tuple[str, str]], chosen: str) -> list[tuple[str, str]]:
    if chosen in dict(known):
        return known
    # Without any, the source or the service that knows them is away.
    unknown = f"{words.title(chosen)} (not there any more)" if known else words.title(chosen)
    return [(chosen, unknown) if chosen else ("", "Choose …"), *known]


def _choices(known: Iterable[tuple[str, str]], chosen: Sequence[str]) -> list[Choice]:
    found = [Choice(value, label, value in chosen) for value, label in known]
    values = {choice.value for choice in found}
    return [*found, *(Choice(value, value, True, known=False) for value in chosen if value and value not in values)]


def _columns(form: Form, fields: Sequence[Record]) -> list[Column]:
    masks, exported = dict(form.rows("column", "mask")), form.every("field")
    types = {field["name"]: field["type"] for field in fields}
    gone = [name for name in dict.fromkeys((*exported, *masks)) if name not in types]
    # Fields are exported in the order they are chosen in, so chosen ones stand in theirs.
    chosen = iter([name for name in exported if name in types])
    names = [next(chosen) if name in exported else name for name in types]
    return [
        Column(name, types.get(name, ""), name in exported, masks.get(name, "none"), known=name in types)
        for name in [*names, *gone]
    ]


def _recipients(form: Form, certificates: Iterable[Record]) -> list[Choice]:
    chosen = form.every("recipient")
    found = [
        Choice(each["fingerprint"], each["subject"], each["fingerprint"] in chosen, detail=each["not_after"])
        for each in certificates
        if each["valid"] or each["fingerprint"] in chosen
    ]
    values = {choice.value for choice in found}
    return [*found, *(Choice(value, value, True, known=False) for value in chosen if value not in values)]
