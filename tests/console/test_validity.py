"""How certificates are said to stand."""

from datetime import UTC, datetime, timedelta

import pytest

from services.console.domain import validity
from shared.clock import utc_text

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)


def certificate(left: timedelta, age: timedelta = DAY) -> dict[str, str]:
    return {"not_before": utc_text(NOW - age), "not_after": utc_text(NOW + left)}


@pytest.mark.parametrize(
    ("left", "kind", "within", "words"),
    [
        (timedelta(0), "expired", None, "Expired"),
        (-400 * DAY, "expired", None, "Expired"),
        (SECOND, "soon", 7, "Less than a day left"),
        (DAY, "soon", 7, "1 day left"),
        (7 * DAY, "soon", 7, "7 days left"),
        (7 * DAY + SECOND, "soon", 14, "7 days left"),
        (14 * DAY, "soon", 14, "14 days left"),
        (30 * DAY, "soon", 30, "30 days left"),
        (30 * DAY + SECOND, "valid", None, "30 days left"),
        (3650 * DAY, "valid", None, "3,650 days left"),
    ],
)
def test_days_are_counted_and_warned_of(left: timedelta, kind: str, within: int | None, words: str) -> None:
    found = validity.validity(certificate(left), NOW)
    assert (found.kind, found.within, found.words) == (kind, within, words)


def test_a_certificate_of_the_future_does_not_serve_yet() -> None:
    found = validity.validity(certificate(400 * DAY, age=-DAY), NOW)
    assert (found.serves, found.words) == (False, "Not valid yet")


def test_those_that_serve_are_told_apart_longest_first() -> None:
    short, long = certificate(3 * DAY), certificate(300 * DAY)
    assert validity.serving([certificate(-DAY), short, certificate(DAY, age=-DAY / 2), long], NOW) == [long, short]
