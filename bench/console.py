"""`make bench-console`: how fast first pages are, and what open pages cost the console.

Everything runs on this machine: the whole stack as `make up` starts it, and the pages' connections in this process.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from bench import console_live, console_pages
from bench.harness import print_result


class Section(StrEnum):
    """What can be measured alone."""

    LIVE = "live"
    PAGES = "pages"


def main(
    only: Annotated[Section | None, typer.Option(help="Measure this alone.")] = None,
    pages: Annotated[int, typer.Option(help="Open pages that are kept up to date.")] = 200,
    runs: Annotated[int, typer.Option(help="Exports that run meanwhile.")] = 4,
    seconds: Annotated[int, typer.Option(help="How long the CPU time is measured.")] = 30,
    jobs: Annotated[int, typer.Option(help="How many a tenant has when its pages are asked for.")] = 100_000,
    executions: Annotated[int, typer.Option(help="How many history has then.")] = 10_000_000,
    rounds: Annotated[int, typer.Option(help="How often each page is asked for.")] = 100,
    keep: Annotated[
        Path | None, typer.Option(help="PostgreSQL's folder with executions, as `bench.history --keep` left it.")
    ] = None,
) -> None:
    """Measure the console on a stack started for it."""
    result: dict[str, float] = {}
    if only in (None, Section.LIVE):
        result |= uvloop.run(console_live.measure(pages, runs, seconds))
    if only in (None, Section.PAGES):
        result |= uvloop.run(console_pages.measure(executions, jobs, rounds, keep))
    print_result(result)


if __name__ == "__main__":
    typer.run(main)
