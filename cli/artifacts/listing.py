"""`cdds artifacts list`, `download` and `delete`: single files of the service."""

from itertools import islice
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from cli.artifacts.downloads import Remote
from cli.artifacts.downloads import download as bring
from cli.artifacts.failures import one_line
from cli.client import Client, Document
from cli.connection import Connection, connected
from cli.console import (
    Failure,
    Output,
    OutputOption,
    confirm,
    err,
    moment_option,
    moment_text,
    print_json,
    print_table,
    progress,
    say,
    short,
    shown,
    size_text,
)
from cli.jobs.naming import job_id
from cli.runs.naming import find_run

_LOOKED_AT = 2000
FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="Id of a file, the beginning of a recent one's, or a file's name.")
]


@connected
def list_(
    connection: Connection,
    job: Annotated[str | None, typer.Option("--job", help="Only files of this job.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="Only files of this run.")] = None,
    available: Annotated[
        bool | None, typer.Option("--available/--gone", help="Only files that can, or can't be downloaded any more.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only files of this source.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only files of this type.")] = None,
    text: Annotated[str | None, typer.Option(help="Only with this in the title.")] = None,
    stored_from: Annotated[str | None, moment_option("Only stored then or later.")] = None,
    stored_to: Annotated[str | None, moment_option("Only stored before.")] = None,
    sort: Annotated[
        str, typer.Option(help="stored_at, expires_at, size_bytes, rows, …; a - before it turns it round.")
    ] = "-stored_at",
    limit: Annotated[int, typer.Option(min=0, help="As many at most; 0 for all.")] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """Exported files, and how many days they are kept yet."""
    with connection.open("viewer") as client:
        found = list(
            client.items(
                "/artifacts", job_id=None if job is None else job_id(client, job),
                run_id=None if run is None else find_run(client, run), source=source, type=type_, text=text,
                available=None if available is None else str(available).lower(), stored_from=stored_from,
                stored_to=stored_to, sort=sort, first=limit + 1 if limit else None,
            )
        )  # fmt: skip
    files = list(islice(found, limit or None))
    if output is Output.JSON:
        print_json(files)
    else:
        print_table(
            "File", "Name", "Size", "Rows", "Stored (UTC)", "Kept for",
            rows=[
                [
                    short(file["artifact_id"]), shown(file["file_name"]), size_text(file["size_bytes"]),
                    f"{file['rows']:,}", moment_text(file["stored_at"])[:-3], _kept(file),
                ]
                for file in files
            ],
        )  # fmt: skip
    if len(found) > len(files):
        err.print(f"There are more than these {limit}: filter, or give --limit.", highlight=False)


@connected
def download(
    connection: Connection,
    file: FileArgument,
    into: Annotated[Path, typer.Option("--into", help="Folder for the file; made if need be.")] = Path(),
    output: OutputOption = Output.TABLE,
) -> None:
    """Download one file, as it is stored; `fetch` brings whole runs, with what proves them complete."""
    with one_line(), connection.open("operator") as client:
        found = _find(client, file)
        into.mkdir(parents=True, exist_ok=True)
        remote = Remote(found["artifact_id"], _plain(found["file_name"]), found["size_bytes"], found["sha256"])
        path = into / remote.name
        if path.exists():
            raise Failure(f"{path} exists: remove it, or choose another folder with --into")
        with progress(remote.name, remote.size) as advance:
            bring(client, remote, into, advance)
    if output is Output.JSON:
        print_json({"file": str(path), **found})
    else:
        say(f"{shown(path)} ({size_text(remote.size)}) is there.")


@connected
def delete(
    connection: Connection,
    file: FileArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete one file before its retention ends; its manifest stays, and history keeps that it was there."""
    with connection.open("admin") as client:
        found = _find(client, file)
        confirm(f"Delete {shown(found['file_name'])} ({size_text(found['size_bytes'])}) for good?", yes=yes)
        client.delete(f"/files/{found['artifact_id']}")
    if output is Output.JSON:
        print_json(found)
    else:
        say(f"{shown(found['file_name'])} was deleted.")


def _find(client: Client, name: str) -> Document:
    """The file that is meant. Raises Failure unless it is one."""
    files = client.items("/artifacts", first=_LOOKED_AT)
    try:
        whole = str(UUID(name))
        files = client.items("/artifacts")
    except ValueError:
        whole = ""
    found: list[Document] = []
    for file in files:
        if whole == file["artifact_id"]:
            return file
        if not whole and (file["file_name"] == name or (len(name) >= 4 and file["artifact_id"].startswith(name))):
            found.append(file)
    if len(found) != 1:
        raise Failure(f"{len(found)} files are called {name}: give the whole id; `cdds artifacts list` shows it")
    return found[0]


def _plain(name: str) -> str:
    if not name or "/" in name or "\\" in name or name.startswith("."):
        raise Failure(f"the service calls the file {name!r}, which is no name for one: tell its operator")
    return name


def _kept(file: Document) -> str:
    if file["deleted_at"]:
        return f"deleted ({file['deletion_reason']})"
    return f"{file['remaining_days']} day{'' if file['remaining_days'] == 1 else 's'}"
