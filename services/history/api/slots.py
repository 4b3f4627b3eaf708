"""The ledger: what became of every slot."""

from uuid import UUID

from fastapi import APIRouter

from services.history.api.answers import SlotAnswer, SlotsAnswer
from services.history.api.parameters import between, not_a_cursor
from services.history.domain.listing import SlotFilter, SlotOutcome, SlotPlace
from services.history.store import Store
from shared.events import Trigger
from shared.http import Reader, position, read_position
from shared.jobs import Moment
from shared.listing import After, Limit

_ORDER = "-decided_at"


def router(store: Store) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/slots", tags=["slots"])

    @api.get("")
    async def list_slots(
        caller: Reader,
        job_id: UUID | None = None,
        outcome: SlotOutcome | None = None,
        trigger: Trigger | None = None,
        slot_from: Moment | None = None,
        slot_to: Moment | None = None,
        limit: Limit = 50,
        after: After = None,
    ) -> SlotsAnswer:
        """Slots and what became of them, what was decided last first; why, where they did not run."""
        only = SlotFilter(job_id, outcome, trigger, between("slot", slot_from, slot_to))
        rows = await store.list_slots(caller.tenant, only, limit + 1, _place(after))
        page = rows[:limit]
        more = None
        if len(rows) > limit:
            last = SlotPlace(page[-1]["decided_at"], page[-1]["job_id"], page[-1]["slot_key"])
            more = position(_ORDER, last.written(), last.job_id)
        return SlotsAnswer(items=[SlotAnswer.of(row) for row in page], next=more)

    return api


def _place(after: str | None) -> SlotPlace | None:
    read = read_position(after, _ORDER)
    try:
        return None if read is None else SlotPlace.read(*read)
    except ValueError as error:
        raise not_a_cursor() from error
