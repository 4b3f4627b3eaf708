-- Jobs and certificates of all tenants, and what is known of their runs.
CREATE TABLE jobs (
  id               uuid        CONSTRAINT jobs_pk PRIMARY KEY,
  tenant           text        NOT NULL,
  version          integer     NOT NULL,
  state            text        NOT NULL CONSTRAINT jobs_state CHECK (state IN ('active', 'suspended', 'deleted')),
  suspended_reason text        CONSTRAINT jobs_suspended_reason CHECK (suspended_reason IN ('user', 'one_time', 'failures')),
  key              text,
  settings         jsonb       NOT NULL,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  created_by       text        NOT NULL,
  next_slot_at     timestamptz,
  schedule_version integer     NOT NULL DEFAULT 0,  -- the job version next_slot_at was computed from
  CONSTRAINT jobs_suspended CHECK ((state = 'suspended') = (suspended_reason IS NOT NULL))
);
-- Store.create_job: a key names one living job of a tenant.
CREATE UNIQUE INDEX jobs_key ON jobs (tenant, key) WHERE key IS NOT NULL AND state <> 'deleted';
-- Store.list_jobs: newest first.
CREATE INDEX jobs_created ON jobs (tenant, created_at DESC, id DESC) WHERE state <> 'deleted';

-- A projection of scheduler.runs.v1 and exporter.runs.v1; a row may be made by either side first.
CREATE TABLE runs (
  run_id            uuid        CONSTRAINT runs_pk PRIMARY KEY,
  tenant            text        NOT NULL,
  job_id            uuid        NOT NULL,
  state             text        NOT NULL CONSTRAINT runs_state
                    CHECK (state IN ('requested', 'queued', 'running', 'succeeded', 'failed', 'cancelled')),
  version           integer     NOT NULL DEFAULT 0,
  seen_at           timestamptz NOT NULL,
  started_at        timestamptz,
  attempt           integer     NOT NULL DEFAULT 0,
  sequence          integer     NOT NULL DEFAULT 0,
  percent           real,
  remaining_seconds real
);
-- Store.list_jobs: the latest run of each job.
CREATE INDEX runs_latest ON runs (job_id, seen_at DESC);

CREATE TABLE certificates (
  tenant      text        NOT NULL,
  fingerprint text        NOT NULL,  -- SHA-256 of the DER form, hexadecimal
  pem         text        NOT NULL,
  subject     text        NOT NULL,
  not_before  timestamptz NOT NULL,
  not_after   timestamptz NOT NULL,
  added_at    timestamptz NOT NULL DEFAULT now(),
  added_by    text        NOT NULL,
  CONSTRAINT certificates_pk PRIMARY KEY (tenant, fingerprint)
);

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['jobs', 'runs', 'certificates'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY worker ON %I TO job_api_worker USING (true)', name);
    EXECUTE format('CREATE POLICY tenant ON %I TO job_api_tenant USING (tenant = current_setting(''cdds.tenant'', true))', name);
  END LOOP;
END $$;
CREATE POLICY worker ON outbox TO job_api_worker USING (true);
CREATE POLICY tenant ON outbox FOR INSERT TO job_api_tenant WITH CHECK (tenant = current_setting('cdds.tenant', true));

GRANT SELECT, INSERT, UPDATE ON jobs, runs, certificates TO job_api_worker;
GRANT SELECT, UPDATE ON outbox TO job_api_worker;
GRANT INSERT ON outbox TO job_api_worker, job_api_tenant;
GRANT SELECT, INSERT ON jobs, certificates TO job_api_tenant;
GRANT SELECT ON runs TO job_api_tenant;
