-- Lists and totals that read the table only for the rows they show: what they filter and sort on is in an index. Rows
-- that are not shown yet (their request was not heard) are in none of these, so that nobody has to look whether they are.
--
-- Of a job, or of some (with a text, a label), in whatever order.
DROP INDEX executions_job;
CREATE INDEX executions_job ON executions (tenant, job_id, requested_at, run_id)
  INCLUDE (job_version, title_folded, source, type, trigger, state, started_at, finished_at, duration_seconds, rows, bytes)
  WHERE title IS NOT NULL;

-- Of what is rare, in whatever order: there are few entries, and a run that succeeds as scheduled is never among them.
CREATE INDEX executions_unsuccessful ON executions (tenant, state, requested_at, run_id)
  INCLUDE (job_id, job_version, title_folded, source, type, trigger, started_at, finished_at, duration_seconds, rows, bytes)
  WHERE title IS NOT NULL AND state IN ('failed', 'cancelled');
CREATE INDEX executions_unscheduled ON executions (tenant, trigger, requested_at, run_id)
  INCLUDE (job_id, job_version, title_folded, source, type, state, started_at, finished_at, duration_seconds, rows, bytes)
  WHERE title IS NOT NULL AND trigger <> 'schedule';

-- By title, of a source or type: the runs of all jobs before the first one that is so have to be passed over.
DROP INDEX executions_title;
CREATE INDEX executions_title ON executions (tenant, title_folded, requested_at, run_id)
  INCLUDE (source, type) WHERE title IS NOT NULL;

-- Counted.
DROP INDEX executions_requested, executions_source, executions_type, executions_trigger, executions_state;
CREATE INDEX executions_requested ON executions (tenant, requested_at, run_id) WHERE title IS NOT NULL;
CREATE INDEX executions_source ON executions (tenant, source, requested_at, run_id) WHERE title IS NOT NULL;
CREATE INDEX executions_type ON executions (tenant, type, requested_at, run_id) WHERE title IS NOT NULL;
CREATE INDEX executions_trigger ON executions (tenant, trigger, requested_at, run_id) WHERE title IS NOT NULL;
CREATE INDEX executions_state ON executions (tenant, state, requested_at, run_id) WHERE title IS NOT NULL;

-- A text or labels are looked for in all versions of a tenant's jobs; their settings, long as they are, lie elsewhere.
ALTER TABLE job_versions SET (toast_tuple_target = 128);
UPDATE job_versions SET version = version;
