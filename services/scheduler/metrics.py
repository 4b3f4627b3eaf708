"""What the scheduler measures."""

from typing import Final

from prometheus_client import Gauge, Histogram

LAG: Final = Gauge("cdds_schedule_lag_seconds", "How late the most overdue schedule is, 0 when none is due")
DELAY: Final = Histogram(
    "cdds_schedule_delay_seconds",
    "From when a schedule was due until its slots were decided",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
)
