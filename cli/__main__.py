"""`cdds`: everything a person does from a terminal."""

import sys
from typing import NoReturn

import typer

from cli import demo, stack
from cli.console import Failure, err

app = typer.Typer(
    name="cdds",
    help="Export contact-centre data on a schedule, encrypted and verifiable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(stack.up)
app.command()(stack.down)
app.command()(stack.token)
app.command()(stack.republish)
app.command()(demo.demo)


def main() -> NoReturn:
    """Run the command; a Failure becomes one line and its exit code."""
    try:
        app()
    except Failure as failure:
        err.print(f"[bold red]cdds:[/] {failure}", highlight=False)
        sys.exit(failure.code)
    sys.exit(0)


if __name__ == "__main__":
    main()
