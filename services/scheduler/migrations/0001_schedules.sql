-- What the jobs say about when, and the ledger of what became of every slot.
CREATE TABLE schedules (
  job_id       uuid        CONSTRAINT schedules_pk PRIMARY KEY,
  tenant       text        NOT NULL,
  job_version  integer     NOT NULL,
  settings     jsonb       NOT NULL,
  next_slot_at timestamptz            -- null: nothing is due any more, or the job is not active
);
-- Store.claim_due_slots: an idle look costs the same however many schedules there are.
CREATE INDEX schedules_due ON schedules (next_slot_at) WHERE next_slot_at IS NOT NULL;

CREATE TABLE slots (
  job_id     uuid        NOT NULL,
  slot_key   text        NOT NULL,
  tenant     text        NOT NULL,
  slot_at    timestamptz NOT NULL,
  trigger    text        NOT NULL CONSTRAINT slots_trigger
             CHECK (trigger IN ('schedule', 'immediate', 'manual', 'retry', 'backfill')),
  outcome    text        NOT NULL CONSTRAINT slots_outcome
             CHECK (outcome IN ('waiting', 'requested', 'skipped', 'missed')),
  run_id     uuid,
  decided_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT slots_pk PRIMARY KEY (job_id, slot_key),
  CONSTRAINT slots_requested CHECK ((outcome = 'requested') = (run_id IS NOT NULL))
);

ALTER TABLE schedules ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE slots ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY worker ON schedules TO scheduler_worker USING (true);
CREATE POLICY worker ON slots TO scheduler_worker USING (true);
CREATE POLICY worker ON outbox TO scheduler_worker USING (true);
GRANT SELECT, INSERT, UPDATE ON schedules, slots, outbox TO scheduler_worker;
