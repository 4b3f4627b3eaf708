-- The trace that a run was requested in, for its attempts; null while traces are off.
ALTER TABLE runs ADD COLUMN traceparent text;
