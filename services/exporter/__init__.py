"""exporter: answers requested runs with files, says how it went, and owns the files.

Owns       runs and their attempts (leases), artifacts and their bytes, JSON Schemas, each job's chain of manifests
Consumes   scheduler.runs.v1           requested runs, and orders to cancel them
           job_api.certificates.v1     whom to encrypt for
Produces   exporter.runs.v1            (through the outbox, in the transaction of the change; progress ticks directly)
HTTP       /api/v1/files/{artifact id}, /api/v1/files/signing-keys, /api/v1/sources, /api/v1/estimates
Rooms      pipeline/                   rows -> lines -> zip -> CMS -> object store, without SQL state or events;
                                       all access to sources
           metrics                     what is counted and measured (docs/operate/metrics.md)

    queued ──claim──► running ──► succeeded
     │▲                 │ │└────► failed        attempts spent, or trying again can't help
     │└──── retry ◄─────┘ │                     a failed or lost attempt that may be repeated
     └────── order ───────┴─────► cancelled     at once, or when the worker has stopped; never retried

A handler only writes the request down. Workers claim rows under a lease of 30 s, beat every 10 s by the database's
clock, and carry their attempt number in every write: who lost the lease changes nothing any more. An attempt reads
one snapshot, writes under `<run>/<attempt>/`, and its files become visible only in the fenced terminal transaction,
together with the manifest, its place in the job's chain, and the events.

A process has several slots; who is next is decided by lane, tenant and source (docs/decisions/0016-who-runs-next.md).

A cancellation is a column of the run that its worker looks at every second; then it stops its thread, ends the run and
removes what the attempt stored. A thread that hangs, as in a source that does not answer, is not waited for: it empties
its own prefix when it ends. Success and an order lock the run: whichever commits first wins. An order that comes
before its run is kept until the run comes. Whoever finds a run with an order and a dead worker cancels it instead of
trying again.

A part is available until its retention ends or an administrator deletes it, both in one column with its actor; from
then on it is gone for everybody. A janitor deletes its bytes within seconds and tells of it once. Manifests and JSON
Schemas stay. Once an hour one replica looks through the object store for bytes that belong to no living attempt.

Failures
    worker dies             the lease expires; the next claim is a new attempt with a new snapshot, from zero, and
                            removes what the dead attempt stored
    worker is frozen        its next beat is refused, it stops; its terminal write would be refused too
    process is stopped      it claims nothing more, its runs may end within CDDS_EXPORTER_GRACE; what has not ended
                            then goes back to the queue at once, and the stop does not count as an attempt
    PostgreSQL is away      what an attempt has to say is repeated for as long as a lease lasts, then the run is left
                            to it; the process gives up when it can't claim for CDDS_EXPORTER_OUTAGE_PATIENCE
    source or store away    the attempt fails, the next one follows after the backoff
    no valid certificate    the run fails and says so; never plaintext
    unknown field, no key to hash with, plaintext that the operator does not allow
                            the run fails and names the reason; it never answers another question instead
    request twice           the run exists; nothing changes
    janitor dies            what it had taken comes again after a minute; objects may be deleted twice, told of is once
    file deleted under its  the connection breaks off before the announced length
      download
"""
