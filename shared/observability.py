"""What a service says about itself: JSON logs with run and tenant ids, and Prometheus metrics."""

import logging
import sys
from collections.abc import Sequence
from typing import Final

import structlog
from prometheus_client import Counter, Gauge

log: Final[structlog.stdlib.BoundLogger] = structlog.stdlib.get_logger("cdds")
"""The project's logger; `structlog.contextvars.bound_contextvars(run_id=…, tenant=…)` adds ids to all lines inside."""

CONSUMED: Final = Counter("cdds_events_consumed", "Records taken from Kafka", ["topic", "outcome"])
CONSUMER_LAG: Final = Gauge("cdds_consumer_lag", "Records behind the end of the topic", ["topic"])
PUBLISHED: Final = Counter("cdds_events_published", "Records acknowledged by Kafka", ["topic"])
OUTBOX_UNSENT: Final = Gauge("cdds_outbox_unsent", "Events committed and not yet acknowledged by Kafka")
INSECURE: Final = Gauge("cdds_insecure", "1 for a risk that the settings take", ["risk"])
OUTBOX_AGE: Final = Gauge("cdds_outbox_age_seconds", "Age of the oldest unsent event, 0 when all are sent")
PURGED: Final = Counter("cdds_rows_purged", "Rows deleted because nobody needs them any more", ["table"])
PURGE_CLEAN: Final = Gauge("cdds_purge_clean_timestamp_seconds", "When this process last found nothing to purge")


def configure(service: str, *, json: bool, level: str, more: Sequence[structlog.typing.Processor] = ()) -> None:
    """Send the logs of this process, libraries' included, to standard output, one line each."""
    shared_steps: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        *more,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Without local variables, which hold tokens and DSNs, and take seconds to print.
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    last: list[structlog.typing.Processor] = (
        [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer()]
        if json
        else [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=[*shared_steps, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(_Seldom("aiokafka"))
    handler.addFilter(_Seldom("opentelemetry"))
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


class _Seldom(logging.Filter):
    """Lets a library say the same only once in 10 s: aiokafka repeats itself every 100 ms while the broker is away."""

    def __init__(self, library: str) -> None:
        super().__init__()
        self._library = library
        self._said_at: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(self._library):
            return True
        place = (record.pathname, record.lineno)
        said_at = self._said_at.get(place)
        if said_at is not None and record.created - said_at < 10:
            return False
        self._said_at[place] = record.created
        return True
