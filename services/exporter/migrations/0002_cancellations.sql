-- Runs that shall end: ordered while they are running, or before they are known.
ALTER TABLE runs
  ADD COLUMN cancel_ordered_by text,  -- whose order the worker has to follow, or has ended the run
  ADD CONSTRAINT runs_cancel_ordered CHECK (
    CASE state WHEN 'queued' THEN cancel_ordered_by IS NULL WHEN 'cancelled' THEN cancel_ordered_by IS NOT NULL ELSE true END
  );

-- Orders that came before the request of their run; Store.queue_run follows them.
CREATE TABLE cancellations (
  run_id     uuid        CONSTRAINT cancellations_pk PRIMARY KEY,
  tenant     text        NOT NULL,
  actor      text        NOT NULL,
  ordered_at timestamptz NOT NULL
);
ALTER TABLE cancellations ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY worker ON cancellations TO exporter_worker USING (true);
GRANT SELECT, INSERT ON cancellations TO exporter_worker;
