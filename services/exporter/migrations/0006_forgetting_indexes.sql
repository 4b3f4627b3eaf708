-- concurrently

-- Store.forget_runs
CREATE INDEX runs_finished_at ON runs (finished_at) WHERE finished_at IS NOT NULL;
