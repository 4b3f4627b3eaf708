"""`cdds`: everything a person does from a terminal."""

import sys
from typing import NoReturn

import typer
from rich.markup import escape

from cli import demo, history, stack
from cli.artifacts.decrypt import decrypt
from cli.artifacts.fetch import fetch
from cli.artifacts.verify import verify
from cli.console import Failure, err

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
app.command()(stack.republish)
app.command()(demo.demo)
artifacts = typer.Typer(
    help="Exported files: fetch them, prove that they are complete, decrypt them.",
    no_args_is_help=True,
)
artifacts.command()(fetch)
artifacts.command()(verify)
artifacts.command()(decrypt)
app.add_typer(artifacts, name="artifacts")
records = typer.Typer(help="What happened, as history tells it.", no_args_is_help=True)
records.command()(history.rebuild)
app.add_typer(records, name="history")


def main() -> NoReturn:
    """Run the command; a Failure becomes one line and its exit code."""
    try:
        app()
    except Failure as failure:
        err.print(f"[bold red]cdds:[/] {escape(str(failure))}", highlight=False, soft_wrap=True)
        sys.exit(failure.code)
    sys.exit(0)


if __name__ == "__main__":
    main()
