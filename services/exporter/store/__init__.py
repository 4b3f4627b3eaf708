"""The only SQL of exporter's own state; each method is one business step in one transaction."""

from services.exporter.store.attempts import LOST, AttemptStore, SealManifest
from services.exporter.store.files import FileStore
from services.exporter.store.forgetting import ForgettingStore
from services.exporter.store.measures import MeasureStore
from services.exporter.store.requests import RequestStore
from services.exporter.store.retention import RetentionStore
from services.exporter.store.steps import CancelOrdered, Fenced

__all__ = ["LOST", "CancelOrdered", "Fenced", "SealManifest", "Store"]


class Store(RequestStore, AttemptStore, FileStore, RetentionStore, ForgettingStore, MeasureStore):
    """Runs, artifacts, documents and certificates."""
