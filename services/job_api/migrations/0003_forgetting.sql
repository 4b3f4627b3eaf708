-- What was over long ago is deleted (services/job_api/store/forgetting.py); its indexes follow.
GRANT DELETE ON runs, backfills, jobs, audit TO job_api_worker;
-- Whatever the program tries: the audit of the last 400 days stays.
CREATE POLICY aged ON audit AS RESTRICTIVE FOR DELETE TO job_api_worker USING (at < now() - interval '400 days');
