"""The command line in this process, beside the stack: a start of its own takes a command seconds here."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from cli.__main__ import app
from cli.console import Failure


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended; `error` is what `cdds` writes of a Failure."""

    code: int
    output: str
    error: str

    def json(self) -> Any:
        return json.loads(self.output)


async def cdds(*arguments: str | Path, answer: str = "") -> Ended:
    """Run a command in a thread, as the command needs an event loop of its own."""
    return await asyncio.to_thread(_run, [str(argument) for argument in arguments], answer)


def _run(arguments: list[str], answer: str) -> Ended:
    ended: Result = CliRunner().invoke(app, arguments, input=answer)
    if isinstance(ended.exception, Failure):
        return Ended(int(ended.exception.code), ended.stdout, str(ended.exception))
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return Ended(ended.exit_code, ended.stdout, ended.stderr)
