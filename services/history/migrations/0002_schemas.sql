-- Where the JSON Schema of a run is, and what the rows of an artifact are.
ALTER TABLE executions ADD COLUMN schema_id uuid;
ALTER TABLE artifacts ADD COLUMN entity text;
