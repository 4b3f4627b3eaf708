"""Random jobs: every kind of schedule, timeframe and policy, few enough slots that a year of them passes quickly."""

from datetime import datetime, timedelta
from random import Random
from typing import Any

from shared.jobs import Hourly, JobSettings, Once

MAX_SLOTS = 120
"""A schedule that would have more in a year ends before; most of those are edited into another one later."""
SETTLES = {"ucs": timedelta(0), "late": timedelta(minutes=5)}
"""How long before the slot the intervals of each source end."""
_SLOTS_A_DAY = {"*/30 8-11 * * 1-5": 6, "0 */6 * * *": 4, "15 7 * * 1-5": 1}
_RARE = ["0 6 1,15 * *", "30 2 13 * 5", "0 12 29 2 *", "5 4 1 */3 *", "0 0 31 * *", "45 23 * 1-6 0"]


def settle(source: str) -> timedelta:
    """As the operator's file of sources would say."""
    return SETTLES[source]


def draw_settings(random: Random, now: datetime) -> JobSettings:
    """What somebody might submit at `now`."""
    schedule, a_day = _draw_schedule(random)
    timeframe = _draw_timeframe(random, now)
    once = schedule["kind"] == "once"
    overlaps = ["buffer_one", "buffer_all", "skip", "cancel_other", "allow_all"]
    written: dict[str, Any] = {
        "title": f"Job {random.randrange(1000)}",
        "source": random.choice([*SETTLES]),
        "type": "interaction",
        "encryption": "none",
        "schedule": schedule,
        "timeframe": timeframe,
        "start": _draw_start(random, now, once=once),
        "overlap": random.choice(overlaps[: 4 if timeframe["kind"] == "since_last_run" else 5]),
        "jitter": random.choice(["PT0S"] * 4 + ["PT5M", "PT30M", "PT6H", "P1D"]),
        "pause_after_failures": random.choice([None, None, None, 1, 2, 3]),
    }
    if random.random() < 0.8:
        window = random.choice(["PT0S", "PT10M", "PT6H", "P1D", "P7D", "P30D", "P52W"])
        written["catchup"] = {"mode": random.choice(["latest", "all", "none"]), "window": window}
    begin = written["start"] if isinstance(written["start"], datetime) else now
    if a_day * 365 > MAX_SLOTS and not once and (a_day > 4 or random.random() < 0.9):
        written["ends_at"] = begin + timedelta(days=random.uniform(0.3, 1) * MAX_SLOTS / a_day)
    elif not once and random.random() < 0.1:
        written["ends_at"] = begin + timedelta(days=random.uniform(1, 200))
    return JobSettings.model_validate(written)


def draw_edit(random: Random, now: datetime, before: JobSettings) -> JobSettings:
    """What somebody might make of a job: another one, the same schedule otherwise, or its hours closer or wider."""
    drawn = draw_settings(random, now)
    while isinstance(drawn.schedule, Once):
        drawn = draw_settings(random, now)
    keeps = {"schedule": before.schedule, "start": before.start, "ends_at": before.ends_at}
    if isinstance(before.schedule, Hourly) and random.random() < 0.5:
        hours = Hourly(kind="hourly", every=random.choice([1, 2, 3, 4, 6]))
        begin = max(now, before.start) if isinstance(before.start, datetime) else now
        ends_at = before.ends_at or begin + timedelta(days=random.uniform(5, 40))
        return drawn.model_copy(update={**keeps, "schedule": hours, "ends_at": ends_at})
    return drawn.model_copy(update=keeps) if random.random() < 0.4 else drawn


def _draw_schedule(random: Random) -> tuple[dict[str, Any], float]:
    """A schedule, and how many slots it has a day."""
    at = f"{random.randrange(24):02}:{random.choice(['00', '00', '30', '59'])}"
    match random.choice(["once", "hourly", "hourly", "hourly", "daily", "daily", "weekly", "monthly", "cron", "cron"]):
        case "once":
            return {"kind": "once"}, 0
        case "hourly":
            every = random.choice([1, 2, 3, 4, 6, 8, 12, 24])
            return {"kind": "hourly", "every": every}, 24 / every
        case "daily":
            return {"kind": "daily", "at": at}, 1
        case "weekly":
            days = random.sample(["mon", "tue", "wed", "thu", "fri", "sat", "sun"], random.choice([1, 1, 2, 3]))
            return {"kind": "weekly", "days": days, "at": at}, len(days) / 7
        case "monthly":
            return {"kind": "monthly", "day": random.choice([1, 15, 29, 30, 31, "last"]), "at": at}, 1 / 30
        case _:
            expression = random.choice([*_SLOTS_A_DAY, *_RARE])
            return {"kind": "cron", "expression": expression}, _SLOTS_A_DAY.get(expression, 0.1)


def _draw_timeframe(random: Random, now: datetime) -> dict[str, Any]:
    before = now.replace(minute=0, second=0, microsecond=0) - timedelta(days=random.randrange(1, 60))
    match random.choice(["all", "fixed", "last", "last", "last", "since_last_run", "since_last_run"]):
        case "all":
            return {"kind": "all"}
        case "fixed":
            return {"kind": "fixed", "from": before - timedelta(days=7), "to": before}
        case "since_last_run":
            return {"kind": "since_last_run", "from": before}
        case _:
            unit = random.choice(["hour", "day", "week", "month"])
            return {"kind": "last", "unit": unit, "count": random.choice([1, 1, 2]), "align": random.random() < 0.8}


def _draw_start(random: Random, now: datetime, *, once: bool) -> Any:
    if once or random.random() < 0.2:
        whole = (now + timedelta(days=random.uniform(0.1, 20))).replace(minute=0, second=0, microsecond=0)
        return random.choice(["immediately", whole, now + timedelta(seconds=random.randrange(30, 900_000))])
    return None
