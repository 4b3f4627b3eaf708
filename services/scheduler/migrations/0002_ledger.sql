-- Overlap, catch-up, jitter, pauses, retries and backfills: a schedule remembers where it stands, and the ledger what
-- became of each slot and, for those that ran, of their run.
ALTER TABLE schedules NO FORCE ROW LEVEL SECURITY;  -- so that the owner's updates below see the rows
ALTER TABLE slots NO FORCE ROW LEVEL SECURITY;
ALTER TABLE outbox NO FORCE ROW LEVEL SECURITY;
ALTER TABLE schedules
  ADD active      boolean     NOT NULL DEFAULT true,
  ADD deleted     boolean     NOT NULL DEFAULT false,
  ADD due_at      timestamptz,                    -- next_slot_at and its jitter
  ADD failures    integer     NOT NULL DEFAULT 0, -- scheduled runs of this version that failed in a row
  ADD exported_to timestamptz,                    -- where the newest data of succeeded runs ends, backfills apart
  ADD stopped_at  timestamptz;                    -- since when it is suspended or paused
UPDATE schedules SET active = next_slot_at IS NOT NULL, due_at = next_slot_at;
ALTER TABLE schedules
  ALTER active DROP DEFAULT,
  ADD CONSTRAINT schedules_due CHECK ((due_at IS NULL) = (next_slot_at IS NULL)),
  ADD CONSTRAINT schedules_active CHECK (active OR next_slot_at IS NULL),
  ADD CONSTRAINT schedules_deleted CHECK (NOT (deleted AND active));
DROP INDEX schedules_due;
-- Store.request_due_runs, Store.next_due_in: an idle look costs the same however many schedules there are.
CREATE INDEX schedules_due_at ON schedules (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE backfills (
  backfill_id  uuid        CONSTRAINT backfills_pk PRIMARY KEY,  -- the command id
  job_id       uuid        NOT NULL,
  tenant       text        NOT NULL,
  max_parallel integer     NOT NULL CONSTRAINT backfills_parallel CHECK (max_parallel > 0),
  started_at   timestamptz NOT NULL
);

ALTER TABLE slots DROP CONSTRAINT slots_requested;
UPDATE slots SET run_id = gen_random_uuid() WHERE run_id IS NULL;  -- only requested ones were written so far
ALTER TABLE slots
  ALTER run_id SET NOT NULL,
  ADD reason        text,
  ADD count         integer NOT NULL DEFAULT 1,   -- how many slots a missed one stands for
  ADD job_version   integer NOT NULL DEFAULT 0,   -- of the job when the slot was decided
  ADD question      jsonb,                        -- of a run, or of one that waits and may not change any more
  ADD interval_from timestamptz,
  ADD interval_to   timestamptz,
  ADD retry_of      uuid,
  ADD backfill_id   uuid CONSTRAINT slots_backfill REFERENCES backfills,
  ADD run_state     text CONSTRAINT slots_run_state CHECK (run_state IN ('open', 'succeeded', 'failed', 'cancelled')),
  ADD cancelled_by  text;                         -- who ordered the open run to end
-- How earlier runs ended was not followed. What they were asked is known to the outbox: a retry asks it again, and a
-- backfill leaves it out.
UPDATE slots SET run_state = 'succeeded' WHERE outcome = 'requested';
UPDATE slots
SET job_version = (asked.value ->> 'job_version')::integer,
    question = asked.value -> 'question',
    interval_from = (asked.value #>> '{question,interval_from}')::timestamptz,
    interval_to = (asked.value #>> '{question,interval_to}')::timestamptz
FROM (SELECT value::jsonb FROM outbox WHERE type = 'cdds.RunRequested.v1') AS asked
WHERE slots.run_id = (asked.value ->> 'run_id')::uuid;
ALTER TABLE slots
  ADD CONSTRAINT slots_run CHECK ((outcome = 'requested') = (run_state IS NOT NULL)),
  ADD CONSTRAINT slots_reason CHECK ((outcome IN ('skipped', 'missed')) = (reason IS NOT NULL));
-- Store._held: what of a job still waits or runs.
CREATE INDEX slots_held ON slots (job_id, slot_at) WHERE outcome = 'waiting' OR run_state = 'open';
-- Store._entry_of: the slot of a run that ended, or shall be retried or cancelled.
CREATE UNIQUE INDEX slots_run_id ON slots (run_id);

-- Store._decided: the slots a schedule has had lately, however many it had before.
CREATE INDEX slots_of_schedule ON slots (job_id, slot_at) WHERE trigger = 'schedule';

ALTER TABLE outbox FORCE ROW LEVEL SECURITY;
ALTER TABLE schedules FORCE ROW LEVEL SECURITY;
ALTER TABLE slots FORCE ROW LEVEL SECURITY;
ALTER TABLE backfills ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY worker ON backfills TO scheduler_worker USING (true);
GRANT SELECT, INSERT ON backfills TO scheduler_worker;
