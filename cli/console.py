"""How commands print (tables for people, JSON for programs, progress only where somebody looks), and how they fail."""

import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Final

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from shared.clock import utc_text

out: Final = Console()
err: Final = Console(stderr=True)

_WIDE: Final = 250
"""Columns; more than any row of these commands takes."""


class Exit(IntEnum):
    """Exit codes, fixed in the contracts; wrong usage, 2, is typer's."""

    FAILED = 1
    VERIFICATION = 3
    UNREACHABLE = 4


class Failure(Exception):
    """A command that could not do what was asked; the message says what to do."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code


def moment_option(help: str, *names: str) -> Any:
    """An option that takes a moment, which the command gets as the service reads it."""
    return typer.Option(*names, metavar="TIME", parser=_moment_written, help=help)


def _moment_written(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter("write a date or a time in UTC, as 2026-03-29 or 2026-03-29T04:00:00Z") from error
    return utc_text(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def ago_option(help: str) -> Any:
    """An option that takes a moment, or how long ago it was, which the command gets as a time in UTC."""
    return typer.Option("--since", metavar="TIME", parser=_moment_or_ago, help=f"{help} 30m, 2h, 7d ago, or a time.")


_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _moment_or_ago(text: str) -> datetime:
    if ago := re.fullmatch(r"(\d{1,6})([smhd])", text):
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter("write 30m, 2h or 7d for so long ago, or a time as 2026-11-29T08:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


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


def print_fields(fields: Mapping[str, str]) -> None:
    """What is known of one thing, a line each; what is empty is left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value:
            table.add_row(name, value)
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


def say(sentence: str) -> None:
    """A sentence on standard output, however long, for people."""
    out.print(sentence, highlight=False, soft_wrap=True)


def confirm(question: str, *, yes: bool) -> None:
    """Go on when `yes` was given, or somebody at the terminal says so. Raises Failure otherwise."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure(f"{question} Nobody is here to ask: give --yes")
    if not typer.confirm(question, err=True):
        raise Failure("nothing was changed")


def shown(text: object) -> str:
    """Text that somebody else wrote, so that it can't give orders to the terminal, nor to rich.

    >>> shown("a [b]old\\x1b[2J title")
    'a \\\\[b]old\ufffd[2J title'
    """
    return escape("".join(sign if sign.isprintable() or sign == "\n" else _instead(sign) for sign in str(text)))


def _instead(sign: str) -> str:
    return " " if sign.isspace() else "\ufffd"


def moment_text(written: str | None) -> str:
    """A timestamp for people, in UTC; empty when there is none.

    >>> moment_text("2026-03-29T04:05:06.123Z")
    '2026-03-29 04:05:06'
    """
    if written is None:
        return ""
    return f"{datetime.fromisoformat(written).astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def duration_text(seconds: float | None) -> str:
    """A duration for people; empty when there is none.

    >>> duration_text(0.4), duration_text(75), duration_text(7_260), duration_text(200_000)
    ('0.4 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    raise AssertionError


def short(identity: object) -> str:
    """As much of an id as commands need to be told; all of it where a program may read it."""
    return str(identity)[:8] if out.is_terminal else str(identity)


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
