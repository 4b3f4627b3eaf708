-- What a run keeps for good, and how the bytes of its files come to their end.

-- A run's manifest and its JSON Schema: small, outliving the parts, and kept here, so that success is one transaction.
ALTER TABLE manifests RENAME TO documents;
ALTER TABLE documents RENAME COLUMN manifest_id TO document_id;
ALTER TABLE documents RENAME CONSTRAINT manifests_pk TO documents_pk;
ALTER TABLE documents RENAME CONSTRAINT manifests_run TO documents_run;
ALTER TABLE documents
  ADD COLUMN kind text NOT NULL DEFAULT 'manifest'
    CONSTRAINT documents_kind CHECK (kind IN ('manifest', 'schema')),
  ADD CONSTRAINT documents_once UNIQUE (run_id, kind);
ALTER TABLE documents ALTER COLUMN kind DROP DEFAULT;  -- it was for the rows that are there

ALTER TABLE artifacts
  ADD COLUMN deletion_reason text CONSTRAINT artifacts_deletion_reason CHECK (deletion_reason IN ('expired', 'requested')),
  ADD COLUMN deletion_actor  text,
  ADD COLUMN deletion_due_at timestamptz,  -- when a janitor shall take it: later while one has it, or after a failure
  ADD COLUMN deleted_at      timestamptz,
  ADD CONSTRAINT artifacts_deletion CHECK (
    (state = 'available') = (deletion_reason IS NULL)
    AND (state = 'available') = (deletion_actor IS NULL)
    AND (state = 'available') = (deletion_due_at IS NULL)
  ),
  ADD CONSTRAINT artifacts_deleted CHECK ((state = 'deleted') = (deleted_at IS NOT NULL));
-- Store.take_deletions: what has expired, and what is left of what shall go.
CREATE INDEX artifacts_expiring ON artifacts (expires_at) WHERE state = 'available';
CREATE INDEX artifacts_deleting ON artifacts (deletion_due_at) WHERE state = 'deleting';
-- Store.order_deletion: the edge writes down what shall go; its policy keeps it to its own tenant.
GRANT UPDATE (state, deletion_reason, deletion_actor, deletion_due_at) ON artifacts TO exporter_tenant;

-- When the object store is looked through for bytes that belong to nobody: one row, whatever the number of replicas.
CREATE TABLE sweeps (
  single boolean     NOT NULL DEFAULT true CONSTRAINT sweeps_pk PRIMARY KEY CONSTRAINT sweeps_single CHECK (single),
  due_at timestamptz NOT NULL
);
INSERT INTO sweeps (due_at) VALUES (now());
ALTER TABLE sweeps ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY worker ON sweeps TO exporter_worker USING (true);
GRANT SELECT, UPDATE ON sweeps TO exporter_worker;
