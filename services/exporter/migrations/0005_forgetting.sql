-- What was over long ago is deleted (services/exporter/store/forgetting.py).

-- Store.forget_runs
CREATE INDEX runs_finished_at ON runs (finished_at) WHERE finished_at IS NOT NULL;

GRANT DELETE ON runs, artifacts, documents, cancellations TO exporter_worker;
