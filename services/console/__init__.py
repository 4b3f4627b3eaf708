"""console: one address for people and programs.

Owns       nothing
HTTP       /api/v1/… forwarded by prefix to the service that owns it; health of its own

    browser, curl ──► console ──► job_api    /jobs /runs /certificates
                             ├──► exporter   /files /sources /estimates
                             └──► history    /executions /artifacts /slots /coverage /statistics /audit /stream

Requests and answers pass through as streams, untouched: who may do what is decided by the service that answers. In
production an ingress can do the same.

Failures
    a service is away       503 problem `unavailable`; nothing is repeated, because the service may have acted
"""
