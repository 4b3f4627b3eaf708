"""What goes wrong with a question as the answer a caller gets."""

from collections.abc import Callable, Mapping
from typing import Any

from services.exporter import domain
from services.exporter.pipeline import SourceRefused, SourceUnavailable, StoreFailed
from shared.http import Problem
from shared.observability import log
from shared.sources import SourcesInvalid


def _refused(error: domain.SettingsRefused) -> Problem:
    errors = [{"pointer": f.pointer, "message": f.message, "remedy": f.remedy} for f in error.faults]
    return Problem(422, "invalid", str(error), errors=errors)


def _away(error: Exception) -> Problem:
    log.warning("source not read", error=str(error))
    return Problem(503, "unavailable", "The source does not answer at the moment; try again later.")


def _store_away(error: StoreFailed) -> Problem:
    log.warning("object store not read", error=str(error))
    return Problem(503, "unavailable", "The file can't be read at the moment; try again later.")


PROBLEMS: Mapping[type[Exception], Callable[[Any], Problem]] = {
    domain.SettingsRefused: _refused,
    SourceUnavailable: _away,
    SourceRefused: _away,
    SourcesInvalid: _away,
    StoreFailed: _store_away,
}
"""What the source says stays in the log."""
