-- What dashboards read: views over all tenants, without settings, questions, or anything that events say in full.
--
-- The views run with the rights of whoever asks, so the role may read exactly the columns below and the rows its
-- policies give it. A login for Grafana is made by the operator: docs/operate/metrics.md.
--
-- The text before made the role without a look whether it is there, which takes the right to make roles:
-- replaces 3c3ef8fe499a0a176114811fcbb73d47eca5bc2a3bc3b2eac8d97610081fd3d5
DO $$
BEGIN
  IF to_regrole('history_dashboards') IS NULL THEN
    CREATE ROLE history_dashboards NOLOGIN;
  END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;  -- another database made it
END $$;

DO $$
DECLARE
  name text;
BEGIN
  EXECUTE format('GRANT USAGE ON SCHEMA %I TO history_dashboards', current_schema());
  FOREACH name IN ARRAY ARRAY['executions', 'progress', 'artifacts', 'slots_not_run', 'statistics'] LOOP
    EXECUTE format('CREATE POLICY dashboards ON %I FOR SELECT TO history_dashboards USING (true)', name);
  END LOOP;
END $$;

GRANT SELECT (requested_at, run_id, tenant, job_id, job_version, title, source, type, trigger, slot_at, interval_from,
              interval_to, retry_of, state, attempt, started_at, finished_at, duration_seconds, rows, bytes, parts,
              reason, message)
  ON executions TO history_dashboards;
GRANT SELECT (requested_at, run_id, attempt, rows, bytes, total, percent, remaining_seconds, occurred_at)
  ON progress TO history_dashboards;
GRANT SELECT (requested_at, artifact_id, tenant, run_id, job_id, title, source, type, number, entity, file_name,
              size_bytes, rows, stored_at, expires_at, deleted_at, deletion_reason)
  ON artifacts TO history_dashboards;
GRANT SELECT (decided_at, job_id, tenant, job_version, slot_at, trigger, outcome, reason, count)
  ON slots_not_run TO history_dashboards;
GRANT SELECT ON statistics TO history_dashboards;

-- dashboard_progress: the few executions that are open, of all tenants and months.
CREATE INDEX executions_open ON executions (requested_at) WHERE state IN ('requested', 'queued', 'running');

CREATE VIEW dashboard_executions WITH (security_invoker) AS
SELECT requested_at, run_id, tenant, job_id, job_version, title, source, type, trigger, slot_at, interval_from,
       interval_to, retry_of, state, attempt, started_at, finished_at,
       extract(epoch FROM started_at - requested_at)::double precision AS wait_seconds,
       duration_seconds, rows, bytes, parts, reason, message
FROM executions WHERE title IS NOT NULL;

CREATE VIEW dashboard_progress WITH (security_invoker) AS
SELECT e.requested_at, e.run_id, e.tenant, e.job_id, e.title, e.source, e.type, e.trigger, e.state, e.attempt,
       e.started_at, p.rows, p.bytes, p.total, p.percent, p.remaining_seconds, p.occurred_at AS told_at
FROM executions e LEFT JOIN progress p ON p.run_id = e.run_id AND p.attempt >= e.attempt AND e.state = 'running'
WHERE e.state IN ('requested', 'queued', 'running') AND e.title IS NOT NULL;

CREATE VIEW dashboard_artifacts WITH (security_invoker) AS
SELECT requested_at, artifact_id, tenant, run_id, job_id, title, source, type, number, entity, file_name, size_bytes,
       rows, stored_at, expires_at, deleted_at, deletion_reason
FROM artifacts WHERE file_name IS NOT NULL;

CREATE VIEW dashboard_slots_not_run WITH (security_invoker) AS
SELECT decided_at, job_id, tenant, job_version, slot_at, trigger, outcome, reason, count FROM slots_not_run;

CREATE VIEW dashboard_statistics WITH (security_invoker) AS
SELECT day, tenant, source, type, succeeded, failed, cancelled, rows, bytes, duration_seconds, longest_seconds
FROM statistics;

GRANT SELECT ON dashboard_executions, dashboard_progress, dashboard_artifacts, dashboard_slots_not_run,
                dashboard_statistics
  TO history_dashboards;

COMMENT ON VIEW dashboard_executions IS
  'Executions, one row each; filter by requested_at, by which they are stored in months';
COMMENT ON COLUMN dashboard_executions.interval_from IS 'Begin of the data that is asked for; null: from the first row on';
COMMENT ON COLUMN dashboard_executions.interval_to IS 'End of the data that is asked for, exclusive';
COMMENT ON COLUMN dashboard_executions.retry_of IS 'The execution whose question was asked again';
COMMENT ON COLUMN dashboard_executions.attempt IS 'Attempts begun so far';
COMMENT ON COLUMN dashboard_executions.started_at IS 'Begin of the first attempt';
COMMENT ON COLUMN dashboard_executions.wait_seconds IS 'Seconds from the request to the first attempt';
COMMENT ON COLUMN dashboard_executions.duration_seconds IS 'Seconds from the first attempt to the end';
COMMENT ON COLUMN dashboard_executions.bytes IS 'Bytes before compression';
COMMENT ON COLUMN dashboard_executions.parts IS 'Files, the manifest apart';
COMMENT ON COLUMN dashboard_executions.reason IS 'Why the last attempt failed, as a word that can be counted';
COMMENT ON COLUMN dashboard_executions.message IS 'Why the last attempt failed, as a sentence';

COMMENT ON VIEW dashboard_progress IS
  'Executions that have not ended; how far they are is null until their attempt has told of it';
COMMENT ON COLUMN dashboard_progress.rows IS 'Rows read by the current attempt';
COMMENT ON COLUMN dashboard_progress.bytes IS 'Bytes of these rows before compression';
COMMENT ON COLUMN dashboard_progress.total IS 'Rows expected; exact or estimated, as the source is configured';
COMMENT ON COLUMN dashboard_progress.percent IS 'From 0 to 100';
COMMENT ON COLUMN dashboard_progress.remaining_seconds IS 'Seconds until the end at the rate so far';
COMMENT ON COLUMN dashboard_progress.told_at IS 'When the worker told of it';

COMMENT ON VIEW dashboard_artifacts IS
  'Files, one row each, also those whose bytes are gone; filter by requested_at, by which they are stored in months';
COMMENT ON COLUMN dashboard_artifacts.requested_at IS 'When the execution was requested that the file is from';
COMMENT ON COLUMN dashboard_artifacts.number IS 'Place among the files of the execution, from 1 on';
COMMENT ON COLUMN dashboard_artifacts.size_bytes IS 'Bytes as stored: compressed and encrypted';
COMMENT ON COLUMN dashboard_artifacts.deleted_at IS 'When its bytes were gone; null while they are there';

COMMENT ON VIEW dashboard_slots_not_run IS
  'Slots that became no execution; filter by decided_at, by which they are stored in months';
COMMENT ON COLUMN dashboard_slots_not_run.slot_at IS 'When it was due';
COMMENT ON COLUMN dashboard_slots_not_run.count IS 'How many slots the row stands for';

COMMENT ON VIEW dashboard_statistics IS
  'Executions that ended, by UTC day of their end, tenant, source and type; filter by day';
COMMENT ON COLUMN dashboard_statistics.rows IS 'Rows of those that succeeded';
COMMENT ON COLUMN dashboard_statistics.bytes IS 'Bytes of those that succeeded, before compression';
COMMENT ON COLUMN dashboard_statistics.duration_seconds IS 'Seconds that those took together that succeeded';
COMMENT ON COLUMN dashboard_statistics.longest_seconds IS 'Seconds of the longest of those that succeeded';
