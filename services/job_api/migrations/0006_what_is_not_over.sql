-- Whatever the program tries: runs in progress, jobs that exist and events that are not yet sent stay.
CREATE POLICY ended ON runs AS RESTRICTIVE FOR DELETE TO job_api_worker
  USING (state IN ('succeeded', 'failed', 'cancelled', 'skipped'));
CREATE POLICY gone ON jobs AS RESTRICTIVE FOR DELETE TO job_api_worker USING (state = 'deleted');
CREATE POLICY sent ON outbox AS RESTRICTIVE FOR DELETE TO job_api_worker USING (published_at IS NOT NULL);
