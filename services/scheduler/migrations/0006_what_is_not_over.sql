-- Whatever the program tries: slots that wait, runs in progress, jobs that exist and events that are not yet sent stay.
CREATE POLICY decided ON slots AS RESTRICTIVE FOR DELETE TO scheduler_worker
  USING (outcome <> 'waiting' AND run_state IS DISTINCT FROM 'open');
CREATE POLICY gone ON schedules AS RESTRICTIVE FOR DELETE TO scheduler_worker USING (deleted);
CREATE POLICY sent ON outbox AS RESTRICTIVE FOR DELETE TO scheduler_worker USING (published_at IS NOT NULL);
