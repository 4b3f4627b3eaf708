"""history: what happened, as queryable records; decides nothing.

Owns       projections only, rebuildable from the outboxes: executions, artifacts, the timeline of events
Consumes   everything
Produces   nothing
HTTP       /api/v1/executions, /api/v1/executions/{id}, /api/v1/artifacts

    batch of records ──► one transaction: new events into the timeline, then one upsert per row ──► Kafka offset

An execution is described by two owners: the scheduler's request (title, slot, question) and the exporter's progress
through the states. Each fills its own columns, so their order does not matter; among the exporter's events the greater
run version wins, and a terminal state is never left. Progress has no version: the greatest (attempt, sequence) is
shown, and never on a terminal row.

Failures
    dies before the commit  the batch comes again
    dies before the offset  the batch comes again and changes nothing: its events are in the timeline already
    unreadable record       goes to <topic>.dead with the reason; the rest of its batch is projected
    PostgreSQL away         waits a minute, then exits uncommitted and is restarted
"""
