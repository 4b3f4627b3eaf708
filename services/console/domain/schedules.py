"""Schedules and timeframes in one line, as lists show them."""

from collections.abc import Mapping
from typing import Any, Final

from services.console.domain.shown import utc

_DAYS: Final = {
    "mon": "Mon", "tue": "Tue", "wed": "Wed", "thu": "Thu", "fri": "Fri", "sat": "Sat", "sun": "Sun",
}  # fmt: skip


def described(settings: Mapping[str, Any]) -> str:
    """When a job runs; all times are UTC.

    >>> described({"schedule": {"kind": "hourly", "every": 4}, "start": None})
    'Every 4 hours'
    >>> described({"schedule": {"kind": "weekly", "days": ["mon", "fri"], "at": "02:30"}, "start": None})
    'Mon, Fri at 02:30'
    >>> described({"schedule": {"kind": "once"}, "start": "immediately"})
    'Once, immediately'
    """
    schedule, start = settings["schedule"], settings.get("start")
    match schedule["kind"]:
        case "once":
            return "Once, immediately" if start == "immediately" else f"Once, {utc(start)}"
        case "hourly":
            return "Every hour" if schedule["every"] == 1 else f"Every {schedule['every']} hours"
        case "daily":
            return f"Daily at {schedule['at']}"
        case "weekly":
            return f"{', '.join(_DAYS[day] for day in schedule['days'])} at {schedule['at']}"
        case "monthly":
            day = "Last day" if schedule["day"] == "last" else f"Day {schedule['day']}"
            return f"{day} of the month at {schedule['at']}"
        case _:
            return f"Cron {schedule['expression']}"


def timeframe(settings: Mapping[str, Any]) -> str:
    """Which data a run exports.

    >>> timeframe({"timeframe": {"kind": "last", "count": 1, "unit": "day", "align": True}})
    'The last day'
    >>> timeframe({"timeframe": {"kind": "last", "count": 4, "unit": "hour"}})
    'The last 4 hours'
    """
    frame = settings["timeframe"]
    match frame["kind"]:
        case "all":
            return "All data"
        case "last":
            count = frame.get("count", 1)
            return f"The last {frame['unit']}" if count == 1 else f"The last {count} {frame['unit']}s"
        case "fixed":
            return f"{utc(frame['from'])} to {utc(frame['to'])}"
        case _:
            return "Since the last successful run"
