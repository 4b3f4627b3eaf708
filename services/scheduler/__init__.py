"""scheduler: decides that a run happens, and is the only one that does.

Owns       schedules (a copy of what jobs say), backfills, and the ledger: one row per slot, with what became of it
Consumes   job_api.jobs.v1     jobs as they are created and changed, and what is asked of them
           exporter.runs.v1    how runs end
Produces   scheduler.runs.v1   (through the outbox, in the transaction of the decision)
HTTP       health and metrics only (docs/operate/metrics.md)
Rooms      metrics             how late it is

    due, or asked for ──► requested ──► open ──► succeeded | failed | cancelled
           │  ▲  │
           │  │  └──────► waiting ──► requested      held by the overlap policy or a backfill's parallel limit
           │  │              └──────► skipped        overlap, buffer_full, cancelled
           │  └── next slot, computed from the last slot, never from "now"
           └────────────► missed                     catchup_window, coalesced, suspended

A slot is (job, slot key); it is the primary key of the ledger and names the run (UUIDv5), so any number of replicas,
replays and redeliveries can only name the same run. Every step is the same: lock the job's schedule, read what of it
waits or runs, let `domain` decide, and write schedule, ledger and events in one transaction. To the scheduler a run is
open until its terminal event is applied: lag delays, it never overlaps.

Overlap    what is due while a run is open waits, is skipped, or makes the others end; runs asked for by hand wait
Catch-up   a slot acted on within a minute is on time; later ones are all requested, only the latest, or none
Edits      what was due before is decided as the job then was; the new schedule counts from when the edit was written
Suspended  nothing is due; at the end the slots that passed are requested as asked, or missed in one row
Backfills  a lane of their own: each runs so many slots at once, beside the schedule and without holding it up

Failures
    dies before the commit  the schedule is still due, the event comes again; this or another replica decides
    dies after the commit   schedule, ledger and outbox are one transaction; the relay publishes
    two replicas            FOR UPDATE SKIP LOCKED: each due schedule is claimed by one; consumers wait for the lock
    event twice or late     an older job version changes nothing; a slot that exists is not requested again
    a fault of ours         the schedule at fault is put off for five minutes, the others go on
    clocks                  only the database's clock says what is due; the loop sleeps until then
"""
