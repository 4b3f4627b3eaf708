-- What was over long ago is deleted (services/job_api/store/forgetting.py).

-- Store.forget_runs
CREATE INDEX runs_over ON runs (seen_at) WHERE state IN ('succeeded', 'failed', 'cancelled', 'skipped');
-- Store.forget_jobs, and there and in Store.forget_backfills whether a run is left
CREATE INDEX jobs_deleted ON jobs (updated_at) WHERE state = 'deleted';
CREATE INDEX runs_of_job ON runs (job_id);
-- Store.forget_audit
CREATE INDEX audit_age ON audit (at);
-- NEEDED_EVENTS: whether a job was written again
CREATE INDEX outbox_of_jobs ON outbox (key, id)
  WHERE type IN ('cdds.JobCreated.v1', 'cdds.JobUpdated.v1', 'cdds.JobSuspended.v1', 'cdds.JobResumed.v1',
                 'cdds.JobDeleted.v1');

GRANT DELETE ON runs, backfills, jobs, audit TO job_api_worker;
-- Whatever the program tries: the audit of the last 400 days stays.
CREATE POLICY aged ON audit AS RESTRICTIVE FOR DELETE TO job_api_worker USING (at < now() - interval '400 days');
