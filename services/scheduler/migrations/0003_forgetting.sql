-- What was over long ago is deleted (services/scheduler/store/forgetting.py).

-- Store.forget_slots: by age; a slot comes in when it is decided and its run has ended.
CREATE INDEX slots_over ON slots (decided_at) WHERE outcome <> 'waiting' AND run_state IS DISTINCT FROM 'open';
-- Store.forget_backfills, and the check of the reference.
CREATE INDEX slots_of_backfill ON slots (backfill_id) WHERE backfill_id IS NOT NULL;
-- Store.forget_schedules: the tombstones of deleted jobs.
ALTER TABLE schedules NO FORCE ROW LEVEL SECURITY;  -- so that the owner's update below sees the rows
ALTER TABLE schedules ADD deleted_at timestamptz;
UPDATE schedules SET deleted_at = now() WHERE deleted;
ALTER TABLE schedules FORCE ROW LEVEL SECURITY;
CREATE INDEX schedules_deleted_at ON schedules (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX backfills_of_job ON backfills (job_id);

GRANT DELETE ON slots, backfills, schedules TO scheduler_worker;
