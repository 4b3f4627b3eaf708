"""How late the scheduler is, as its metrics show it."""

from datetime import timedelta

from services.scheduler import loops
from tests.scheduler.jobs import created
from tests.scheduler.world import HOUR, MINUTE, NOON, World
from tests.shared.metrics import Moved, measured


async def test_the_lag_is_that_of_the_most_overdue_schedule(world: World) -> None:
    await loops.measure_lag(world.store)
    assert measured("cdds_schedule_lag_seconds") == 0  # there is no schedule

    for minutes in (0, 30):
        await world.hear(created(NOON - timedelta(minutes=minutes), schedule={"kind": "hourly", "every": 1}))
    world.now = NOON + HOUR - MINUTE
    await loops.measure_lag(world.store)
    assert measured("cdds_schedule_lag_seconds") == 59 * 60  # one of 11:30 is due at 12:00

    await world.wait_until(world.now)
    await loops.measure_lag(world.store)
    assert measured("cdds_schedule_lag_seconds") == 0


async def test_each_schedule_that_is_decided_tells_how_late_it_was(world: World) -> None:
    await world.hear(created(NOON - MINUTE), created(NOON - MINUTE))
    moved = Moved()
    await world.wait_until(NOON + timedelta(seconds=7))
    assert moved["cdds_schedule_delay_seconds_count", ""] == 2
    assert moved["cdds_schedule_delay_seconds_sum", ""] == 14
    assert (
        moved["cdds_schedule_delay_seconds_bucket", "5.0"],
        moved["cdds_schedule_delay_seconds_bucket", "10.0"],
    ) == (
        0,
        2,
    )
