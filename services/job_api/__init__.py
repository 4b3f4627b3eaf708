"""job_api: every command on jobs, runs and certificates.

Owns       jobs and certificates of all tenants; what it knows of runs is a projection.
Consumes   scheduler.runs.v1   next slots, requested runs, completed one-time jobs
           exporter.runs.v1    how the runs go
Produces   job_api.jobs.v1, job_api.certificates.v1 (through the outbox, in the transaction of the change)
HTTP       /api/v1/jobs, /api/v1/certificates

    submit ──► active ──(one-time job requested)──► suspended
       └─────► suspended                             a one-time job submitted to run immediately

Failures
    PostgreSQL away         requests answer 503; consumers wait a minute, then the process exits and is restarted
    broker away             commands wait in the outbox; after a minute the process is restarted until it is back
    dies after a commit     the outbox still holds the event; the next relay publishes it
    event twice or late     the greater version, the newer attempt and the terminal state win
    unreadable record       goes to <topic>.dead with the reason, the next one is handled
"""
