-- Executions, files, slots, the timeline and statistics in monthly partitions, dropped as a whole when they are too old.
--
-- What was projected before is not copied: `cdds history rebuild` brings it back from the outboxes. Partitions are made
-- by PartitionStore.keep_partitions, ahead of time; there is no DEFAULT one, which would have to be searched for every
-- month that is made.
DROP TABLE events, executions, artifacts, artifact_deletions;

-- Everything that happened, as it came from the topics; nobody but the owner can change or delete it. A position is
-- given under a lock that is held until the commit, so whoever has seen one has seen all before it.
CREATE SEQUENCE positions;
CREATE TABLE events (
  occurred_at timestamptz NOT NULL,
  event_id    uuid        NOT NULL,
  position    bigint,                 -- null only in a rebuild, until it is swapped in
  tenant      text        NOT NULL COLLATE "C",
  type        text        NOT NULL,
  job_id      uuid,
  run_id      uuid,
  actor       text,
  body        json        NOT NULL,   -- json, not jsonb: it is passed on as it came, and may hold \u0000
  CONSTRAINT events_pk PRIMARY KEY (occurred_at, event_id)
) PARTITION BY RANGE (occurred_at);
-- Store.timeline
CREATE INDEX events_of_run ON events (run_id, occurred_at) WHERE run_id IS NOT NULL;
-- Feed: what came after a position
CREATE INDEX events_in_order ON events (tenant, position);
-- Store.artifacts_after
CREATE INDEX events_of_files ON events (tenant, position) WHERE type = 'ArtifactStored';
-- Store.audit
CREATE INDEX events_of_people ON events (tenant, occurred_at, event_id) WHERE actor IS NOT NULL;

-- Jobs as they were: every version that was told of, or that asked for a run.
CREATE TABLE job_versions (
  job_id       uuid    NOT NULL,
  version      integer NOT NULL,
  tenant       text    NOT NULL COLLATE "C",
  title        text    NOT NULL,
  title_folded text    NOT NULL COLLATE "C",
  labels       jsonb   NOT NULL DEFAULT '{}',
  settings     json,                  -- null until the job's own event is heard
  occurred_at  timestamptz NOT NULL,
  CONSTRAINT job_versions_pk PRIMARY KEY (job_id, version)
);
-- Store.list_executions by text or label
CREATE INDEX job_versions_of_tenant ON job_versions (tenant, job_id, version);

CREATE TABLE executions (
  requested_at     timestamptz NOT NULL,
  run_id           uuid        NOT NULL,
  tenant           text        NOT NULL COLLATE "C",
  job_id           uuid        NOT NULL,
  -- from the request; null until it is heard, and such rows are not shown
  job_version      integer,
  title            text,
  title_folded     text        COLLATE "C",
  source           text        COLLATE "C",
  type             text        COLLATE "C",
  trigger          text        COLLATE "C",
  slot_key         text,
  slot_at          timestamptz,
  interval_from    timestamptz,
  interval_to      timestamptz,
  question         json,
  retry_of         uuid,
  -- from the exporter: the greater version says the state, a terminal one is never left
  state            text        NOT NULL DEFAULT 'requested' COLLATE "C" CONSTRAINT executions_state
                   CHECK (state IN ('requested', 'queued', 'running', 'succeeded', 'failed', 'cancelled')),
  version          integer     NOT NULL DEFAULT 0,
  attempt          integer     NOT NULL DEFAULT 0,
  worker           text,
  worker_attempt   integer     NOT NULL DEFAULT 0,   -- the attempt that `worker` worked on
  started_at       timestamptz,                      -- of the first attempt
  finished_at      timestamptz,
  duration_seconds double precision GENERATED ALWAYS AS (extract(epoch FROM finished_at - started_at)) STORED,
  rows             bigint,
  bytes            bigint,
  parts            integer,
  snapshot         text,
  manifest_id      uuid,
  manifest_sha256  text,
  schema_id        uuid,
  reason           text,
  message          text,
  reason_version   integer     NOT NULL DEFAULT 0,   -- the version of the failure that `reason` is about
  cancelled_by     text,
  CONSTRAINT executions_pk PRIMARY KEY (requested_at, run_id),
  CONSTRAINT executions_finished CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL))
) PARTITION BY RANGE (requested_at);
-- Store.execution
CREATE INDEX executions_run ON executions (run_id);
-- Store.list_executions: one index for each order, and for the filters that leave little
CREATE INDEX executions_requested ON executions (tenant, requested_at, run_id);
CREATE INDEX executions_job ON executions (tenant, job_id, requested_at, run_id);
CREATE INDEX executions_title ON executions (tenant, title_folded, requested_at, run_id);
CREATE INDEX executions_source ON executions (tenant, source, requested_at, run_id);
CREATE INDEX executions_type ON executions (tenant, type, requested_at, run_id);
CREATE INDEX executions_trigger ON executions (tenant, trigger, requested_at, run_id);
CREATE INDEX executions_state ON executions (tenant, state, requested_at, run_id);
CREATE INDEX executions_started ON executions (tenant, started_at, requested_at, run_id);
CREATE INDEX executions_finished ON executions (tenant, finished_at, requested_at, run_id);
CREATE INDEX executions_duration ON executions (tenant, duration_seconds, requested_at, run_id);
CREATE INDEX executions_rows ON executions (tenant, rows, requested_at, run_id);
CREATE INDEX executions_bytes ON executions (tenant, bytes, requested_at, run_id);

