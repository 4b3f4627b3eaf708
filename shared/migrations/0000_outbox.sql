-- Events that were committed together with the state they tell of; `shared.outbox` publishes them in order per key.
-- Rows are kept after publication, so a lost broker can be refilled and history rebuilt.
CREATE TABLE outbox (
  id           bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT outbox_pk PRIMARY KEY,
  event_id     uuid        NOT NULL,
  topic        text        NOT NULL,
  key          text        NOT NULL,
  type         text        NOT NULL,
  tenant       text        NOT NULL,
  occurred_at  timestamptz NOT NULL,
  value        text        NOT NULL,
  published_at timestamptz
);
-- Relay.publish_pending: the few rows that are not yet on Kafka, in order.
CREATE INDEX outbox_unpublished ON outbox (id) WHERE published_at IS NULL;
ALTER TABLE outbox ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
