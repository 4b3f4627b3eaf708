"""What counts as growth."""

from random import Random

import pytest

from tests.soak.growth import Judgement, Tolerance, judge

PLAIN = Tolerance(0.1, 5, "a test")
KEPT = Tolerance(0.1, 5, "a test", kept=True)


def series(*, grows: float = 0, noise: float = 0, warm: float = 0, restarts: int = 0) -> list[tuple[float, float]]:
    """A hundred values around 100: `grows` in all, `warm` at the beginning, a tenth after each restart."""
    random = Random(1)
    fresh = set(random.sample(range(100), restarts))
    return [
        (5.0 * n, (100 - 80 * (n in fresh)) + grows * n / 100 + random.gauss(0, noise) + min(n / 20, 1) * warm)
        for n in range(100)
    ]


@pytest.mark.parametrize(
    ("points", "tolerance", "judgement"),
    [
        (series(), PLAIN, Judgement.FLAT),
        (series(noise=10), PLAIN, Judgement.FLAT),
        (series(warm=60), PLAIN, Judgement.FLAT),  # what warms up has done so in the first half
        (series(restarts=15), PLAIN, Judgement.FLAT),
        (series(grows=60, restarts=15), PLAIN, Judgement.GROWS),
        (series(grows=60, noise=10), PLAIN, Judgement.GROWS),
        (series(grows=-60), PLAIN, Judgement.FLAT),
        (series(grows=60), KEPT, Judgement.STEADY),
        ([(t, t * t / 1000) for t, _ in series()], KEPT, Judgement.GROWS),
        (series()[:10], PLAIN, Judgement.UNKNOWN),
    ],
)  # fmt: skip
def test_a_series_is_judged_by_its_second_half(
    points: list[tuple[float, float]], tolerance: Tolerance, judgement: Judgement
) -> None:
    assert judge("it", points, tolerance).judgement is judgement
