"""history: what happened, as queryable records; decides nothing.

Owns       projections only, rebuildable from the outboxes: executions, files, slots, the timeline of events, statistics
Consumes   everything
Produces   nothing
HTTP       /api/v1/executions, /artifacts, /slots, /coverage, /statistics, /audit, /stream

    batch of records ──► one transaction: what it says about each run and file, merged into the rows; the timeline;
                         the runs that are complete now, counted ──► Kafka offset

An execution is described by two owners: the scheduler's request (title, slot, question) and the exporter's progress
through the states. Each fills its own columns, so their order does not matter; among the exporter's events the greater
run version wins, and a terminal state is never left. Progress has no version: the greatest (attempt, sequence) is
shown, and never on a terminal row. The rules are in `domain/facts.py` for a batch and in `store/upserts.py` for a row.

Everything is kept in monthly partitions, by when its run was requested, and dropped as a whole when it is too old.
What a reader continues from later is the position of an event: given under a lock that is held until the commit.
One room more than other services have: `feed.py`, the hub between the store and everybody who reads the stream.

Failures
    dies before the commit  the batch comes again
    dies before the offset  the batch comes again and changes nothing: merging is idempotent, and only events that are
                            new to the timeline make a run count
    unreadable record       goes to <topic>.dead with the reason; the rest of its batch is projected
    PostgreSQL away         waits a minute, then exits uncommitted and is restarted
    stream read too slowly  the reader is dropped, and resumes by the id of the last event it got
    tables lost or wrong    `cdds history rebuild` projects the outboxes anew beside the living, and swaps
"""
