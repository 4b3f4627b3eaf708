"""What one or two inputs say: numbers with a unit, dates with a time."""

import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Final

from pydantic import TypeAdapter, ValidationError

DURATION_UNITS: Final = {
    "seconds": timedelta(seconds=1), "minutes": timedelta(minutes=1), "hours": timedelta(hours=1),
    "days": timedelta(days=1),
}  # fmt: skip
SIZE_UNITS: Final = {"bytes": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}

_DURATIONS: Final = TypeAdapter(timedelta)
_MOMENTS: Final = TypeAdapter(datetime)
_TIME: Final = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]{1,6})?)?")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DAY: Final = timedelta(days=1)


class Unreadable(ValueError):
    """What was typed is no such value; the message says what it must be."""


def whole(text: str) -> int:
    """A whole number; raises Unreadable."""
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise Unreadable("must be a whole number")
    return int(text)


# --- sizes --------------------------------------------------------------------------------------------------------


def size(number: str, unit: str) -> int:
    """Bytes.

    >>> size("1.5", "GiB")
    1610612736
    """
    total = _decimal(number) * SIZE_UNITS.get(unit, 1)
    if total != total.to_integral_value():
        raise Unreadable("must be a whole number of bytes")
    return int(total)


def size_inputs(number: int) -> tuple[str, str]:
    """Number and unit, the largest that keeps it whole.

    >>> size_inputs(64 * 1024**2), size_inputs(1025)
    (('64', 'MiB'), ('1025', 'bytes'))
    """
    unit = next(unit for unit in reversed(SIZE_UNITS) if number % SIZE_UNITS[unit] == 0)
    return str(number // SIZE_UNITS[unit]), unit


# --- durations ----------------------------------------------------------------------------------------------------


def duration(number: str, unit: str) -> str:
    """ISO 8601.

    >>> duration("90", "minutes"), duration("7", "days"), duration("0.5", "seconds")
    ('PT1H30M', 'P7D', 'PT0.5S')
    """
    microseconds = _decimal(number) * (DURATION_UNITS.get(unit, timedelta(seconds=1)) // timedelta(microseconds=1))
    if microseconds != microseconds.to_integral_value():
        raise Unreadable("must not be divided more finely than microseconds")
    try:
        return str(_DURATIONS.dump_python(timedelta(microseconds=int(microseconds)), mode="json"))
    except OverflowError as error:
        raise Unreadable("is too long") from error


def duration_inputs(text: str) -> tuple[str, str]:
    """Number and unit, the largest that keeps it whole.

    >>> duration_inputs("PT1H30M"), duration_inputs("P7D"), duration_inputs("PT0.5S"), duration_inputs("PT0S")
    (('90', 'minutes'), ('7', 'days'), ('0.5', 'seconds'), ('0', 'minutes'))
    """
    try:
        length = _DURATIONS.validate_python(text)
    except ValidationError:
        return text, "seconds"
    if not length:
        return "0", "minutes"
    for unit in reversed(DURATION_UNITS):
        if length % DURATION_UNITS[unit] == timedelta(0):
            return str(length // DURATION_UNITS[unit]), unit
    seconds = Decimal(length // timedelta(microseconds=1)) / 1_000_000
    return f"{seconds:f}", "seconds"


def _decimal(text: str) -> Decimal:
    try:
        found = Decimal(text) if re.fullmatch(r"[0-9]{1,15}([.][0-9]{1,15})?", text) else None
    except InvalidOperation:
        found = None
    if found is None:
        raise Unreadable("must be a number such as 10 or 1.5")
    return found


# --- moments ------------------------------------------------------------------------------------------------------


def moment(day: str, at: str, *, end: bool = False) -> str:
    """A UTC timestamp; a day without a time is its beginning, or with `end` all of it.

    >>> moment("2026-03-31", "04:00"), moment("2026-03-31", ""), moment("2026-03-31", "", end=True)
    ('2026-03-31T04:00:00Z', '2026-03-31T00:00:00Z', '2026-04-01T00:00:00Z')
    """
    if not day:
        raise Unreadable("needs a date")
    try:
        found = date.fromisoformat(day) if _DATE.fullmatch(day) else None
    except ValueError:
        found = None
    if found is None:
        raise Unreadable("must be a date such as 2026-03-31")
    if at and not _TIME.fullmatch(at):
        raise Unreadable("must have a UTC time such as 04:00")
    midnight = datetime.combine(found, time(), UTC)
    try:
        return _written(midnight + _DAY if end else midnight) if not at else _written(_at(midnight, at))
    except OverflowError as error:
        raise Unreadable("must be a date before the year 9999") from error


def moment_inputs(text: str, *, end: bool = False) -> tuple[str, str]:
    """Date and time; the first moment of a day that something ends before is the whole day before it.

    >>> moment_inputs("2026-03-31T04:00:00Z"), moment_inputs("2026-04-01T00:00:00Z", end=True)
    (('2026-03-31', '04:00'), ('2026-03-31', ''))
    """
    try:
        found = datetime.fromisoformat(text)
        found = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
        if end and found.timetz() == time(tzinfo=UTC):
            return (found - _DAY).date().isoformat(), ""
    except (ValueError, OverflowError):
        return "", ""
    spelled = "microseconds" if found.microsecond else "seconds" if found.second else "minutes"
    return found.date().isoformat(), found.time().isoformat(spelled)


def _at(midnight: datetime, at: str) -> datetime:
    # `time.fromisoformat` wants three or six digits of a fraction.
    clock, _, fraction = at.partition(".")
    return datetime.combine(midnight, time.fromisoformat(clock), UTC) + timedelta(
        microseconds=int(fraction.ljust(6, "0"))
    )


def _written(found: datetime) -> str:
    return str(_MOMENTS.dump_python(found, mode="json"))
