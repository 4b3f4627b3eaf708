-- Projections of all events; everything here can be rebuilt from the outboxes.
CREATE TABLE events (
  event_id    uuid        CONSTRAINT events_pk PRIMARY KEY,
  tenant      text        NOT NULL,
  type        text        NOT NULL,
  occurred_at timestamptz NOT NULL,
  job_id      uuid,
  run_id      uuid,
  actor       text,
  body        jsonb       NOT NULL
);
-- Store.execution: the timeline of a run.
CREATE INDEX events_run ON events (run_id, occurred_at) WHERE run_id IS NOT NULL;

CREATE TABLE executions (
  run_id            uuid        CONSTRAINT executions_pk PRIMARY KEY,
  tenant            text        NOT NULL,
  job_id            uuid        NOT NULL,
  -- from the request
  title             text,
  source            text,
  type              text,
  trigger           text,
  slot_key          text,
  slot_at           timestamptz,
  question          jsonb,
  requested_at      timestamptz,
  -- from the exporter
  state             text        NOT NULL DEFAULT 'requested' CONSTRAINT executions_state
                    CHECK (state IN ('requested', 'queued', 'running', 'succeeded', 'failed', 'cancelled')),
  version           integer     NOT NULL DEFAULT 0,
  attempt           integer     NOT NULL DEFAULT 0,
  worker            text,
  started_at        timestamptz,
  finished_at       timestamptz,
  rows              bigint,
  bytes             bigint,
  parts             integer,
  snapshot          text,
  manifest_id       uuid,
  manifest_sha256   text,
  reason            text,
  message           text,
  -- from progress ticks
  progress_attempt  integer     NOT NULL DEFAULT 0,
  progress_sequence integer     NOT NULL DEFAULT 0,
  progress          jsonb
);
-- Store.list_executions: newest first, of a tenant or of one job.
CREATE INDEX executions_requested ON executions (tenant, requested_at DESC, run_id DESC);
CREATE INDEX executions_job ON executions (tenant, job_id, requested_at DESC, run_id DESC);

CREATE TABLE artifacts (
  artifact_id uuid        CONSTRAINT artifacts_pk PRIMARY KEY,
  tenant      text        NOT NULL,
  run_id      uuid        NOT NULL,
  job_id      uuid        NOT NULL,
  number      integer     NOT NULL,
  file_name   text        NOT NULL,
  size_bytes  bigint      NOT NULL,
  rows        bigint      NOT NULL,
  sha256      text        NOT NULL,
  stored_at   timestamptz NOT NULL,
  expires_at  timestamptz NOT NULL
);
-- Store.list_artifacts: newest first.
CREATE INDEX artifacts_stored ON artifacts (tenant, stored_at DESC, artifact_id DESC);
CREATE INDEX artifacts_run ON artifacts (run_id, number);

-- Artifacts whose bytes are gone; a deletion may be heard of before the artifact is.
CREATE TABLE artifact_deletions (
  artifact_id uuid        CONSTRAINT artifact_deletions_pk PRIMARY KEY,
  tenant      text        NOT NULL,
  reason      text        NOT NULL,
  deleted_at  timestamptz NOT NULL
);

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['events', 'executions', 'artifacts', 'artifact_deletions'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY worker ON %I TO history_worker USING (true)', name);
    EXECUTE format('CREATE POLICY tenant ON %I TO history_tenant USING (tenant = current_setting(''cdds.tenant'', true))', name);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %I TO history_worker', name);
    EXECUTE format('GRANT SELECT ON %I TO history_tenant', name);
  END LOOP;
END $$;
