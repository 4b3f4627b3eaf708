"""job_api: every command on jobs, runs and certificates.

Owns       jobs, certificates, idempotency keys and the audit of all tenants; what it knows of runs and of a backfill's
           progress is a projection
Consumes   scheduler.runs.v1   next slots, slots that wait or were skipped, requested runs, completed and paused jobs
           exporter.runs.v1    how the runs go
Produces   job_api.jobs.v1, job_api.certificates.v1 (through the outbox, in the transaction of the change)
HTTP       /api/v1/jobs, /api/v1/runs, /api/v1/certificates

    recurring    submit ──► active ◄──(suspend, resume)──► suspended
                              └────(paused, resume)──────► paused (after failures)
    one-time     submit ──► waiting ◄──(suspend, resume)──► held
                    │          └──(its run was requested)────┴──► done
                    └──► done   when submitted to run immediately
    every one    delete ──► deleted, unless something of it is in progress

`domain/transitions.py` is the table of all of it; `docs/job-states.md` shows it.

A command on a run changes no job: it is an event to the scheduler, and the run it makes is known by its id, and in
progress, from the same transaction on. So what is decided next about the job, a delete above all, sees it.

Rooms that are packages here: `domain/`, `store/` and `api/`, one module a subject. `metrics` is how long certificates
are valid (docs/operate/metrics.md).

Failures
    PostgreSQL away         requests answer 503; consumers wait a minute, then the process exits and is restarted
    broker away             commands wait in the outbox; after a minute the process is restarted until it is back
    dies after a commit     the outbox still holds the event; the next relay publishes it
    request sent twice      with its Idempotency-Key, it is answered again and not done again
    two changes at once     the job's row is locked; the one that read an older version is answered 412
    event twice or late     the greater version, the newer attempt and the terminal state win, in any order
    unreadable record       goes to <topic>.dead with the reason, the next one is handled
"""
