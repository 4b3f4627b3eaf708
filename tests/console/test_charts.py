"""The numbers that charts are drawn from."""

from datetime import date, timedelta
from typing import Any

import pytest

from services.console.domain import charts
from services.console.domain.charts import HEIGHT, WIDTH

FIRST = date(2026, 3, 1)
OUTCOMES = ("succeeded", "failed", "cancelled")


def day(at: int, succeeded: int = 0, failed: int = 0, cancelled: int = 0, **more: int) -> dict[str, Any]:
    counts = {"succeeded": succeeded, "failed": failed, "cancelled": cancelled}
    sums = {"runs": sum(counts.values()), **counts, "rows": 0, "bytes": 0, **more}
    return {"day": (FIRST + timedelta(days=at)).isoformat(), **sums}


def test_every_day_has_its_place_also_without_runs() -> None:
    drawn = charts.by_day([day(2, succeeded=4)], FIRST, FIRST + timedelta(days=4), OUTCOMES)
    assert [bar.day.day for bar in drawn.bars] == [1, 2, 3, 4, 5]
    assert [bar.total for bar in drawn.bars] == [0, 0, 4, 0, 0]
    assert [bar.x for bar in drawn.bars] == [0, 60, 120, 180, 240]
    assert (drawn.top, drawn.total) == (4, 4)


def test_pieces_stand_on_each_other_and_fill_the_highest_day() -> None:
    drawn = charts.by_day([day(0, 10, 6, 4), day(1, 10)], FIRST, FIRST + timedelta(days=1), OUTCOMES)
    high, low = drawn.bars
    assert [(piece.y, piece.height) for piece in high.pieces] == [(40, 40), (16, 24), (0, 16)]
    assert [(piece.y, piece.height) for piece in low.pieces] == [(40, 40)]
    assert all(piece.x >= 0 and piece.x + piece.width <= WIDTH for bar in drawn.bars for piece in bar.pieces)


def test_one_failure_among_thousands_can_be_seen() -> None:
    (bar,) = charts.by_day([day(0, 9_999, 1)], FIRST, FIRST, OUTCOMES).bars
    assert [piece.height for piece in bar.pieces] == [HEIGHT - 2, 2]


def test_no_run_at_all_is_an_empty_chart() -> None:
    drawn = charts.by_day([], FIRST, FIRST + timedelta(days=29), OUTCOMES)
    assert (len(drawn.bars), drawn.top, drawn.total) == (30, 0, 0)
    assert not any(bar.pieces for bar in drawn.bars)


@pytest.mark.parametrize(
    ("days", "rate"),
    [([], None), ([day(0, cancelled=3)], None), ([day(0, 3, 1), day(1, 0, 0, 5)], 75.0), ([day(0, 2)], 100.0)],
)
def test_the_success_rate_leaves_cancelled_runs_out(days: list[dict[str, Any]], rate: float | None) -> None:
    assert charts.summed(days).success_rate == rate


def test_days_are_summed_up() -> None:
    found = charts.summed([day(0, 1, rows=5, bytes=7), day(1, 1, 1, rows=1, bytes=2)])
    assert (found.runs, found.rows, found.bytes) == (3, 6, 9)
