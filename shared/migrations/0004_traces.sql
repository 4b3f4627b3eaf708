-- The trace that an event was committed in, as W3C writes it; null while traces are off.
ALTER TABLE outbox ADD COLUMN traceparent text;
