"""The jobs that files say there should be."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cli import documents, settings
from cli.documents import STANDARD_INPUT, FileFault, FilesRefused, Written
from shared.jobs import JobSettings

_ENDINGS: Final = frozenset({".yaml", ".yml", ".json"})
_FORM: Final = "Write `jobs:` with a list of jobs under it."


@dataclass(frozen=True, slots=True)
class Wanted:
    """A job as a file has it."""

    settings: JobSettings
    content: Any
    """What was written, which leaves the defaults to the service."""
    written: Written
    pointer: str

    @property
    def key(self) -> str:
        """Its name."""
        assert self.settings.key is not None
        return self.settings.key

    @property
    def place(self) -> str:
        """Where it is written."""
        line = self.written.lines.get(self.pointer)
        return self.written.file if line is None else f"{self.written.file}:{line}"


def read(paths: Sequence[Path]) -> list[Wanted]:
    """The jobs of all files, and of all that are in folders. Raises FilesRefused with all that is wrong."""
    found: list[Wanted] = []
    faults: list[FileFault] = []
    for path in _files(paths):
        try:
            for one in _jobs(documents.read(path)):
                if isinstance(one, Wanted):
                    found.append(one)
                else:
                    faults.append(one)
        except FilesRefused as refused:
            faults.extend(refused.faults)
    faults.extend(_same_keys(found))
    if faults:
        raise FilesRefused(faults)
    return found


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path == STANDARD_INPUT or not path.is_dir():
            yield path
            continue
        files = sorted(file for file in path.iterdir() if file.suffix in _ENDINGS and file.is_file())
        if not files:
            raise FilesRefused([Written(str(path), None).fault("/", "has no files", "Add .yaml, .yml or .json files.")])
        yield from files


def _jobs(written: Written) -> Iterator[Wanted | FileFault]:
    content = written.content
    if not isinstance(content, dict):
        yield written.fault("/", "has no `jobs:`", _FORM)
        return
    unknown = [name for name in content if name != "jobs"]
    if "jobs" not in content:
        yield written.fault("/", "has no `jobs:`", _FORM)
        return
    for name in unknown:
        yield written.fault(f"/{name}", "does not belong here", _FORM)
    if not isinstance(content["jobs"], list):
        yield written.fault("/jobs", "is no list", _FORM)
        return
    for number, job in enumerate(content["jobs"]):
        yield from _job(written, job, f"/jobs/{number}")


def _job(written: Written, content: Any, pointer: str) -> Iterable[Wanted | FileFault]:
    found = settings.checked(written, content, pointer)
    keyless = isinstance(content, dict) and content.get("key") is None
    faults = [] if isinstance(found, JobSettings) else found
    if keyless:
        faults.append(written.fault(f"{pointer}/key", "is missing", "Give the job a key, by which it is known here."))
    if faults or not isinstance(found, JobSettings):
        return faults
    return [Wanted(found, content, written, pointer)]


def _same_keys(found: Iterable[Wanted]) -> Iterator[FileFault]:
    first: dict[str, Wanted] = {}
    for one in found:
        known = first.setdefault(one.key, one)
        if known is not one:
            message = f"the key {one.key} belongs to the job in {known.place}, too"
            yield one.written.fault(f"{one.pointer}/key", message, "Give each job a key of its own.")
