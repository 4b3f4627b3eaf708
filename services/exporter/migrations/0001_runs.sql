-- Runs as a work queue with leases, the files they produced, and whom files are encrypted for.
CREATE TABLE runs (
  run_id           uuid        CONSTRAINT runs_pk PRIMARY KEY,
  job_id           uuid        NOT NULL,
  tenant           text        NOT NULL,
  request          jsonb       NOT NULL,  -- the RunRequested event: the whole question
  state            text        NOT NULL CONSTRAINT runs_state
                   CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
  version          integer     NOT NULL DEFAULT 1,
  attempt          integer     NOT NULL DEFAULT 0,
  attempts_allowed integer     NOT NULL,
  queued_at        timestamptz NOT NULL DEFAULT now(),
  not_before       timestamptz NOT NULL DEFAULT now(),  -- the backoff after a failed attempt
  worker           text,
  lease_until      timestamptz,
  finished_at      timestamptz,
  CONSTRAINT runs_leased CHECK ((state = 'running') = (worker IS NOT NULL AND lease_until IS NOT NULL)),
  CONSTRAINT runs_finished CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL))
);
-- Store.claim_run: open runs by age, read in this order until one is due; beats don't touch it.
CREATE INDEX runs_open ON runs (queued_at) WHERE state IN ('queued', 'running');

CREATE TABLE artifacts (
  artifact_id uuid        CONSTRAINT artifacts_pk PRIMARY KEY,
  run_id      uuid        NOT NULL CONSTRAINT artifacts_run REFERENCES runs,
  tenant      text        NOT NULL,
  number      integer     NOT NULL,
  object_key  text        NOT NULL,
  file_name   text        NOT NULL,
  size_bytes  bigint      NOT NULL,
  rows        bigint      NOT NULL,
  sha256      text        NOT NULL,
  stored_at   timestamptz NOT NULL DEFAULT now(),
  expires_at  timestamptz NOT NULL,
  state       text        NOT NULL DEFAULT 'available' CONSTRAINT artifacts_state
              CHECK (state IN ('available', 'deleting', 'deleted')),
  CONSTRAINT artifacts_number UNIQUE (run_id, number)
);

-- Small, signed, and outliving the parts: kept here, so that a run's success and its manifest are one transaction.
CREATE TABLE manifests (
  manifest_id uuid        CONSTRAINT manifests_pk PRIMARY KEY,
  run_id      uuid        NOT NULL CONSTRAINT manifests_run REFERENCES runs,
  tenant      text        NOT NULL,
  file_name   text        NOT NULL,
  body        bytea       NOT NULL,
  sha256      text        NOT NULL,
  stored_at   timestamptz NOT NULL DEFAULT now()
);

-- The last published manifest of each job; locked by the transaction that publishes the next one.
CREATE TABLE chain_heads (
  job_id          uuid CONSTRAINT chain_heads_pk PRIMARY KEY,
  tenant          text NOT NULL,
  manifest_sha256 text
);

-- A copy of job_api's certificates; removed ones stay as a tombstone, so that a late CertificateAdded can't revive them.
CREATE TABLE certificates (
  tenant      text        NOT NULL,
  fingerprint text        NOT NULL,
  pem         text,
  changed_at  timestamptz NOT NULL,
  CONSTRAINT certificates_pk PRIMARY KEY (tenant, fingerprint)
);

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['runs', 'artifacts', 'manifests', 'chain_heads', 'certificates'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY worker ON %I TO exporter_worker USING (true)', name);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %I TO exporter_worker', name);
  END LOOP;
  FOREACH name IN ARRAY ARRAY['artifacts', 'manifests'] LOOP
    EXECUTE format('CREATE POLICY tenant ON %I TO exporter_tenant USING (tenant = current_setting(''cdds.tenant'', true))', name);
    EXECUTE format('GRANT SELECT ON %I TO exporter_tenant', name);
  END LOOP;
END $$;
CREATE POLICY worker ON outbox TO exporter_worker USING (true);
CREATE POLICY tenant ON outbox FOR INSERT TO exporter_tenant WITH CHECK (tenant = current_setting('cdds.tenant', true));
GRANT SELECT, UPDATE, INSERT ON outbox TO exporter_worker;
GRANT INSERT ON outbox TO exporter_tenant;
