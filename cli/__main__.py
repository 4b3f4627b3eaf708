"""`cdds`: everything a person does from a terminal."""

import sys
from typing import NoReturn

import typer

from cli import databases, demo, history, restored, stack, topics
from cli.apply.commands import apply, export
from cli.artifacts import listing
from cli.artifacts.decrypt import decrypt
from cli.artifacts.fetch import fetch
from cli.artifacts.verify import verify
from cli.certificates import app as certificates
from cli.console import Failure, err, shown
from cli.dead_letters import commands as dead_letters
from cli.doctor.commands import doctor
from cli.jobs.app import app as jobs
from cli.runs.app import app as runs

app = typer.Typer(
    name="cdds",
    help="Export contact-centre data on a schedule, encrypted and verifiable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(stack.up)
app.command()(stack.down)
app.command()(stack.token)
app.command()(databases.migrate)
app.command()(databases.republish)
app.command()(restored.restored)
app.command()(demo.demo)
app.command(epilog="cdds apply -f jobs.yaml -f jobs.d/ --plan")(apply)
app.command(epilog="cdds export > jobs.yaml")(export)
app.add_typer(jobs, name="jobs")
app.add_typer(runs, name="runs")
app.add_typer(certificates, name="certificates")
app.command()(doctor)
artifacts = typer.Typer(
    help="Exported files: list and fetch them, prove that they are complete, decrypt them.",
    no_args_is_help=True,
)
artifacts.command("list", epilog="cdds artifacts list --job nightly --available")(listing.list_)
artifacts.command(epilog="cdds artifacts download 1f2e3d4c --into received/")(listing.download)
artifacts.command(epilog="cdds artifacts delete 1f2e3d4c --yes")(listing.delete)
artifacts.command()(fetch)
artifacts.command()(verify)
artifacts.command()(decrypt)
app.add_typer(artifacts, name="artifacts")
records = typer.Typer(help="What happened, as history tells it.", no_args_is_help=True)
records.command()(history.rebuild)
app.add_typer(records, name="history")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(topics.app, name="topics")


def main() -> NoReturn:
    """Run the command; a Failure becomes one line and its exit code."""
    try:
        app()
    except Failure as failure:
        err.print(f"[bold red]cdds:[/] {shown(failure)}", highlight=False, soft_wrap=True)
        sys.exit(failure.code)
    sys.exit(0)


if __name__ == "__main__":
    main()
