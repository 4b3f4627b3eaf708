"""The only SQL of the scheduler; each method is one business step in one transaction."""

from services.scheduler.store.forgetting import ForgettingStore
from services.scheduler.store.ledger import PUT_OFF, Clock, Unknown, current_time

__all__ = ["PUT_OFF", "Clock", "Store", "Unknown", "current_time"]


class Store(ForgettingStore):
    """Schedules, backfills and the slot ledger."""
