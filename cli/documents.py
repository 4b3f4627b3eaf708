"""Files that people write, YAML or JSON, with the line of everything in them.

YAML as its version 1.2 reads it, of which JSON is a part: `06:30`, `on` and timestamps are text, and nothing but
`true`, `false`, `null` and numbers is anything else. One document a file.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from cli.client import Fault
from cli.console import Failure

STANDARD_INPUT: Final = Path("-")
_MAX_NODES: Final = 500_000
"""Some 15,000 jobs; aliases of aliases are counted as what they stand for."""
_MAX_DEPTH: Final = 50
_NULL, _BOOL, _INT, _FLOAT, _TEXT = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str"))


_COLLECTIONS: Final = frozenset({"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})


class _Loader(yaml.CSafeLoader):
    """Resolves plain scalars by the core schema of YAML 1.2; PyYAML's own is 1.1, where `06:30` is the number 390."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - the class is PyYAML's


class _Dumper(yaml.CSafeDumper):
    """Writes for readers of either version: text that one of them would take for something else is quoted."""

    def ignore_aliases(self, data: object) -> bool:
        """Write what occurs twice twice."""
        return True


_CORE: Final = (
    (_NULL, r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    (_BOOL, r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    (_INT, r"^[-+]?[0-9]{1,20}$", list("-+0123456789")),
    (_FLOAT, r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
)
for _tag, _form, _first in _CORE:
    _Loader.add_implicit_resolver(_tag, re.compile(_form), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(_form), _first)


def _text(dumper: _Dumper, text: str) -> ScalarNode:
    return dumper.represent_scalar(_TEXT, text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


@dataclass(frozen=True, slots=True)
class FileFault:
    """What is wrong in a file, and where."""

    file: str
    line: int | None
    fault: Fault

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.fault}"

    def document(self) -> Mapping[str, object]:
        """The fault for programs."""
        return {
            "file": self.file, "line": self.line, "pointer": self.fault.pointer, "message": self.fault.message,
            "remedy": self.fault.remedy,
        }  # fmt: skip


class FilesRefused(Failure):
    """What was written can't be used."""

    def __init__(self, faults: Iterable[FileFault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


@dataclass(frozen=True, slots=True)
class Written:
    """A file: its content, and the line where each part of it begins, by JSON pointer."""

    file: str
    content: Any
    lines: Mapping[str, int] = field(default_factory=dict[str, int])

    def fault(self, pointer: str, message: str, remedy: str) -> FileFault:
        """What is wrong with the part at the pointer; what is missing, with what it is missing in."""
        place = pointer
        while place and place not in self.lines:
            place = place.rpartition("/")[0]
        return FileFault(self.file, self.lines.get(place), Fault(pointer or "/", message, remedy))


def read(path: Path) -> Written:
    """A file, `-` for standard input. Raises FilesRefused."""
    file = "standard input" if path == STANDARD_INPUT else str(path)
    try:
        content = sys.stdin.buffer.read() if path == STANDARD_INPUT else path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise _unreadable(file, None, (error.strerror or str(error)).lower(), "Check the path.") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _unreadable(file, line, "is not UTF-8", "Save the file in UTF-8.") from error
    return parse(text, file)


def parse(text: str, file: str) -> Written:
    """The one document in `text`. Raises FilesRefused."""
    if text.lstrip()[:1] in ("{", "["):
        text = _json_as_yaml(text)
    try:
        nodes = list(yaml.compose_all(text, _Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        line = None if mark is None else mark.line + 1
        raise _unreadable(file, line, f"is not YAML: {said}", "Correct the syntax.") from error
    except (yaml.YAMLError, RecursionError) as error:
        said = str(error).splitlines()[0]
        raise _unreadable(file, None, f"is not YAML: {said}", "Correct the syntax.") from error
    if len(nodes) != 1 or nodes[0] is None:
        line = nodes[1].start_mark.line + 1 if len(nodes) > 1 and nodes[1] is not None else None
        said = "is empty" if len(nodes) < 2 else "has several documents"
        raise _unreadable(file, line, said, "Put one document into a file.")
    reading = _Reading(file)
    found = reading.value(nodes[0], "", 0)
    if reading.faults:
        raise FilesRefused(reading.faults)
    return Written(file, found, reading.lines)


def value(text: str) -> Any:
    """A value as it may be written behind `name:`. Raises ValueError."""
    try:
        return parse(text, "").content if text.strip() else None
    except FilesRefused as refused:
        raise ValueError(refused.faults[0].fault.message) from refused


def write(content: object) -> str:
    """`content` as YAML."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _unreadable(file: str, line: int | None, message: str, remedy: str) -> FilesRefused:
    return FilesRefused([FileFault(file, line, Fault("/", message, remedy))])


def _json_as_yaml(text: str) -> str:
    """JSON without what YAML reads otherwise: tabs that indent, signs it does not print, and signs escaped as pairs."""
    text = re.sub(r"(?m)^[ \t]+", lambda found: " " * len(found[0]), text)
    text = re.sub(r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text)
    return re.sub(
        r"\\\\|\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})",
        lambda found: found[0] if found[1] is None else bytes.fromhex(found[1] + found[2]).decode("utf-16-be"),
        text,
    )


@dataclass(slots=True)
class _Reading:
    """Turns nodes into values, remembers their lines, and collects what is no JSON."""

    file: str
    lines: dict[str, int] = field(default_factory=dict[str, int])
    faults: list[FileFault] = field(default_factory=list[FileFault])
    nodes: int = 0

    def value(self, node: Node, pointer: str, depth: int) -> Any:
        self.lines.setdefault(pointer, node.start_mark.line + 1)
        self.nodes += 1
        if depth > _MAX_DEPTH:
            top = "/".join(pointer.split("/")[:3])
            raise FilesRefused([self._fault(node, top, "is nested too deeply", "An alias may not contain itself.")])
        if self.nodes > _MAX_NODES:
            raise FilesRefused([self._fault(node, pointer, "is too much for one file", "Use several files.")])
        if not isinstance(node, ScalarNode) and node.tag not in _COLLECTIONS:
            self.faults.append(self._fault(node, pointer, f"has the tag {node.tag}", "Write the value without it."))
        match node:
            case MappingNode():
                return self._mapping(node, pointer, depth)
            case SequenceNode():
                return [self.value(item, f"{pointer}/{number}", depth + 1) for number, item in enumerate(node.value)]
            case _:
                return self._scalar(node, pointer)

    def _mapping(self, node: MappingNode, pointer: str, depth: int) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        pairs: Sequence[tuple[Node, Node]] = node.value
        for key, inner in pairs:
            if not isinstance(key, ScalarNode):
                self.faults.append(self._fault(key, pointer, "has a key that is no text", "Use a name as the key."))
                continue
            name = str(key.value)
            place = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
            if name in found:
                first = self.lines[place]
                self.faults.append(self._fault(key, place, f"is written twice, first in line {first}", "Keep one."))
                continue
            self.lines[place] = key.start_mark.line + 1
            found[name] = self.value(inner, place, depth + 1)
        return found

    def _scalar(self, node: Node, pointer: str) -> object:
        text = str(node.value)
        if node.tag == _TEXT:
            return text
        if node.tag == _NULL:
            return None
        if node.tag == _BOOL:
            return text.lower() == "true"
        if node.tag == _INT:
            return int(text)
        if node.tag == _FLOAT:
            return float(text)
        self.faults.append(self._fault(node, pointer, f"has the tag {node.tag}", "Write the value without it."))
        return None

    def _fault(self, node: Node, pointer: str, message: str, remedy: str) -> FileFault:
        return FileFault(self.file, node.start_mark.line + 1, Fault(pointer or "/", message, remedy))
