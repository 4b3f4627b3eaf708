"""What the database knows, as gauges."""

from itertools import product

from services.exporter import metrics
from services.exporter.domain import Lane, OpenRuns
from services.exporter.store import Store
from shared.events import RunState


async def measure_runs(store: Store) -> None:
    """Set the gauges of the queue, also to 0."""
    found = await store.open_runs()
    for state, lane in product((RunState.QUEUED, RunState.RUNNING), Lane):
        runs = found.get((state, lane), OpenRuns())
        metrics.RUNS.labels(state, lane).set(runs.count)
        metrics.OLDEST_RUN.labels(state, lane).set(runs.oldest.total_seconds())


async def measure_files(store: Store) -> None:
    """Set the gauges of the files whose bytes are kept."""
    found = await store.kept_files()
    for state in ("available", "deleting"):
        count, size = found.get(state, (0, 0))
        metrics.ARTIFACTS.labels(state).set(count)
        metrics.ARTIFACT_BYTES.labels(state).set(size)
