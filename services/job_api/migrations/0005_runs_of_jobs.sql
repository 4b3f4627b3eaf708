-- Store.forget_jobs asks runs_open only; an index of all runs of a job would tempt PostgreSQL elsewhere to read them all.
DROP INDEX runs_of_job;
