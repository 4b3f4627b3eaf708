"""A job's calendar: what was exported, and what is missing."""

from asyncio import to_thread
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import ValidationError

from services.history.api.answers import CoverageAnswer, SegmentAnswer
from services.history.api.parameters import between
from services.history.domain.coverage import Run, Unrun, coverage, unrun_slots
from services.history.store import Store
from shared.events import RunState
from shared.http import Reader, invalid
from shared.jobs import JobSettings, Moment

LONGEST: Final = timedelta(days=1100)
"""Three years."""
MOST: Final = 10_000
"""Runs of one calendar: an hourly job's of a year are 8,784."""


def router(store: Store) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/coverage", tags=["coverage"])

    @api.get("", response_model=CoverageAnswer)
    async def read_coverage(
        caller: Reader,
        job_id: UUID,
        from_: Annotated[Moment, Query(alias="from")],
        to: Annotated[Moment, Query(description="At most 1,100 days after `from`.")],
    ) -> Response:
        """What became of a job's data of [`from`, `to`), from its runs and the slots that became none."""
        between("", from_, to, ends="to")
        if to - from_ > LONGEST:
            raise invalid("/query/to", f"is more than {LONGEST.days} days after `from`", "Ask for less at a time.")
        rows = await store.intervals(caller.tenant, job_id, from_, to, MOST + 1)
        if len(rows) > MOST:
            raise invalid("/query/to", f"is so late that there are more than {MOST:,} runs", "Ask for less at a time.")
        slots, settings = await store.slots_not_run(caller.tenant, job_id, from_, MOST)

        def answer() -> str:
            segments = coverage(_runs(rows), _unrun(slots, settings), from_, to)
            shown = [SegmentAnswer.of(segment) for segment in segments]
            return CoverageAnswer(job_id=job_id, from_=from_, to=to, segments=shown).model_dump_json()

        # Half a second for the largest calendar, in which others are answered too.
        return Response(await to_thread(answer), media_type="application/json")

    return api


def _runs(rows: Iterable[Any]) -> Iterator[Run]:
    for row in rows:
        state, begin, end = RunState(row["state"]), row["interval_from"], row["interval_to"]
        yield Run(row["requested_at"], row["run_id"], state, begin, end, row["reason"])


def _unrun(slots: Iterable[Any], settings: Mapping[int, Mapping[str, object]]) -> list[Unrun]:
    """The slots with their data. Settings of a kind that is not known any more say nothing about it."""
    jobs: dict[int, JobSettings] = {}
    for version, written in settings.items():
        with suppress(ValidationError):
            jobs[version] = JobSettings.model_validate(written)
    found: list[Unrun] = []
    for slot in slots:
        if job := jobs.get(slot["job_version"]):
            found += unrun_slots(job, slot["slot_at"], min(slot["count"], MOST - len(found)), slot["reason"])
    return found
