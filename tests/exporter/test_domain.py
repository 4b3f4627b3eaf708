from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from services.exporter.domain import Claim, artifact_id, manifest_id, manifest_name, progress
from tests.exporter.runs import requested

STARTED = datetime(2026, 3, 1, tzinfo=UTC)
RUN = UUID("9c5b94b1-35ad-49bb-b118-8e8fc24abf80")


@pytest.mark.parametrize(
    ("rows", "total", "seconds", "percent", "remaining"),
    [
        (0, 100, 5, 0.0, None),  # no row yet: no rate to extrapolate
        (25, 100, 5, 25.0, 15.0),  # 0.2 s a row, 75 to go
        (1, 3, 1, 33.3, 2.0),
        (100, 100, 20, 100.0, 0.0),
        (120, 100, 20, 100.0, 0.0),  # the count was an estimate
        (0, 0, 1, 100.0, None),
        (50, None, 5, None, None),
    ],
)
def test_progress_is_a_share_of_the_total_and_time_follows_the_average_rate(
    rows: int, total: int | None, seconds: int, percent: float | None, remaining: float | None
) -> None:
    claim = Claim(requested(), attempt=2, attempts_allowed=3)

    told = progress(
        claim, 7, rows=rows, bytes_=1, total=total, started=STARTED, now=STARTED + timedelta(seconds=seconds)
    )

    assert (told.attempt, told.sequence, told.rows, told.bytes, told.total) == (2, 7, rows, 1, total)
    assert (told.percent, told.remaining_seconds) == (percent, remaining)


@pytest.mark.parametrize(
    ("attempt", "allowed", "is_last", "dead"),
    [(1, 3, False, []), (2, 3, False, [1]), (3, 3, True, [1, 2]), (1, 1, True, []), (2, 1, True, [1])],
)
def test_an_attempt_knows_its_place_and_where_the_dead_ones_wrote(
    attempt: int, allowed: int, is_last: bool, dead: list[int]
) -> None:
    claim = Claim(requested(), attempt, allowed)

    assert claim.is_last is is_last
    assert claim.prefix == f"{claim.run_id}/{attempt}"
    assert claim.dead_prefixes == [f"{claim.run_id}/{number}" for number in dead]


def test_ids_are_the_same_whenever_asked_and_differ_by_attempt_and_number() -> None:
    assert artifact_id(RUN, 1, 1) == artifact_id(RUN, 1, 1)
    assert len({artifact_id(RUN, 1, 1), artifact_id(RUN, 1, 2), artifact_id(RUN, 2, 1), manifest_id(RUN)}) == 4
    assert manifest_name(RUN) == f"export-{RUN}.manifest.json"
