-- concurrently

-- Store.forget_runs
CREATE INDEX runs_over ON runs (seen_at) WHERE state IN ('succeeded', 'failed', 'cancelled', 'skipped');
-- Store.forget_jobs, and there and in Store.forget_backfills whether a run is left.
CREATE INDEX jobs_deleted ON jobs (updated_at) WHERE state = 'deleted';
CREATE INDEX runs_of_job ON runs (job_id);
-- Store.forget_audit
CREATE INDEX audit_age ON audit (at);
-- NEEDED_EVENTS: whether a job was written again.
CREATE INDEX outbox_of_jobs ON outbox (key, id)
  WHERE type IN ('cdds.JobCreated.v1', 'cdds.JobUpdated.v1', 'cdds.JobSuspended.v1', 'cdds.JobResumed.v1',
                 'cdds.JobDeleted.v1');
