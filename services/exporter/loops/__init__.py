"""The workers: claim a run, export it in a thread, beat while it runs, and write down how it ended.

worker    one run after the other
attempt   the thread, and beside it its lease, its orders and its progress
answer    a question for the pipeline, its result for the store
"""

from services.exporter.loops.worker import Worker

__all__ = ["Worker"]
