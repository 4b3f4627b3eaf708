"""How times, sizes and numbers are shown to people."""

import json
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

NOTHING: Final = "–"


def utc(moment: datetime | str | None) -> str:
    """A moment in UTC as lists show it.

    >>> utc("2026-04-25T13:36:56.123Z")
    '2026-04-25 13:36:56'
    """
    if moment is None:
        return NOTHING
    return _read(moment).strftime("%Y-%m-%d %H:%M:%S")


def local(moment: datetime | str | None, zone: ZoneInfo) -> str:
    """The same moment by the clocks of `zone`, with the date only where it is another one; empty in UTC itself.

    >>> local("2026-04-25T13:36:56Z", ZoneInfo("Europe/Berlin"))
    '15:36 CEST'
    >>> local("2026-04-25T23:36:56Z", ZoneInfo("Europe/Berlin"))
    '04-26 01:36 CEST'
    >>> local("2026-04-25T23:36:56Z", ZoneInfo("UTC"))
    ''
    """
    if moment is None or zone.key == "UTC":
        return ""
    read = _read(moment)
    there = read.astimezone(zone)
    return there.strftime("%H:%M %Z" if there.date() == read.date() else "%m-%d %H:%M %Z")


def size(number: int | None) -> str:
    """Bytes in units of 1,024, as storage shows them.

    >>> size(0), size(1023), size(1536), size(536_870_912)
    ('0 B', '1,023 B', '1.5 KiB', '512 MiB')
    """
    if number is None:
        return NOTHING
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    if unit == "B":
        return f"{number:,} B"
    return f"{value:,.1f} {unit}".replace(".0 ", " ") if value < 100 else f"{value:,.0f} {unit}"


def number(value: float | None) -> str:
    """A count with its thousands apart.

    >>> number(1234567), number(None)
    ('1,234,567', '–')
    """
    return NOTHING if value is None else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units.

    >>> [duration(s) for s in (None, 0.4, 59, 61, 3_700, 90_000)]
    ['–', '0.4 s', '59 s', '1 min 1 s', '1 hr 1 min', '1 d 1 hr']
    """
    if seconds is None:
        return NOTHING
    if seconds < 10:
        return f"{seconds:.1f} s".replace(".0 ", " ")
    left = round(seconds)
    parts: list[str] = []
    for name, length in (("d", 86_400), ("hr", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count} {name}")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if not part.startswith("0 ")) or "0 s"


def remaining(seconds: float | None) -> str:
    """What the hover of a progress bar says of the time that is left.

    >>> remaining(2_580), remaining(20), remaining(None)
    ('0 hr 43 min', '20 s', 'not known yet')
    """
    if seconds is None:
        return "not known yet"
    minutes = timedelta(seconds=seconds) // timedelta(minutes=1)
    return f"{minutes // 60} hr {minutes % 60} min" if minutes else f"{round(seconds)} s"


def zulu(moment: datetime) -> str:
    """A moment as addresses and the API have it."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def next_day(day: date) -> date:
    """The day after."""
    return day + timedelta(days=1)


def sentence(text: str) -> str:
    """Words that were written to stand in the middle of one.

    >>> sentence("the job was suspended")
    'The job was suspended.'
    """
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def as_json(value: object) -> str:
    """A value as people read JSON, in the letters that it was written with."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def _read(moment: datetime | str) -> datetime:
    return datetime.fromisoformat(moment) if isinstance(moment, str) else moment
