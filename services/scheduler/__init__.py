"""scheduler: decides that a run happens, and is the only one that does.

Owns       schedules (a copy of what jobs say) and the slot ledger
Consumes   job_api.jobs.v1     jobs as they are created and changed
Produces   scheduler.runs.v1   (through the outbox, in the transaction of the decision)
HTTP       health and metrics only

    job event ──► schedule with its next slot ──(database clock reaches it)──► slot `requested` + RunRequested
                                  ▲                                                     │
                                  └────────── next slot, computed from this slot ◄──────┘

A slot is (job, slot key); it is the primary key of the ledger and names the run (UUIDv5), so any number of replicas,
replays and redeliveries can only name the same run. The next slot is computed from the last slot, never from "now":
after an outage every slot that was missed is requested.

Failures
    dies before the commit  the schedule is still due; this or another replica claims it
    dies after the commit   slot, next slot and outbox row are one transaction; the relay publishes
    two replicas            FOR UPDATE SKIP LOCKED: each due schedule is claimed by one
    event twice or late     an older job version changes nothing; a slot that exists is not requested again
    clocks                  only the database's clock says what is due
"""
