"""The only SQL of history, in parts: what writes, what keeps house, and what answers."""

from services.history.store.artifacts import ArtifactStore
from services.history.store.audit import AuditStore
from services.history.store.executions import ExecutionStore
from services.history.store.feed import FeedStore
from services.history.store.projection import SHADOW
from services.history.store.rebuild import RebuildStore
from services.history.store.slots import SlotStore
from services.history.store.statistics import StatisticsStore


class Store(RebuildStore, ExecutionStore, ArtifactStore, SlotStore, StatisticsStore, AuditStore, FeedStore):
    """Executions, files, slots, the timeline and statistics."""


__all__ = ["SHADOW", "Store"]
