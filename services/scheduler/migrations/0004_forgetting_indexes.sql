-- concurrently

-- Store.forget_slots: by age; a slot comes in when it is decided and its run has ended.
CREATE INDEX slots_over ON slots (decided_at) WHERE outcome <> 'waiting' AND run_state IS DISTINCT FROM 'open';
-- Store.forget_backfills, and the check of the reference.
CREATE INDEX slots_of_backfill ON slots (backfill_id) WHERE backfill_id IS NOT NULL;
-- Store.forget_schedules: the tombstones, and whether a backfill is left.
CREATE INDEX schedules_deleted_at ON schedules (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX backfills_of_job ON backfills (job_id);
