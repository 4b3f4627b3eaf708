"""Time as this project speaks it: aware, UTC, written with `Z`."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime


def _to_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("must lie between the years 1 and 9999 in UTC") from error


UtcDatetime = Annotated[AwareDatetime, AfterValidator(_to_utc)]
"""A timestamp with a zone, converted to UTC; one without a zone is refused."""


def utc_text(moment: datetime) -> str:
    """RFC 3339 in UTC with `Z`, as slot keys and problems show it.

    >>> utc_text(datetime(2026, 3, 29, 4, tzinfo=UTC))
    '2026-03-29T04:00:00Z'
    """
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def floor_to(moment: datetime, step: timedelta) -> datetime:
    """The latest multiple of `step` since 00:00 UTC of the day that is not after `moment`.

    >>> floor_to(datetime(2026, 3, 29, 7, 59, tzinfo=UTC), timedelta(hours=4))
    datetime.datetime(2026, 3, 29, 4, 0, tzinfo=datetime.timezone.utc)
    """
    midnight = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (moment - midnight) // step * step
