-- Store.forget_backfills asks slots_held only. An index of all slots of a backfill would tempt PostgreSQL to read them all
-- whenever one run of a large backfill ends, and without it the check of the reference would read the whole ledger.
ALTER TABLE slots DROP CONSTRAINT slots_backfill;
DROP INDEX slots_of_backfill;
