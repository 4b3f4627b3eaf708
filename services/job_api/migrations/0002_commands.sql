-- Everything job_api is asked and answers: sorted lists, commands, backfills, idempotency keys and the audit.

-- What lists are filtered and sorted by, beside the settings it comes from; folded text compares whatever its case,
-- and byte by byte, so that an index outlives a change of the operating system's collations.
ALTER TABLE jobs NO FORCE ROW LEVEL SECURITY;  -- so that the owner's update below sees the rows
ALTER TABLE runs NO FORCE ROW LEVEL SECURITY;
ALTER TABLE jobs
  ADD COLUMN title_folded             text COLLATE "C",
  ADD COLUMN search_text              text,           -- folded title and description
  ADD COLUMN source                   text COLLATE "C",
  ADD COLUMN type                     text COLLATE "C",
  ADD COLUMN labels                   jsonb NOT NULL DEFAULT '{}',
  ADD COLUMN stopped_at               timestamptz,    -- since when no slots are requested; none while it is active
  ADD COLUMN schedule_at              timestamptz,    -- when the scheduler said next_slot_at; none: we did
  ADD COLUMN latest_run_id            uuid,
  ADD COLUMN latest_status            text COLLATE "C",
  ADD COLUMN latest_started_at        timestamptz,
  ADD COLUMN latest_percent           real,
  ADD COLUMN latest_remaining_seconds real;
UPDATE jobs SET
  title_folded = lower(settings->>'title'),
  search_text  = lower((settings->>'title') || E'\n' || coalesce(settings->>'description', '')),
  source       = settings->>'source',
  type         = settings->>'type',
  labels       = coalesce(settings->'labels', '{}'),
  stopped_at   = CASE WHEN state <> 'active' THEN updated_at END,
  next_slot_at = CASE WHEN state = 'active' THEN next_slot_at END,
  (latest_run_id, latest_status, latest_started_at) =
    (SELECT run_id, runs.state, started_at FROM runs WHERE job_id = jobs.id ORDER BY seen_at DESC LIMIT 1);
ALTER TABLE jobs FORCE ROW LEVEL SECURITY;
ALTER TABLE runs FORCE ROW LEVEL SECURITY;
ALTER TABLE jobs
  ALTER COLUMN title_folded SET NOT NULL,
  ALTER COLUMN search_text SET NOT NULL,
  ALTER COLUMN source SET NOT NULL,
  ALTER COLUMN type SET NOT NULL,
  -- Lists sort on the stored next slot, so a job that has none must not keep an old one.
  ADD CONSTRAINT jobs_next_slot CHECK (next_slot_at IS NULL OR state = 'active');

-- Store.list_jobs: one index for each column that is sorted on, read in either direction. Rows without a value come
-- last (no next slot) or first (never run), by a time that nobody can write.
CREATE INDEX jobs_by_title ON jobs (tenant, title_folded, id) WHERE state <> 'deleted';
CREATE INDEX jobs_by_source ON jobs (tenant, source, id) WHERE state <> 'deleted';
CREATE INDEX jobs_by_type ON jobs (tenant, type, id) WHERE state <> 'deleted';
CREATE INDEX jobs_by_state ON jobs (tenant, state COLLATE "C", id) WHERE state <> 'deleted';
CREATE INDEX jobs_by_updated_at ON jobs (tenant, updated_at, id) WHERE state <> 'deleted';
-- Not coalesce: PostgreSQL does not look it up in an index under row-level security, because it might leak.
CREATE INDEX jobs_by_latest_status
  ON jobs (tenant, (CASE WHEN latest_status IS NULL THEN '' ELSE latest_status END), id) WHERE state <> 'deleted';
CREATE INDEX jobs_by_latest_started_at ON jobs (
  tenant, (CASE WHEN latest_started_at IS NULL THEN '0001-01-02T00:00:00Z'::timestamptz ELSE latest_started_at END), id
) WHERE state <> 'deleted';
CREATE INDEX jobs_by_next_slot_at ON jobs (
  tenant, (CASE WHEN next_slot_at IS NULL THEN '9999-12-30T00:00:00Z'::timestamptz ELSE next_slot_at END), id
) WHERE state <> 'deleted';
-- Store.list_jobs: the label filter.
CREATE INDEX jobs_labels ON jobs USING gin (labels jsonb_path_ops) WHERE state <> 'deleted';

