-- Rebuilds of these tables from the outboxes; the one table here that a rebuild keeps.
CREATE TABLE rebuilds (
  rebuild_id  uuid        CONSTRAINT rebuilds_pk PRIMARY KEY,
  asked_at    timestamptz NOT NULL DEFAULT now(),
  checking    boolean     NOT NULL,             -- compares only; nothing is swapped in
  state       text        NOT NULL DEFAULT 'asked' CONSTRAINT rebuilds_state
              CHECK (state IN ('asked', 'copying', 'finished', 'failed')),
  finished_at timestamptz,
  progress    json        NOT NULL DEFAULT '{}',
  report      json,
  reason      text,
  CONSTRAINT rebuilds_finished CHECK ((state IN ('finished', 'failed')) = (finished_at IS NOT NULL))
);
CREATE UNIQUE INDEX rebuilds_one_at_a_time ON rebuilds ((true)) WHERE state IN ('asked', 'copying');
GRANT SELECT, UPDATE ON rebuilds TO history_worker;
