"""How commands print (tables for people, JSON for programs, progress only where somebody looks), and how they fail."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from enum import IntEnum, StrEnum
from typing import Annotated, Final

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

out: Final = Console()
err: Final = Console(stderr=True)

_WIDE: Final = 250
"""Columns; more than any row of these commands takes."""


class Exit(IntEnum):
    """Exit codes, fixed in the contracts."""

    FAILED = 1
    VERIFICATION = 3
    UNREACHABLE = 4


class Failure(Exception):
    """A command that could not do what was asked; the message says what to do."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code


class Output(StrEnum):
    """The form of what goes to standard output."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", help="A table for people, or JSON for programs.")]

Advance = Callable[[int], None]
"""Told the number of bytes that were done since the last call."""


def print_table(*columns: str, rows: Iterable[Sequence[str]]) -> None:
    """A table on standard output; wide where nobody looks, folded to a terminal's width otherwise."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    (out if out.is_terminal else Console(width=_WIDE)).print(table)


def print_json(content: object) -> None:
    """One document on standard output."""
    typer.echo(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z).decode())


@contextmanager
def progress(what: str, total_bytes: int) -> Generator[Advance]:
    """A bar on standard error that is gone afterwards; nothing at all when that is no terminal."""
    if not err.is_terminal or not total_bytes:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(what, total=total_bytes)
        yield lambda done: bar.update(task, advance=done)


def size_text(size: int) -> str:
    """Bytes for people.

    >>> size_text(999), size_text(12_345), size_text(1_200_000_000)
    ('999 B', '12.3 kB', '1.2 GB')
    """
    number = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
