"""A rebuild: where it is, and what it found."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID


class RebuildState(StrEnum):
    """While one is `copying`, the live projection fills the tables beside its own, too."""

    ASKED = "asked"
    COPYING = "copying"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Rebuild:
    """What was asked for, and what has become of it."""

    rebuild_id: UUID
    checking: bool
    state: RebuildState
    progress: Mapping[str, int]
    """How many copied events of each topic were read."""
    report: Mapping[str, Any] | None
    reason: str | None

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in (RebuildState.FINISHED, RebuildState.FAILED)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What live and rebuilt rows of one table have in common."""

    table: str
    live: int
    rebuilt: int
    equal: bool
