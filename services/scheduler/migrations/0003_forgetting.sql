-- What was over long ago is deleted (services/scheduler/store/forgetting.py); its indexes follow.
ALTER TABLE schedules NO FORCE ROW LEVEL SECURITY;  -- so that the owner's update below sees the rows
ALTER TABLE schedules ADD deleted_at timestamptz;   -- since when it is the tombstone of a deleted job
UPDATE schedules SET deleted_at = now() WHERE deleted;
ALTER TABLE schedules FORCE ROW LEVEL SECURITY;

GRANT DELETE ON slots, backfills, schedules TO scheduler_worker;
