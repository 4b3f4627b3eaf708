"""What history follows: everything."""

from services.history.domain.batch import Batch
from services.history.store import Store
from shared.events import EVENT_TYPES
from shared.inbox import Inbox


def register(inbox: Inbox, store: Store) -> None:
    """Connect all events to the projection, in batches."""
    inbox.on_batch(Batch, store.project, EVENT_TYPES.values())
