"""What the exporter follows: requested and cancelled runs, and whom to encrypt for. Nothing here takes long."""

from services.exporter.store import Store
from shared.events import CertificateAdded, CertificateRemoved, RunCancelOrdered, RunRequested
from shared.inbox import Inbox


def register(inbox: Inbox, store: Store) -> None:
    """Connect the consumed events to the store."""

    @inbox.on(RunRequested)
    async def queue_run(event: RunRequested) -> None:
        await store.queue_run(event)

    @inbox.on(RunCancelOrdered)
    async def order_cancel(event: RunCancelOrdered) -> None:
        await store.order_cancel(event)

    @inbox.on(CertificateAdded, CertificateRemoved)
    async def keep_certificate(event: CertificateAdded | CertificateRemoved) -> None:
        await store.keep_certificate(event)
