"""What the exporter follows: requested runs, and whom to encrypt for. Nothing here takes long."""

from services.exporter.store import Store
from shared.events import CertificateAdded, CertificateRemoved, RunRequested
from shared.inbox import Inbox


def register(inbox: Inbox, store: Store) -> None:
    """Connect the consumed events to the store."""

    @inbox.on(RunRequested)
    async def queue_run(event: RunRequested) -> None:
        await store.queue_run(event)

    @inbox.on(CertificateAdded, CertificateRemoved)
    async def keep_certificate(event: CertificateAdded | CertificateRemoved) -> None:
        await store.keep_certificate(event)
