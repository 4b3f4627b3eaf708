"""Nobody is left alone with a reason: each has plain words or a remedy."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import services.exporter
from services.exporter.domain import Failure
from services.exporter.loops.answer import Unanswerable
from shared import reasons
from shared.events import ScheduleEvent, SlotMissed, SlotSkipped

NAMED = {Failure.__name__, Unanswerable.__name__}


def reasons_given() -> Iterator[str]:
    """The reasons that the exporter's code names."""
    for file in Path(services.exporter.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMED):
                continue
            match node.args[0]:
                case ast.Constant(value=str(reason)):
                    yield reason
                case given:
                    # One that is passed on is named where it was made.
                    assert ast.unparse(given) == "error.reason", (file, ast.unparse(given))


def test_every_failure_of_the_exporter_has_a_remedy_and_there_are_no_others() -> None:
    assert set(reasons_given()) == reasons.REMEDIES.keys()


def test_a_reason_that_is_not_known_yet_has_a_remedy_too() -> None:
    assert reasons.remedy("moon_phase") == reasons.remedy("internal")


@pytest.mark.parametrize("words", [*reasons.REMEDIES.values()])
def test_a_remedy_is_a_sentence(words: str) -> None:
    assert words[0].isupper()
    assert words.endswith(".")


def test_every_slot_that_did_not_run_has_plain_words() -> None:
    assert {reason for event in (SlotSkipped, SlotMissed) for reason in literals(event)} == reasons.SLOTS.keys()


def literals(event: type[ScheduleEvent]) -> tuple[str, ...]:
    return get_args(event.model_fields["reason"].annotation)
