"""What two or more services need in the same form; knows no service and holds no business rule.

`events` and `jobs` are the contracts, `sources` the operator's file; `database`, `outbox`, `messaging`, `http`,
`auth`, `observability`, `tracing` and `runtime` carry the patterns every service stands on.
"""
