-- concurrently
-- Lists and totals that read the table only for the rows they show: what they filter and sort on is in an index. Rows
-- that are not shown yet (their request was not heard) are in none of these, so that nobody has to look whether they are.
--
-- The text before did the same in one transaction, which locked everybody out for 8 minutes on 10 million executions:
-- replaces 0c12ec2717012e51140fec9133bcb1179ceb843e0300a0862c36eb9f697ec7c4

-- Of a job, or of some (with a text, a label), in whatever order.
CREATE INDEX executions_job_shown ON executions (tenant, job_id, requested_at, run_id)
  INCLUDE (job_version, title_folded, source, type, trigger, state, started_at, finished_at, duration_seconds, rows, bytes)
  WHERE title IS NOT NULL;
DROP INDEX executions_job;
ALTER INDEX executions_job_shown RENAME TO executions_job;

-- Of what is rare, in whatever order: there are few entries, and a run that succeeds as scheduled is never among them.
CREATE INDEX executions_unsuccessful ON executions (tenant, state, requested_at, run_id)
  INCLUDE (job_id, job_version, title_folded, source, type, trigger, started_at, finished_at, duration_seconds, rows, bytes)
  WHERE title IS NOT NULL AND state IN ('failed', 'cancelled');
CREATE INDEX executions_unscheduled ON executions (tenant, trigger, requested_at, run_id)
  INCLUDE (job_id, job_version, title_folded, source, type, state, started_at, finished_at, duration_seconds, rows, bytes)
  WHERE title IS NOT NULL AND trigger <> 'schedule';

-- By title, of a source or type: the runs of all jobs before the first one that is so have to be passed over.
CREATE INDEX executions_title_shown ON executions (tenant, title_folded, requested_at, run_id)
  INCLUDE (source, type) WHERE title IS NOT NULL;
DROP INDEX executions_title;
ALTER INDEX executions_title_shown RENAME TO executions_title;

-- Counted.
CREATE INDEX executions_requested_shown ON executions (tenant, requested_at, run_id) WHERE title IS NOT NULL;
DROP INDEX executions_requested;
ALTER INDEX executions_requested_shown RENAME TO executions_requested;
CREATE INDEX executions_source_shown ON executions (tenant, source, requested_at, run_id) WHERE title IS NOT NULL;
DROP INDEX executions_source;
ALTER INDEX executions_source_shown RENAME TO executions_source;
CREATE INDEX executions_type_shown ON executions (tenant, type, requested_at, run_id) WHERE title IS NOT NULL;
DROP INDEX executions_type;
ALTER INDEX executions_type_shown RENAME TO executions_type;
CREATE INDEX executions_trigger_shown ON executions (tenant, trigger, requested_at, run_id) WHERE title IS NOT NULL;
DROP INDEX executions_trigger;
ALTER INDEX executions_trigger_shown RENAME TO executions_trigger;
CREATE INDEX executions_state_shown ON executions (tenant, state, requested_at, run_id) WHERE title IS NOT NULL;
DROP INDEX executions_state;
ALTER INDEX executions_state_shown RENAME TO executions_state;

-- A text or labels are looked for in all versions of a tenant's jobs; their settings, long as they are, lie elsewhere.
ALTER TABLE job_versions SET (toast_tuple_target = 128);
UPDATE job_versions SET version = version;
