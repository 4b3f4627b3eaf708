"""What the exporter counts and measures.

Gauges tell of the database, so every replica reports the same: take their maximum. Counters are a process's own.
"""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

RUNS: Final = Gauge("cdds_runs", "Runs that have not ended", ["state", "lane"])
OLDEST_RUN: Final = Gauge(
    "cdds_oldest_run_seconds",
    "Age of the oldest run: of queued ones since they could have started, of running ones since they were asked for",
    ["state", "lane"],
)
ATTEMPT_DURATION: Final = Histogram(
    "cdds_attempt_duration_seconds",
    "From claim to end of an attempt, by what became of the run; queued: it is tried again",
    ["outcome"],
    buckets=(1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600),
)
for _outcome in ("succeeded", "failed", "cancelled", "queued"):
    ATTEMPT_DURATION.labels(_outcome)  # from 0 on, or Prometheus would not see the first one as an increase
FAILURES: Final = Counter("cdds_attempt_failures", "Attempts that failed, by reason", ["reason"])
ROWS: Final = Counter(
    "cdds_exported_rows", "Rows read from sources, also by attempts that end without result", ["source"]
)
BYTES: Final = Counter("cdds_exported_bytes", "Bytes of these rows as they are written, before compression", ["source"])
STORED_BYTES: Final = Counter("cdds_artifact_stored_bytes", "Bytes of the files that succeeded runs have stored")
ARTIFACTS: Final = Gauge("cdds_artifacts", "Files whose bytes are kept", ["state"])
ARTIFACT_BYTES: Final = Gauge("cdds_artifact_bytes", "Bytes of these files", ["state"])
