"""The overview: what runs, what comes next, what failed, and how much was exported."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from services.console.domain import charts, validity
from services.console.gateway import Away
from services.console.pages.page import Signed, render
from shared.clock import utc_text
from shared.observability import log

NEXT: Final = 10
RUNNING: Final = 10
FAILURES: Final = 5
FAILED_WITHIN: Final = timedelta(days=7)


def router() -> APIRouter:
    """The routes."""
    pages = APIRouter()

    @pages.get("/")
    async def show_overview(request: Request, visitor: Signed) -> Response:
        now = datetime.now(UTC)
        jobs, running, following, failures, statistics, certificates = await asyncio.gather(
            _told(visitor.get("/jobs", {"limit": 1})),
            _told(visitor.get("/executions", {"state": ["requested", "queued", "running"], "limit": RUNNING})),
            _told(visitor.get("/jobs", {"state": "active", "sort": "next_slot_at", "limit": NEXT})),
            _told(visitor.get("/executions", _failed_since(now - FAILED_WITHIN))),
            _told(visitor.get("/statistics", {"group": "day"})),
            _told(visitor.get("/certificates")),
        )
        return render(
            request, "overview/page.html", visitor,
            first_steps=jobs is not None and not jobs["items"] and _nothing_ran(running, statistics),
            running=None if running is None else running["items"],
            following=None if following is None else [job for job in following["items"] if job["next_slot_at"]],
            failures=None if failures is None else failures["items"],
            **_throughput(statistics), **_certificates(certificates, now),
        )  # fmt: skip

    return pages


async def _told(asking: Awaitable[Any]) -> Any:
    """What a service answers; None when it is away, for the other panels do without."""
    try:
        return await asking
    except Away as error:
        log.warning("a panel stays empty: its service is away", path=str(error))
        return None


def _failed_since(moment: datetime) -> dict[str, Any]:
    return {"state": "failed", "finished_from": utc_text(moment), "sort": "-finished_at", "limit": FAILURES}


def _nothing_ran(running: Any, statistics: Any) -> bool:
    return not (running and running["items"]) and not (statistics and statistics["items"])


def _throughput(statistics: Any) -> dict[str, Any]:
    """Charts of the days, and the sums of all of them."""
    if statistics is None:
        return {"sums": None, "runs": None, "rows": None, "bytes": None}
    items = statistics["items"]
    first, last = date.fromisoformat(statistics["from"]), date.fromisoformat(statistics["to"])
    series = {"runs": ("succeeded", "failed", "cancelled"), "rows": ("rows",), "bytes": ("bytes",)}
    drawn = {name: charts.by_day(items, first, last, parts) for name, parts in series.items()}
    return {"sums": charts.summed(items), **drawn}


def _certificates(answer: Any, now: datetime) -> dict[str, Any]:
    """Whether exports can be encrypted, and which certificates will not serve much longer."""
    if answer is None:
        return {"certificates": None, "ending": [], "serving": None}
    stand = [(each, validity.validity(each, now)) for each in answer["items"]]
    return {
        "certificates": stand,
        "ending": [(each, how) for each, how in stand if how.kind in ("soon", "expired")],
        "serving": len(validity.serving(answer["items"], now)),
    }
