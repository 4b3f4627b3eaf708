"""What a service says about itself: JSON logs with run and tenant ids, and Prometheus metrics."""

import logging
import sys
from typing import Final

import structlog
from prometheus_client import Counter, Gauge

log: Final[structlog.stdlib.BoundLogger] = structlog.stdlib.get_logger("cdds")
"""The project's logger; `structlog.contextvars.bound_contextvars(run_id=…, tenant=…)` adds ids to all lines inside."""

CONSUMED: Final = Counter("cdds_events_consumed", "Records taken from Kafka", ["topic", "outcome"])
CONSUMER_LAG: Final = Gauge("cdds_consumer_lag", "Records behind the end of the topic", ["topic"])
PUBLISHED: Final = Counter("cdds_events_published", "Records acknowledged by Kafka", ["topic"])
OUTBOX_UNSENT: Final = Gauge("cdds_outbox_unsent", "Outbox rows read in the last pass and not yet published")


def configure(service: str, *, json: bool, level: str) -> None:
    """Send the logs of this process, libraries' included, to standard output, one line each."""
    shared_steps: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
        if json
        else [structlog.dev.ConsoleRenderer(colors=False)]
    )
    structlog.configure(
        processors=[*shared_steps, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared_steps,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("cdds").setLevel(level.upper())
    structlog.contextvars.bind_contextvars(service=service)
