"""The clock edge: workers export, janitors and sweepers delete.

worker    the slots of a process: one run after the other in each
attempt   the work on one run, and beside it its lease, its orders and its progress
threads   blocking work, which nobody has to wait for
answer    a question for the pipeline, its result for the store
measures  what the database knows, as gauges
janitor   deletes the bytes of parts that have expired or were withdrawn
sweeper   looks through the object store for bytes that belong to nobody
"""

from services.exporter.loops.janitor import Janitor
from services.exporter.loops.measures import measure_files, measure_runs
from services.exporter.loops.sweeper import Sweeper
from services.exporter.loops.worker import Worker

__all__ = ["Janitor", "Sweeper", "Worker", "measure_files", "measure_runs"]
