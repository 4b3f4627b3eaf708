"""Settings of jobs as people write them: checked as the service does, and written with no more than is needed."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from cli import documents
from cli.client import Client, Document, Fault, Refused
from cli.console import Failure
from cli.documents import FileFault, FilesRefused, Written
from services.job_api.domain.errors import SettingsMalformed
from services.job_api.domain.settings import merged as apply_patch
from shared.jobs import JobSettings

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="Settings of one job, YAML or JSON; - for standard input.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Such as title=Nightly or retry.attempts=5; null takes it out."),
]


def checked(written: Written, content: Any, pointer: str = "") -> JobSettings | list[FileFault]:
    """The settings at the pointer of a file, or what is wrong with their form."""
    try:
        return JobSettings.model_validate(content)
    except ValidationError as error:
        return [
            written.fault(pointer + fault.pointer.rstrip("/"), fault.message, fault.remedy)
            for fault in _explained(error, content)
        ]


def read(path: Path) -> tuple[Written, JobSettings]:
    """The file with the settings of one job. Raises FilesRefused."""
    written = documents.read(path)
    found = checked(written, written.content)
    if isinstance(found, JobSettings):
        return written, found
    raise FilesRefused(found)


@contextmanager
def in_file(written: Written, pointer: str = "") -> Generator[None]:
    """What the service refuses inside is told of with its place in the file."""
    try:
        yield
    except Refused as refused:
        if not refused.faults:
            raise
        raise FilesRefused(
            written.fault(pointer + fault.pointer.removeprefix("/settings"), fault.message, fault.remedy)
            for fault in refused.faults
        ) from refused


def of(job: Document) -> JobSettings:
    """The settings of a job as the service answers it. Raises Failure."""
    try:
        return JobSettings.model_validate(job["settings"])
    except ValidationError as error:
        fault = _explained(error, job["settings"])[0]
        raise Failure(
            f"job {job.get('id', '')} has settings that this version of cdds does not know ({fault.pointer}): update it"
        ) from error


def needed(settings: JobSettings) -> Mapping[str, Any]:
    """What has to be written for these settings: all but what is so by default."""
    left = settings.model_dump(mode="json")
    for name in list(left):
        # Some defaults depend on other settings, so whether it may go is tried.
        without = {other: value for other, value in left.items() if other != name}
        try:
            if JobSettings.model_validate(without) == settings:
                left = without
        except ValidationError:
            continue
    return left


def patch(changes: Sequence[str]) -> dict[str, Any]:
    """A merge patch of `name=value` and `name.name=value`. Raises Failure.

    >>> patch(["title=Nightly", "retry.attempts=5", "labels.team=null", "fields=[id, started_at]"])
    {'title': 'Nightly', 'retry': {'attempts': 5}, 'labels': {'team': None}, 'fields': ['id', 'started_at']}
    """
    patched: dict[str, Any] = {}
    for change in changes:
        names, equals, text = change.partition("=")
        *parents, name = names.strip().split(".")
        if not equals or not all((*parents, name)):
            raise Failure(f"--set {change}: write NAME=VALUE, such as title=Nightly or retry.attempts=5")
        inner = patched
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise Failure(f"--set {change}: {parent} is set to a value already")
        try:
            inner[name] = documents.value(text)
        except ValueError as error:
            raise Failure(f"--set {change}: the value {error}: put it into quotes") from error
    return patched


def merged(draft: Document, changes: Mapping[str, Any]) -> JobSettings:
    """The settings of a draft with a merge patch applied, as the service applies it. Raises Failure."""
    try:
        return apply_patch(of(draft), changes)
    except SettingsMalformed as error:
        faults = _faults(error.found, error.settings)
        raise Failure("\n".join(map(str, faults))) from error


def preview(client: Client, settings: object, zone: str = "UTC") -> Document:
    """What the service says that a job with these settings would do. Raises Refused, whose pointers are theirs."""
    return client.post("/jobs/preview", {"settings": settings, "zone": zone})


def _explained(error: ValidationError, content: Any) -> list[Fault]:
    return _faults([{**item, "loc": ("body", *item["loc"])} for item in error.errors()], content)


def _faults(found: Sequence[Mapping[str, Any]], content: Any) -> list[Fault]:
    """In the words of the service."""
    from shared.http import wrong  # with it comes the whole framework of the services

    faults: Any = wrong(found, content).body["errors"]
    return [Fault(**fault) for fault in faults]