-- How far running executions are: one row each, often rewritten, so apart from their many indexes. Ticks may be lost.
CREATE UNLOGGED TABLE progress (
  run_id            uuid        CONSTRAINT progress_pk PRIMARY KEY,
  requested_at      timestamptz NOT NULL,
  tenant            text        NOT NULL COLLATE "C",
  job_id            uuid        NOT NULL,
  attempt           integer     NOT NULL,
  sequence          integer     NOT NULL,
  rows              bigint      NOT NULL,
  bytes             bigint      NOT NULL,
  total             bigint,
  percent           double precision,
  remaining_seconds double precision,
  position          bigint      NOT NULL,  -- grows with every tick
  occurred_at       timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Files; a deletion may be heard of before the file is, and such rows are not shown.
CREATE TABLE artifacts (
  requested_at    timestamptz NOT NULL,   -- of its run, with which it is dropped
  artifact_id     uuid        NOT NULL,
  tenant          text        NOT NULL COLLATE "C",
  run_id          uuid        NOT NULL,
  job_id          uuid,
  title           text,
  title_folded    text        COLLATE "C",
  source          text        COLLATE "C",
  type            text        COLLATE "C",
  number          integer,
  entity          text,
  file_name       text,
  size_bytes      bigint,
  rows            bigint,
  sha256          text,
  stored_at       timestamptz,
  expires_at      timestamptz,
  deleted_at      timestamptz,
  deletion_reason text,
  deleted_by      text,
  CONSTRAINT artifacts_pk PRIMARY KEY (requested_at, artifact_id)
) PARTITION BY RANGE (requested_at);
-- Store.execution
CREATE INDEX artifacts_run ON artifacts (run_id, number);
-- Store.list_artifacts: one index for each order, and for the filters that leave little
CREATE INDEX artifacts_stored ON artifacts (tenant, stored_at, artifact_id);
CREATE INDEX artifacts_job ON artifacts (tenant, job_id, stored_at, artifact_id);
CREATE INDEX artifacts_expires ON artifacts (tenant, expires_at, artifact_id);
CREATE INDEX artifacts_title ON artifacts (tenant, title_folded, stored_at, artifact_id);
CREATE INDEX artifacts_source ON artifacts (tenant, source, stored_at, artifact_id);
CREATE INDEX artifacts_type ON artifacts (tenant, type, stored_at, artifact_id);
CREATE INDEX artifacts_size ON artifacts (tenant, size_bytes, stored_at, artifact_id);
CREATE INDEX artifacts_rows ON artifacts (tenant, rows, stored_at, artifact_id);

-- The slots that became no run; those that did are executions.
CREATE TABLE slots_not_run (
  decided_at  timestamptz NOT NULL,
  job_id      uuid        NOT NULL,
  slot_key    text        NOT NULL,
  tenant      text        NOT NULL COLLATE "C",
  job_version integer     NOT NULL,
  slot_at     timestamptz NOT NULL,
  trigger     text        NOT NULL COLLATE "C",
  outcome     text        NOT NULL COLLATE "C" CONSTRAINT slots_not_run_outcome CHECK (outcome IN ('skipped', 'missed')),
  reason      text        NOT NULL,
  count       integer     NOT NULL DEFAULT 1,
  CONSTRAINT slots_not_run_pk PRIMARY KEY (decided_at, job_id, slot_key)
) PARTITION BY RANGE (decided_at);
-- Store.list_slots
CREATE INDEX slots_not_run_decided ON slots_not_run (tenant, decided_at, job_id);
CREATE INDEX slots_not_run_job ON slots_not_run (tenant, job_id, decided_at);

-- The slots that wait for their turn; whether one was decided since is looked up, and such rows are removed in time.
CREATE TABLE slots_waiting (
  job_id      uuid        NOT NULL,
  slot_key    text        NOT NULL,
  tenant      text        NOT NULL COLLATE "C",
  job_version integer     NOT NULL,
  slot_at     timestamptz NOT NULL,
  trigger     text        NOT NULL COLLATE "C",
  waiting_at  timestamptz NOT NULL,
  CONSTRAINT slots_waiting_pk PRIMARY KEY (job_id, slot_key)
);
-- Store.list_slots
CREATE INDEX slots_waiting_since ON slots_waiting (tenant, waiting_at, job_id);

-- Runs by the UTC day on which they ended; each is counted once, when both its request and its end are known.
CREATE TABLE statistics (
  day              date             NOT NULL,
  tenant           text             NOT NULL COLLATE "C",
  source           text             NOT NULL COLLATE "C",
  type             text             NOT NULL COLLATE "C",
  succeeded        bigint           NOT NULL DEFAULT 0,
  failed           bigint           NOT NULL DEFAULT 0,
  cancelled        bigint           NOT NULL DEFAULT 0,
  rows             bigint           NOT NULL DEFAULT 0,
  bytes            bigint           NOT NULL DEFAULT 0,
  -- of the runs that succeeded; exact, so that the order of adding makes no difference
  duration_seconds numeric          NOT NULL DEFAULT 0,
  longest_seconds  numeric          NOT NULL DEFAULT 0,
  CONSTRAINT statistics_pk PRIMARY KEY (day, tenant, source, type)
) PARTITION BY RANGE (day);
-- Store.statistics
CREATE INDEX statistics_of_tenant ON statistics (tenant, day);

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['events', 'job_versions', 'executions', 'progress', 'artifacts', 'slots_not_run',
                              'slots_waiting', 'statistics'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY worker ON %I TO history_worker USING (true)', name);
    EXECUTE format('CREATE POLICY tenant ON %I TO history_tenant USING (tenant = current_setting(''cdds.tenant'', true))', name);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %I TO history_worker', name);
    EXECUTE format('GRANT SELECT ON %I TO history_tenant', name);
  END LOOP;
END $$;
REVOKE UPDATE ON events FROM history_worker;
GRANT DELETE ON progress, slots_waiting, job_versions, statistics TO history_worker;
GRANT USAGE ON SEQUENCE positions TO history_worker;
