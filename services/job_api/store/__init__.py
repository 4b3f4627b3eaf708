"""The only SQL of job_api; each method is one business step in one transaction.

Locks are taken in one order: the idempotency key, the job's row, then everything else of the job. So two commands, or
a command and an event, about one job follow each other, and what is shown of its runs is worked out by one at a time.
"""

from services.job_api.store.certificates import CertificateStore
from services.job_api.store.commands import CommandStore
from services.job_api.store.forgetting import NEEDED_EVENTS, ForgettingStore
from services.job_api.store.jobs import JobStore
from services.job_api.store.rows import JobRow
from services.job_api.store.runs import RunStore

__all__ = ["NEEDED_EVENTS", "JobRow", "Store"]


class Store(JobStore, CommandStore, RunStore, CertificateStore, ForgettingStore):
    """Jobs, commands on them, certificates, and the projection of runs."""