-- Runs are known before their request (a command, a slot that waits), and a slot that was skipped stays known, so that
-- a late word of its waiting does not bring it back. Versions: -3 a command, -2 waits, -1 skipped, 0 requested, then
-- the exporter's.
ALTER TABLE runs
  ADD COLUMN requested_at  timestamptz,
  ADD COLUMN trigger       text,
  ADD COLUMN backfill_id   uuid,
  ADD COLUMN interval_from timestamptz,
  ADD COLUMN interval_to   timestamptz,
  DROP CONSTRAINT runs_state,
  ADD CONSTRAINT runs_state CHECK
    (state IN ('waiting', 'requested', 'queued', 'running', 'succeeded', 'failed', 'cancelled', 'skipped'));
DROP INDEX runs_latest;
-- RunStore._show_latest: the run of a job that was requested last, and the slot that has waited longest.
CREATE INDEX runs_newest ON runs (job_id, coalesce(requested_at, seen_at) DESC, run_id DESC)
  WHERE state NOT IN ('waiting', 'skipped');
CREATE INDEX runs_waiting ON runs (job_id, seen_at, run_id) WHERE state = 'waiting';
-- facts: what of a job is in progress.
CREATE INDEX runs_open ON runs (job_id) WHERE state IN ('waiting', 'requested', 'queued', 'running');
-- Store.answers: the data intervals of a job that were asked for; RunStore.exported_to: how far it has come.
CREATE INDEX runs_intervals ON runs (job_id, interval_to) WHERE interval_to IS NOT NULL;

CREATE TABLE backfills (
  backfill_id   uuid        CONSTRAINT backfills_pk PRIMARY KEY,
  tenant        text        NOT NULL,
  job_id        uuid        NOT NULL CONSTRAINT backfills_job REFERENCES jobs,
  interval_from timestamptz NOT NULL,
  interval_to   timestamptz NOT NULL,
  reprocess     text        NOT NULL CONSTRAINT backfills_reprocess
                CHECK (reprocess IN ('missing', 'missing_and_failed', 'all')),
  max_parallel  integer     NOT NULL,
  requested_at  timestamptz NOT NULL,
  requested_by  text        NOT NULL,
  slots         integer,    -- none until the scheduler has divided it
  -- How its runs ended; a run is counted when both its end and its backfill are known.
  succeeded     integer     NOT NULL DEFAULT 0,
  failed        integer     NOT NULL DEFAULT 0,
  cancelled     integer     NOT NULL DEFAULT 0,
  cancelled_at  timestamptz
);
-- CommandStore.backfills: newest first.
CREATE INDEX backfills_of_job ON backfills (job_id, requested_at DESC, backfill_id DESC);
-- facts: the backfills of a job that are in progress.
CREATE INDEX backfills_open ON backfills (job_id)
  WHERE cancelled_at IS NULL AND (slots IS NULL OR succeeded + failed + cancelled < slots);

-- What each idempotency key stands for; taken in the transaction that does what was asked.
CREATE TABLE idempotency_keys (
  tenant      text        NOT NULL,
  key         text        NOT NULL,
  fingerprint bytea       NOT NULL,  -- SHA-256 of method, path and body
  reference   text        NOT NULL,  -- the id of what was made or asked for
  taken_at    timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT idempotency_keys_pk PRIMARY KEY (tenant, key)
);
-- Store.forget_old_keys
CREATE INDEX idempotency_keys_age ON idempotency_keys (taken_at);

-- Who changed what, and when; nobody can change or delete what is written here.
CREATE TABLE audit (
  id      bigint      GENERATED ALWAYS AS IDENTITY CONSTRAINT audit_pk PRIMARY KEY,
  tenant  text        NOT NULL,
  at      timestamptz NOT NULL,
  actor   text        NOT NULL,
  action  text        NOT NULL,
  subject text        NOT NULL,  -- the id of what it was done to
  job_id  uuid,
  detail  jsonb       NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_of_tenant ON audit (tenant, at);

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['backfills', 'idempotency_keys', 'audit'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY worker ON %I TO job_api_worker USING (true)', name);
    EXECUTE format('CREATE POLICY tenant ON %I TO job_api_tenant USING (tenant = current_setting(''cdds.tenant'', true))', name);
  END LOOP;
END $$;

GRANT UPDATE ON jobs TO job_api_tenant;
GRANT INSERT ON runs TO job_api_tenant;
GRANT DELETE ON certificates TO job_api_tenant;
GRANT SELECT, INSERT ON backfills, idempotency_keys, audit TO job_api_tenant;
GRANT UPDATE (cancelled_at) ON backfills TO job_api_tenant;
GRANT SELECT, UPDATE ON backfills TO job_api_worker;
GRANT SELECT, DELETE ON idempotency_keys TO job_api_worker;
GRANT SELECT, INSERT ON audit TO job_api_worker;
