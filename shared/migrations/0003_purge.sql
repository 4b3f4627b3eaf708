-- Events and replays that are too old are deleted (shared/purge.py).
DO $$
BEGIN
  EXECUTE format('GRANT DELETE ON outbox, replays TO %I', current_schema() || '_worker');
END $$;
