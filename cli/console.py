"""What commands print with, and how they fail."""

from enum import IntEnum
from typing import Final

from rich.console import Console

out: Final = Console()
err: Final = Console(stderr=True)


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
