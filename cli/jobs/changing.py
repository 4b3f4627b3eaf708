"""`cdds jobs create`, `edit`, `clone` and `delete`: each change is one of the version that was read."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cli import settings
from cli.client import Client, Document, Refused
from cli.connection import Connection, connected
from cli.console import Failure, Output, OutputOption, confirm, moment_text, print_json, say, shown
from cli.jobs.naming import JobArgument, find_job
from cli.jobs.showing import print_settings
from cli.settings import FileArgument, SetOption

_CHANGED: Final = 412
_ATTEMPTS: Final = 3


@connected
def create(connection: Connection, file: FileArgument, output: OutputOption = Output.TABLE) -> None:
    """Submit a job; it follows its schedule at once."""
    written, _ = settings.read(file)
    with connection.open("admin") as client, settings.in_file(written):
        _tell("was submitted", client.post("/jobs", written.content), output)


@connected
def edit(
    connection: Connection,
    job: JobArgument,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="All settings of the job from now on, YAML or JSON; - for stdin."),
    ] = None,
    changes: SetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Change a recurring job: all its settings by a file, or single ones by --set.

    It is the version that was read just now that is changed; when somebody else is faster, nothing is.
    """
    if (file is None) == (not changes):
        raise typer.BadParameter("give a FILE or --set, and not both")
    patch = settings.patch(changes or [])
    if file is None:
        with connection.open("admin") as client:
            _tell("was changed", _patched(client, job, patch), output)
        return
    written, wanted = settings.read(file)
    with connection.open("admin") as client:
        found = find_job(client, job)
        with settings.in_file(written):
            changed = replaced(client, found, written.content)
        if settings.of(changed) != wanted:
            raise Failure(f"somebody else changed the job meanwhile: look at it with `cdds jobs show {found['id']}`")
        _tell("was changed", changed, output)


@connected
def clone(
    connection: Connection,
    job: JobArgument,
    changes: SetOption = None,
    submit: Annotated[bool, typer.Option("--submit", help="Submit it at once instead of printing it.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Print the settings of a job for a new one, with the changes of --set; the key stays with the old one."""
    patch = settings.patch(changes or [])
    with connection.open("admin" if submit else "viewer") as client:
        draft = client.post(f"/jobs/{find_job(client, job)['id']}/clone")
        wanted = settings.merged(draft, patch)
        if submit:
            _tell("was submitted", client.post("/jobs", wanted.model_dump(mode="json")), output)
        else:
            print_settings(settings.needed(wanted), output)


@connected
def delete(
    connection: Connection,
    job: JobArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete a job that is not in progress; its history stays, and its files until they expire."""
    with connection.open("admin") as client:
        found = find_job(client, job)
        confirm(f"Delete the job {shown(found['settings']['title'])} ({found['id']})?", yes=yes)
        client.delete(f"/jobs/{found['id']}", version=found["version"])
    _tell("was deleted", found, output)


def replaced(client: Client, job: Document, content: Any) -> Document:
    """The job with other settings, or as it is by now when another version was changed meanwhile.

    That other version may be our own change, the answer to which was lost.
    """
    path = f"/jobs/{job['id']}"
    try:
        return client.put(path, content, version=job["version"])
    except Refused as refused:
        if refused.status != _CHANGED:
            raise
        return client.json(path)


def _patched(client: Client, name: str, patch: dict[str, Any]) -> Document:
    """The job after a patch, which may be applied to any version: it names what it changes."""
    for left in reversed(range(_ATTEMPTS)):
        job = find_job(client, name)
        try:
            return client.patch(f"/jobs/{job['id']}", patch, version=job["version"])
        except Refused as refused:
            if refused.status != _CHANGED or not left:
                raise
    raise AssertionError


def _tell(what: str, job: Document, output: Output) -> None:
    if output is Output.JSON:
        print_json(job)
        return
    follows = f"; it runs next at {moment_text(job['next_slot_at'])} UTC" if job["next_slot_at"] else ""
    say(f"Job {job['id']} ({shown(job['settings']['title'])}) {what}{'' if 'deleted' in what else follows}.")
