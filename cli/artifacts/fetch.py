"""`cdds artifacts fetch`: files of the service into a folder, each once, complete or not at all."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final
from uuid import UUID

import typer
from rich.markup import escape

from cli.artifacts.failures import one_line
from cli.artifacts.ledger import sole_user
from cli.artifacts.receiving import Outcome, Received, Receiver
from cli.connection import Connection, connected
from cli.console import Exit, Failure, Output, OutputOption, err, out, print_json, print_table, progress, size_text

_SHOWN: Final = frozenset({Outcome.FETCHED, Outcome.PRESENT})


@connected
def fetch(
    connection: Connection,
    run: Annotated[UUID | None, typer.Option("--run", help="Only this run (an execution's id).")] = None,
    job: Annotated[UUID | None, typer.Option("--job", help="All succeeded runs of this job.")] = None,
    into: Annotated[Path, typer.Option("--into", help="Folder for the files; made if need be.")] = Path("exports"),
    rescan: Annotated[
        bool,
        typer.Option(
            "--rescan", help="Look through all artifacts, not only at those that arrived since the last call."
        ),
    ] = False,
    manifests_only: Annotated[
        bool, typer.Option("--manifests-only", help="Manifests and schemas without parts; they outlive the parts.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Fetch exported files: a run, a job, or whatever is new for this folder.

    Without --run and --job each call brings what the folder has not received yet, and remembers it, also when you
    move the files away afterwards. What was interrupted goes on where it broke. A file has its name only when its
    SHA-256 is that of the signed manifest, and the manifest comes last: where it is, the run is complete.

        export CDDS_URL=https://cdds.example CDDS_TOKEN=…
        cdds artifacts fetch --into exports/
    """
    if run is not None and job is not None:
        raise typer.BadParameter("give --run or --job, not both")
    if manifests_only and run is None and job is None:
        raise typer.BadParameter("--manifests-only needs --run or --job")
    received: list[Received] = []
    with one_line(), connection.open("operator") as client:
        into.mkdir(parents=True, exist_ok=True)
        with sole_user(into):
            receiver = Receiver(client, into, progress, manifests_only)
            received.extend(_wanted(receiver, run, job, rescan))
    _print(received, into, output)
    failed = [one for one in received if one.outcome is Outcome.FAILED]
    for one in failed:
        err.print(f"[bold red]cdds:[/] {escape(one.message)}", highlight=False, soft_wrap=True)
    if failed:
        raise Failure(f"{len(failed)} of {len(received)} runs were not fetched", Exit.VERIFICATION)


def _wanted(receiver: Receiver, run: UUID | None, job: UUID | None, rescan: bool) -> Iterable[Received]:
    if run is not None:
        return [receiver.run(run)]
    if job is not None:
        return receiver.job(job)
    return receiver.new(rescan=rescan)


def _print(received: Sequence[Received], into: Path, output: Output) -> None:
    if output is Output.JSON:
        print_json({"into": str(into), "runs": [_document(one) for one in received]})
        return
    shown = [one for one in received if one.outcome in _SHOWN]
    if shown:
        print_table(
            "", "Run", "Job", "Files", "Size",
            rows=[
                [
                    one.outcome, str(one.run), escape(one.title or str(one.job)), str(len(one.files)),
                    size_text(one.bytes),
                ]
                for one in shown
            ],
        )  # fmt: skip
    for one in received:
        if one.outcome in (Outcome.GONE, Outcome.PENDING):
            out.print(f"[bold yellow]![/] run {one.run}: {escape(one.message)}", highlight=False, soft_wrap=True)
    fetched = sum(one.outcome is Outcome.FETCHED for one in received)
    out.print(f"{fetched} run(s) fetched into {escape(str(into))}/ ." if fetched else "Nothing new.", highlight=False)


def _document(one: Received) -> dict[str, object]:
    return {
        "run": one.run, "job": one.job, "title": one.title, "outcome": one.outcome, "bytes": one.bytes,
        "files": [str(file) for file in one.files], "message": one.message,
    }  # fmt: skip
