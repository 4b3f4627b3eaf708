-- The last version of a deleted job is removed with the month it is from, by PartitionStore.tidy.
ALTER TABLE job_versions ADD COLUMN deleted boolean NOT NULL DEFAULT false;
