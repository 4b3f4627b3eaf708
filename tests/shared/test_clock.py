"""Time, always in UTC."""

import doctest
from datetime import UTC, datetime

import pytest
from pydantic import TypeAdapter, ValidationError

from shared import clock
from shared.clock import UtcDatetime, utc_text

MOMENT = TypeAdapter[datetime](UtcDatetime)


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(clock)
    assert (result.failed, result.attempted > 0) == (0, True)


def test_an_offset_is_converted_and_written_with_z() -> None:
    read = MOMENT.validate_json('"2026-03-29T03:30:00+02:00"')
    assert (read.tzinfo, utc_text(read)) == (UTC, "2026-03-29T01:30:00Z")
    assert MOMENT.dump_json(read) == b'"2026-03-29T01:30:00Z"'


@pytest.mark.parametrize(
    "text", ["2026-03-29T03:30:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "tomorrow"]
)
def test_what_has_no_place_in_utc_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        MOMENT.validate_python(text)
