"""The form that asks for past data again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.console.domain.forms import values
from services.console.domain.forms.faults import Fault
from services.console.domain.forms.form import Form
from services.console.domain.forms.values import Unreadable


@dataclass(frozen=True, slots=True)
class Wish:
    """What to ask the API for, as far as it could be read, and what could not."""

    body: dict[str, Any]
    faults: tuple[Fault, ...]


def form_of(query: Mapping[str, str]) -> Form:
    """The form as an address such as the coverage calendar's fills it in: `from` and `to` as timestamps or dates."""
    shown: dict[str, str] = {
        "reprocess": query.get("reprocess", "missing"),
        "max_parallel": query.get("max_parallel", "1"),
    }
    for name in ("from", "to"):
        shown[f"{name}_date"], shown[f"{name}_time"] = values.moment_inputs(query.get(name, ""), end=name == "to")
    return Form.shown(**shown)


def wish_of(form: Form) -> Wish:
    """What the form says."""
    body: dict[str, Any] = {"reprocess": form.one("reprocess") or "missing"}
    faults: list[Fault] = []
    for name in ("from", "to"):
        try:
            body[name] = values.moment(form.one(f"{name}_date"), form.one(f"{name}_time"), end=name == "to")
        except Unreadable as error:
            faults.append(Fault(f"/{name}", str(error)))
    try:
        body["max_parallel"] = values.whole(form.one("max_parallel"))
    except Unreadable as error:
        faults.append(Fault("/max_parallel", str(error), "Use 1 to 16."))
    return Wish(body, tuple(faults))
