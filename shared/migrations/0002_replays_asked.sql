-- Whoever works here may ask for a replay; a command has no more rights than the service.
DO $$
BEGIN
  EXECUTE format('GRANT INSERT ON replays TO %I', current_schema() || '_worker');
END $$;
