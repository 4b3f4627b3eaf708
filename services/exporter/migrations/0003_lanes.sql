-- Who runs next: by lane, tenant and source, and by whose turn it is (docs/decisions/0016-who-runs-next.md).
ALTER TABLE runs
  ADD COLUMN lane   text CONSTRAINT runs_lane CHECK (lane IN ('manual', 'scheduled', 'backfill')),
  ADD COLUMN source text;
UPDATE runs SET
  lane = CASE request->'slot'->>'trigger'
           WHEN 'schedule' THEN 'scheduled' WHEN 'immediate' THEN 'scheduled' WHEN 'backfill' THEN 'backfill'
           ELSE 'manual'
         END,
  source = request->'question'->>'source';
ALTER TABLE runs ALTER COLUMN lane SET NOT NULL, ALTER COLUMN source SET NOT NULL;

DROP INDEX runs_open;
-- Store.claim_run: the first due run of each queue by one look each, past any number that still wait.
CREATE INDEX runs_queued ON runs (lane, tenant, source, queued_at, not_before) WHERE state = 'queued';
-- Store.claim_run: the few runs that are under way, counted, and whose lease is over; beats don't touch it.
CREATE INDEX runs_running ON runs (source, lane, tenant) WHERE state = 'running';

-- When a run of such a kind was last started, so that whoever has waited longest is next.
CREATE TABLE turns (
  lane     text        NOT NULL,
  tenant   text        NOT NULL,
  source   text        NOT NULL,
  taken_at timestamptz NOT NULL,
  CONSTRAINT turns_pk PRIMARY KEY (lane, tenant, source)
);
ALTER TABLE turns ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY worker ON turns TO exporter_worker USING (true);
GRANT SELECT, INSERT, UPDATE ON turns TO exporter_worker;
