"""What a process makes sure of before it starts: its settings can be read, are all meant, can be used and are safe."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from pydantic import ValidationError
from pydantic_settings import SettingsError

from shared.config import ProcessSettings
from shared.safety import Danger, Fault

S = TypeVar("S", bound=ProcessSettings)

SIMILAR: Final = 0.85
"""One letter too many, too few or wrong in a name of four or more; no two settings are as similar."""
_SERVICE_LINK: Final = re.compile(r"SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?")
"""What Kubernetes tells every container about a Service that is called like one of ours."""


class Unusable(Exception):
    """The settings are no ground to start on; each sentence names a variable and says what to do."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self.sentences = list(sentences)
        super().__init__("\n".join(self.sentences))


@dataclass(frozen=True, slots=True)
class Read(Generic[S]):
    """Settings that a process may start with, and what is to be said about them."""

    settings: S
    taken: tuple[Danger, ...]
    """The risks that `INSECURE` takes."""
    unknown: tuple[str, ...]
    """Variables that look like settings and are none."""


def read(model: type[S]) -> Read[S]:
    """The settings in the environment; raises Unusable unless a process may start with them."""
    try:
        settings = model()  # pyright: ignore[reportCallIssue] - the values come from the environment
    except (ValidationError, SettingsError) as error:
        raise Unusable(sentence(fault, model) for fault in [*misspelt(model), *unreadable(error)]) from error
    faults = [*misspelt(model), *settings.unusable()]
    dangers = [] if faults else list(settings.unsafe())
    refused = [danger for danger in dangers if danger.risk not in settings.insecure]
    if faults or refused:
        raise Unusable([*(sentence(fault, model) for fault in faults), *(refusal(danger, model) for danger in refused)])
    return Read(settings, tuple(danger for danger in dangers if danger not in refused), tuple(unknown(model)))


def unreadable(error: ValidationError | SettingsError) -> Iterator[Fault]:
    """What keeps settings from being read; never says what they hold."""
    if isinstance(error, SettingsError):
        match re.findall(r'error (getting|parsing) value for field "(\w+)"', str(error)):
            case [("parsing", field)]:
                yield Fault(field, "is not JSON", 'write it as JSON, such as {"name": "value"}, in quotes of the shell')
            case [(_, field)]:
                yield Fault(field, "is in a file that is no text", "write it as UTF-8")
            case _:
                yield Fault("", str(error))
        return
    for problem in error.errors(include_input=False, include_url=False):
        setting, *inside = (str(part) for part in problem["loc"]) if problem["loc"] else ("",)
        if problem["type"] == "missing":
            yield Fault(setting, "is not set", "set it for this service")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            said = message if message[:2].isupper() else message[0].lower() + message[1:]
            yield Fault(setting, ": ".join([*inside, said]))


def unknown(model: type[ProcessSettings], environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Variables, and files of secrets, that begin like the service's settings and are none."""
    for name, rest in _strangers(model, environment):
        if not _meant(rest, model):
            yield name


def misspelt(model: type[ProcessSettings], environment: Mapping[str, str] = os.environ) -> Iterator[Fault]:
    """Those that are almost the name of a setting: it would silently keep its default."""
    for name, rest in _strangers(model, environment):
        if near := _meant(rest, model):
            yield Fault(name, f"is no setting; {near.upper()} may be meant", "correct or remove it")


def _strangers(model: type[ProcessSettings], environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    prefix = _prefix(model)
    names = set(environment)
    if folder := environment.get("CDDS_SECRETS"):
        names |= {file.name for file in Path(folder).glob("*") if file.is_file()}
    for name in sorted(names):
        rest = name.upper().removeprefix(prefix)
        if rest != name.upper() and rest.lower() not in model.model_fields and not _SERVICE_LINK.fullmatch(rest):
            yield name, rest.lower()


def _meant(name: str, model: type[ProcessSettings]) -> str | None:
    return next(iter(difflib.get_close_matches(name, model.model_fields, 1, SIMILAR)), None)


def sentence(fault: Fault, model: type[ProcessSettings]) -> str:
    """`CDDS_EXPORTER_SOURCES: what is wrong; what to do`, in one line."""
    said = "; ".join(in_full(part, model) for part in (fault.message, fault.remedy) if part)
    return f"{variable(fault.setting, model)}: {said}" if fault.setting else said


def refusal(danger: Danger, model: type[ProcessSettings]) -> str:
    """The sentence for a risk that nobody has taken."""
    trusted = f"{danger.remedy}, or, where the network is trusted, add {danger.risk} to INSECURE"
    return sentence(Fault(danger.setting, danger.message, trusted), model)


def variable(setting: str, model: type[ProcessSettings]) -> str:
    """The environment variable of a setting; a name that is none of the model's stays as it is."""
    return _prefix(model) + setting.upper() if setting in model.model_fields else setting


def in_full(text: str, model: type[ProcessSettings]) -> str:
    """`text` in one line, with the settings it names as environment variables."""

    def full(match: re.Match[str]) -> str:
        return variable(match[0].lower(), model) if match[0].lower() in model.model_fields else match[0]

    return re.sub(r"\b[A-Z][A-Z_]+\b", full, " ".join(text.split()))


def _prefix(model: type[ProcessSettings]) -> str:
    return model.model_config.get("env_prefix", "").upper()
