-- What a rebuild of history asked for: `shared.replay` copies the outbox to topics beside the live ones.
CREATE TABLE replays (
  replay_id uuid        CONSTRAINT replays_pk PRIMARY KEY,
  asked_at  timestamptz NOT NULL DEFAULT now(),
  copied_at timestamptz,                      -- null until all is copied, the end marks included
  events    bigint      NOT NULL DEFAULT 0    -- how many were copied so far
);
DO $$
BEGIN
  EXECUTE format('GRANT SELECT, UPDATE ON replays TO %I', current_schema() || '_worker');
END $$;
